"""The imagined rollout: one native call on the CPU, a fixed sequence of launches on CUDA."""

import torch
from torch import Tensor

from hdfast.ops import bf16, checks, imagine_steps, library, reference
from hdfast.ops.execution import usable
from hdfast.ops.state import Parameters
from hdfast.ops.state_mm import register_state_mm

OPS = ("imagine", "state_mm_fwd", "state_mm_bwd", "mm")
PUBLIC = ("imagine",)


def imagine(deter: Tensor, index: Tensor, u: Tensor, noise: Tensor, params: Parameters, actor: list[Tensor], *,
            classes: int, mix: float, groups: tuple[int, ...] | None = None,
            keep_prior: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """As reference.imagine, for float32; on the CPU the features are None.

    If the kernels have bfloat16 shadows, the operands of all products and the features are bfloat16.
    """
    if groups is not None:
        return reference.imagine(deter, index, u, noise, params, actor, classes=classes, mix=mix, groups=groups,
                                 keep_prior=keep_prior)
    checks.dtype("imagine", torch.float32, deter=deter, u=u, noise=noise)
    checks.dtype("imagine", torch.int64, index=index)
    copies = bf16.shadows([*params.kernels, *actor[:-2:3], actor[-2]])
    inputs = (*(x.detach().contiguous() for x in (deter, index, u, noise)), *(
        [p.detach().contiguous() for p in group] for group in (params, actor)), classes, mix, keep_prior)
    if usable(deter):
        return *torch.ops.hdfast.imagine.default(*inputs, bool(copies)), None
    return torch.ops.hdfast.imagine_steps.default(*inputs, bool(copies), copies)


def register(namespace: str) -> None:
    """Shapes for tracing and derivatives, for the raw ops of one library."""
    ops = getattr(torch.ops, namespace)

    def fake_imagine(deter, index, u, u_action, params, actor, classes, mix, keep_prior, half=False):
        steps, rows, stoch = u.shape
        prior = u.new_empty(steps, rows, stoch, classes) if keep_prior else u.new_empty(0)
        pre = u.new_empty(len(actor) // 3, *u_action.shape, Parameters(*params).units)
        return (deter.new_empty(steps + 1, *deter.shape), index.new_empty(steps + 1, *index.shape), prior,
                torch.empty_like(u_action, dtype=torch.int64), pre)

    def mm_backward(ctx, dy):
        a, b = ctx.saved_tensors
        return (ops.mm.default(dy, b.t()) if ctx.needs_input_grad[0] else None,
                ops.mm.default(a.t(), dy) if ctx.needs_input_grad[1] else None)

    library.register_fake(f"{namespace}::imagine", fake_imagine)
    library.register_fake(
        f"{namespace}::state_mm_fwd",
        lambda deter, stoch, index, kernel, classes: deter.new_empty(len(deter), kernel.shape[1]))
    register_state_mm(namespace, "state_mm")
    library.register_fake(f"{namespace}::mm", lambda a, b: a.new_empty(a.shape[0], b.shape[1]))
    torch.library.register_autograd(f"{namespace}::mm", mm_backward,
                                    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))


library.define("imagine_steps",
               "(Tensor deter, Tensor index, Tensor u, Tensor u_action, Tensor[] params, Tensor[] actor, int classes, "
               "float mix, bool keep_prior, bool half, Tensor[] copies) -> (Tensor deter, Tensor index, Tensor prior, "
               "Tensor action, Tensor pre, Tensor feat)", imagine_steps.rollout)
