"""The imagined rollout: one native call on the CPU, a fixed sequence of launches on CUDA."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hdfast.ops import checks, imagine_steps, library
from hdfast.ops.execution import usable
from hdfast.ops.observe_scan import PARAMETERS
from hdfast.ops.state_mm import register_state_mm

OPS = ("imagine", "state_mm_fwd", "state_mm_bwd", "mm")
PUBLIC = ()


def imagine(deter: Tensor, index: Tensor, u: Tensor, u_action: Tensor, params: list[Tensor], actor: list[Tensor], *,
            classes: int, mix: float, keep_prior: bool = True, half: bool = False,
            copies: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Roll the dynamics forward under the actor, without gradients.

    Starts deter (N, D) and index (N, S); u (H, N, S) and u_action (H or H + 1, N) uniforms; params as
    observe_scan.PARAMETERS lists them; actor: kernel, scale, bias of each hidden layer, then kernel and bias ->
    deter (H+1, N, D), index (H+1, N, S), prior log-probabilities (H, N, S, K) (empty without keep_prior), action like
    u_action, the inputs of the actor's LayerNorms (layers, H or H + 1, N, U), and the features (H+1, N, D + S*K) where
    the execution makes them, else None. With `half` the operands of all products are bfloat16, and so are the features;
    `copies` are then the kernels of params and actor in bfloat16, in their order, where they exist already.
    """
    if len(params) != len(PARAMETERS):
        raise ValueError(f"imagine: params must be the {len(PARAMETERS)} tensors of PARAMETERS, got {len(params)}")
    for name, x in (("deter", deter), ("u", u), ("u_action", u_action)):
        checks.dtype("imagine", name, x, torch.float32)
    checks.dtype("imagine", "index", index, torch.int64)
    inputs = (*(x.detach().contiguous() for x in (deter, index, u, u_action)), *(
        [p.detach().contiguous() for p in group] for group in (params, actor)), classes, mix, keep_prior)
    if usable(deter):
        return *torch.ops.hdfast.imagine.default(*inputs, half), None
    return torch.ops.hdfast.imagine_steps.default(*inputs, half, list(copies))


def register(namespace: str) -> None:
    """Shapes for tracing and derivatives, for the raw ops of one library."""
    ops = getattr(torch.ops, namespace)

    def fake_imagine(deter, index, u, u_action, params, actor, classes, mix, keep_prior, half=False):
        steps, rows, stoch = u.shape
        prior = u.new_empty(steps, rows, stoch, classes) if keep_prior else u.new_empty(0)
        pre = u.new_empty(len(actor) // 3, *u_action.shape, params[7].shape[1])
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


def define_steps() -> None:
    """The step path as an op, which tracing keeps whole; its shapes come from running it without values."""
    name = f"{library.NAMESPACE}::imagine_steps"
    torch.library.define(name, "(Tensor deter, Tensor index, Tensor u, Tensor u_action, Tensor[] params, "
                               "Tensor[] actor, int classes, float mix, bool keep_prior, bool half, Tensor[] copies) "
                               "-> (Tensor deter, Tensor index, Tensor prior, Tensor action, Tensor pre, Tensor feat)")
    torch.library.impl(name, "default", library.outside_autocast(imagine_steps.rollout))
    library.register_fake(name, imagine_steps.rollout)


define_steps()
