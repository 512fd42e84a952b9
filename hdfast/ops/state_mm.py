"""Matrix products with model states: kernel rows of the one-hot part are gathered, not multiplied."""

import torch
from torch import Tensor

from hdfast.ops import checks, library
from hdfast.ops.execution import usable
from hdfast.ops.state import one_hot


def state_mm(deter: Tensor, stoch: Tensor | None, index: Tensor, kernel: Tensor, *, classes: int,
             rounded: bool = False, narrow: bool = False) -> Tensor:
    """[deter, onehot(index)] @ kernel: deter (..., D), index (..., S), kernel (D + S*K, C) -> (..., C).

    stoch (..., S, K), if given, is the one-hot tensor of `index`: its values are not read, its gradient is computed.
    `rounded` operands are bfloat16, and with `narrow` the result is, too.
    """
    checks.dtype("state_mm", torch.float32, deter=deter)
    checks.shape("state_mm", (*deter.shape[:-1], index.shape[-1]), "(..., S)", index=index)
    if not usable(deter):
        latent = one_hot(index, classes, deter.dtype) if stoch is None else stoch
        return torch.cat([deter, latent.flatten(-2)], -1) @ kernel
    args = (deter.flatten(0, -2).contiguous(), None if stoch is None else stoch.flatten(-2).flatten(0, -2),
            index.flatten(0, -2).contiguous(), kernel.contiguous(), classes)
    y = library.op("state_mm_bf16_fwd")(*args, narrow) if rounded else library.op("state_mm_fwd")(*args)
    return y.unflatten(0, deter.shape[:-1])


def register_state_mm(namespace: str, name: str) -> None:
    """The derivative of a product with states, and its shapes: of float32 operands or of rounded ones."""
    backward_op = getattr(getattr(torch.ops, namespace), f"{name}_bwd").default

    def setup_context(ctx, inputs, output):
        deter, _, index, kernel, ctx.classes, *_ = inputs
        ctx.save_for_backward(deter, index, kernel)

    def backward(ctx, dy):
        needs = [ctx.needs_input_grad[place] for place in (0, 1, 3)]
        grads = backward_op(dy.contiguous(), *ctx.saved_tensors, ctx.classes, *needs)
        ddeter, dstoch, dkernel = (g if need else None for g, need in zip(grads, needs, strict=True))
        return ddeter, dstoch, None, dkernel, *(None,) * (len(ctx.needs_input_grad) - 4)

    def fake_bwd(dy, deter, index, kernel, classes, need_deter, need_stoch, need_kernel):
        return (torch.empty_like(deter) if need_deter else deter.new_empty(0),
                deter.new_empty(len(deter), index.shape[1] * classes) if need_stoch else deter.new_empty(0),
                torch.empty_like(kernel) if need_kernel else deter.new_empty(0))

    library.register_fake(f"{namespace}::{name}_bwd", fake_bwd)
    library.register_derivative(namespace, f"{name}_fwd", backward, setup_context)
