"""Matrix products whose values are known, of which the gradient alone is computed.

The rollout has multiplied every feature of a trajectory with the actor's kernels already, and nothing has changed them
since: the actor's loss takes those values and leaves its forward products out.
"""

import torch
from torch import Tensor

from hdfast.ops import bf16, gemm
from hdfast.ops.observe_scan import usable


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kernel, copy, y):
        ctx.save_for_backward(x, kernel if copy is None else copy)
        return y.view_as(y)

    @staticmethod
    def backward(ctx, dy):
        x, operand = ctx.saved_tensors
        half = operand.dtype is torch.bfloat16
        product, dy = (_half, bf16.operands(dy)) if half else (gemm.product if usable(x) else torch.mm, dy)
        return (product(dy, operand.t()).to(x.dtype) if ctx.needs_input_grad[0] else None,
                product(x.t(), dy) if ctx.needs_input_grad[1] else None, None, None)


def _half(a: Tensor, b: Tensor) -> Tensor:
    return bf16.product(a, b, False)


class _States(torch.autograd.Function):
    @staticmethod
    def forward(ctx, deter, index, kernel, y, classes, half):
        ctx.save_for_backward(deter, index, kernel)
        ctx.classes, ctx.half = classes, half
        return y.view_as(y)

    @staticmethod
    def backward(ctx, dy):
        op = torch.ops.hdfast.state_mm_bf16_bwd if ctx.half else torch.ops.hdfast.state_mm_bwd
        dkernel = op.default(dy.contiguous(), *ctx.saved_tensors, ctx.classes, False, False, True)[2]
        return None, None, dkernel, None, None, None


def rows(x: Tensor, kernel: Tensor, y: Tensor) -> Tensor:
    """y (..., out), which equals x @ kernel, with the gradients of x (..., in) and kernel (in, out).

    A kernel with a bfloat16 copy is multiplied in bfloat16, as by bf16.linear.
    """
    copy = bf16.shadow(kernel)
    flat = _Rows.apply(x.reshape(-1, x.shape[-1]), kernel, copy, y.flatten(0, -2))
    return flat.view(y.shape)


def states(deter: Tensor, index: Tensor, kernel: Tensor, y: Tensor, *, classes: int) -> Tensor:
    """The same of [deter, onehot(index)] @ kernel, deter (..., D) and index (..., S), with the gradient of the kernel
    alone; on the native path of the CPU."""
    deters, indices = (x.detach().flatten(0, -2).contiguous() for x in (deter, index))
    flat = _States.apply(deters, indices, kernel, y.flatten(0, -2), classes, bf16.shadow(kernel) is not None)
    return flat.view(y.shape)
