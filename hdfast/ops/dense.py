"""Matrix products of features or model states with kernels, the native way where it serves.

Some have values that are known already: the rollout has multiplied every feature of a trajectory with the actor's
kernels, and nothing has changed them since. The actor's loss takes those values, and only the gradient is computed.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from hdfast.ops import bf16, gemm
from hdfast.ops.execution import usable
from hdfast.ops.gemm import linear
from hdfast.ops.state_mm import state_mm


def project(x, kernel: Tensor, bias: Tensor | None = None, *, rows: slice | None = None, half: bool = False) -> Tensor:
    """x @ kernel (+ bias), or of the kernel only those `rows`, the native way where it serves.

    x (..., in), or model states (a state.State) of `in` features, whose one-hot part is gathered, not multiplied. A
    kernel with a bfloat16 shadow is multiplied in bfloat16; the result is float32, or with `half` bfloat16.
    """
    copy = bf16.shadow(kernel)
    if rows is not None:  # not always: even a whole slice has a backward pass, which copies the kernel's gradient
        kernel, copy = kernel[rows], None if copy is None else copy[rows]
    if not isinstance(x, Tensor):
        if usable(x.deter):
            product = state_mm if copy is None else partial(bf16.state_mm, half=half)
            y = product(x.deter, x.stoch, x.index, kernel, classes=classes_of(x, kernel))
            return y if bias is None else y + bias
        x = x.feat()
    if copy is not None:
        return bf16.linear(x, kernel, copy, bias, half=half)
    if usable(x):
        return linear(x, kernel, bias)
    return x @ kernel if bias is None else torch.addmm(bias, x.flatten(0, -2), kernel).unflatten(0, x.shape[:-1])


def classes_of(state, kernel: Tensor) -> int:
    """Classes per latent of model states that are multiplied with a kernel (D + S*K, out)."""
    return (len(kernel) - state.deter.shape[-1]) // state.index.shape[-1]


def given(x, kernel: Tensor, value: Tensor) -> Tensor:
    """project(x, kernel, half=True) whose value is known already: only its gradient is computed. States get none."""
    if bf16.shadow(kernel) is not None:
        value = value.bfloat16()
    if isinstance(x, Tensor):
        return rows(x, kernel, value)
    return states(x.deter, x.index, kernel, value, classes=classes_of(x, kernel))


def evenly(kernels: Sequence[Tensor]) -> Tensor | None:
    """Matrices (in, out) as one view (kernels, in, out), where memory lets them be one."""
    first, starts = kernels[0], [kernel.storage_offset() for kernel in kernels]
    step = starts[1] - starts[0]
    same = all(kernel.shape == first.shape and kernel.is_contiguous() and kernel.dtype is first.dtype
               and kernel.untyped_storage()._cdata == first.untyped_storage()._cdata for kernel in kernels)
    if not same or step < first.numel() or any(b - a != step for a, b in pairwise(starts)):
        return None
    return first.detach().as_strided((len(kernels), *first.shape), (step, *first.stride()))


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
