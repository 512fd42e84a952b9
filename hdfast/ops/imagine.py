"""The imagined rollout: under one categorical one native call on the CPU, else a fixed sequence of launches."""

import torch
from torch import Tensor

from hdfast.ops import bf16, checks, imagine_grad, imagine_steps, library
from hdfast.ops.execution import usable
from hdfast.ops.state import Parameters
from hdfast.ops.state_mm import register_state_mm

OPS = ("imagine", "state_mm_fwd", "state_mm_bwd", "mm")
PUBLIC = ("imagine", "imagine_states")


def imagine(deter: Tensor, index: Tensor, u: Tensor, noise: Tensor, params: Parameters, actor: list[Tensor], *,
            classes: int, mix: float, groups: tuple[int, ...] | None = None,
            keep_prior: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """As reference.imagine, for float32; on the CPU the features are None.

    If the kernels have bfloat16 shadows, the operands of all products and the features are bfloat16.
    """
    checks.dtype("imagine", torch.float32, deter=deter, u=u, noise=noise)
    checks.dtype("imagine", torch.int64, index=index)
    if groups is not None:
        actions = len(params.img_in) - params.latent
        if groups and sum(groups) != actions:
            raise ValueError(f"imagine: groups must add up to {actions}, the actions of params, got {tuple(groups)}; "
                             f"give the classes of each")
        checks.shape("imagine", (*noise.shape[:2], len(groups) or actions), "(H or H + 1, N, groups or actions)",
                     noise=noise)
    copies = bf16.shadows([*params.kernels, *imagine_steps.kernels_of(actor, groups)])
    inputs = (*(x.detach().contiguous() for x in (deter, index, u, noise)), *(
        [p.detach().contiguous() for p in group] for group in (params, actor)), classes, mix, keep_prior)
    if usable(deter) and groups is None:
        return *torch.ops.hdfast.imagine.default(*inputs, bool(copies)), None
    *out, feat = torch.ops.hdfast.imagine_steps.default(*inputs, bool(copies), copies, groups)
    return *out, None if usable(deter) else feat


def imagine_states(action: Tensor, deter: Tensor, index: Tensor, params: Parameters, *, classes: int,
                   mix: float) -> tuple[Tensor, Tensor]:
    """As reference.imagine_states, for float32.

    If the kernels have bfloat16 shadows, the operands of all products of the backward pass are bfloat16.
    """
    checks.dtype("imagine_states", torch.float32, action=action, deter=deter)
    checks.dtype("imagine_states", torch.int64, index=index)
    if action.ndim != 3:
        raise ValueError(f"imagine_states: action must have shape (H, N, A), got {tuple(action.shape)}; reshape it")
    horizon, rows, _ = action.shape
    checks.shape("imagine_states", (horizon, rows, len(params.img_in) - params.latent), "(H, N, A)", action=action)
    checks.shape("imagine_states", (horizon + 1, rows, params.deter), "(H+1, N, D)", deter=deter)
    checks.shape("imagine_states", (horizon + 1, rows, params.latent // classes), "(H+1, N, S)", index=index)
    checks.devices("imagine_states", action=action, deter=deter, index=index)
    copies = bf16.shadows(params.kernels)
    return torch.ops.hdfast.imagine_states.default(
        action.contiguous(), deter.detach().contiguous(), index.contiguous(), [p.detach().contiguous() for p in params],
        classes, mix, bool(copies), copies)


def register(namespace: str) -> None:
    """Shapes for tracing and derivatives, for the raw ops of one library."""
    ops = library.raw(namespace)

    def fake_imagine(deter, index, u, u_action, params, actor, classes, mix, keep_prior, half=False):
        steps, rows, stoch = u.shape
        prior = u.new_empty(steps, rows, stoch, classes) if keep_prior else u.new_empty(0)
        pre = u.new_empty(len(actor) // 3, *u_action.shape, Parameters(*params).units)
        return (deter.new_empty(steps + 1, *deter.shape), index.new_empty(steps + 1, *index.shape), prior,
                torch.empty_like(u_action, dtype=torch.int64), pre)

    def mm_backward(ctx, dy):
        a, b = ctx.saved_tensors
        return (ops["mm"](dy, b.t()) if ctx.needs_input_grad[0] else None,
                ops["mm"](a.t(), dy) if ctx.needs_input_grad[1] else None)

    library.register_fake(f"{namespace}::imagine", fake_imagine)
    library.register_fake(
        f"{namespace}::state_mm_fwd",
        lambda deter, stoch, index, kernel, classes: deter.new_empty(len(deter), kernel.shape[1]))
    register_state_mm(namespace, "state_mm")
    library.register_fake(f"{namespace}::mm", lambda a, b: a.new_empty(a.shape[0], b.shape[1]))
    library.register_derivative(namespace, "mm", mm_backward,
                                lambda ctx, inputs, output: ctx.save_for_backward(*inputs))


library.define("imagine_steps",
               "(Tensor deter, Tensor index, Tensor u, Tensor noise, Tensor[] params, Tensor[] actor, int classes, "
               "float mix, bool keep_prior, bool half, Tensor[] copies, int[]? groups=None) -> (Tensor deter, Tensor "
               "index, Tensor prior, Tensor action, Tensor pre, Tensor feat)", imagine_steps.rollout)
library.define("imagine_states",
               "(Tensor action, Tensor deter, Tensor index, Tensor[] params, int classes, float mix, bool half, "
               "Tensor[] copies) -> (Tensor deter, Tensor stoch)", imagine_grad.forward)
library.define("imagine_states_bwd",
               "(Tensor? ddeter, Tensor? dstoch, Tensor action, Tensor deter, Tensor index, Tensor[] params, int "
               "classes, float mix, bool half, Tensor[] copies) -> Tensor", imagine_grad.backward)
imagine_grad.register()
