"""Convolutions of the image networks on the CPU: kernel 4x4, stride 2, padding 1, channels last.

Three raw ops, each the derivative of another, serve the forward and backward passes of convolution and transposed
convolution; elsewhere the definition runs. A kernel with a bfloat16 shadow (hdfast.ops.bf16) is multiplied in bfloat16.
"""

import torch
from torch import Tensor

from hdfast.ops import bf16, checks, library, reference
from hdfast.ops.execution import usable

FEW = 8  # channels of the big image below which oneDNN is faster in bfloat16, except in transposed convolution
OPS = ("conv_down", "conv_up", "conv_kernel")
PUBLIC = ("conv", "deconv")


def conv(x: Tensor, kernel: Tensor) -> Tensor:
    """As reference.conv."""
    half = bf16.shadow(kernel) is not None
    if not _serves(x, kernel) or half and x.shape[-1] < FEW or x.shape[1] % 2 or x.shape[2] % 2:
        return reference.conv(x, kernel)
    checks.shape("conv", "kernel", kernel, (kernel.shape[0], x.shape[-1], 4, 4), "(D, C, 4, 4), C the last axis of x")
    return torch.ops.hdfast.conv_down.default(x.contiguous(), kernel.contiguous(), half, half)


def deconv(y: Tensor, kernel: Tensor, *, last: bool = False) -> Tensor:
    """As reference.deconv."""
    half = bf16.shadow(kernel) is not None
    if not _serves(y, kernel):
        return reference.deconv(y, kernel, last=last)
    checks.shape("deconv", "kernel", kernel, (y.shape[-1], *kernel.shape[1:]), "(D, C, 4, 4), D the last axis of y")
    return torch.ops.hdfast.conv_up.default(y.contiguous(), kernel.contiguous(), half, half and not last)


def _serves(x: Tensor, kernel: Tensor) -> bool:
    """Whether the native ops serve this image and this kernel."""
    return usable(x) and kernel.dtype == torch.float32 and x.ndim == 4 and kernel.shape[2:] == (4, 4)


def register(namespace: str) -> None:
    """Shapes for tracing and derivatives, for the raw ops of one library."""
    ops = getattr(torch.ops, namespace)

    def saved(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])
        ctx.round = inputs[2]

    def grads(ctx, first, second, flags):
        return *(f() if need else None for f, need in zip((first, second), ctx.needs_input_grad[:2], strict=True)), \
            *(None,) * flags

    def half(like):
        return like.dtype == torch.bfloat16

    def down_backward(ctx, dy):
        x, kernel = ctx.saved_tensors
        dy = dy.contiguous()
        return grads(ctx, lambda: ops.conv_up.default(dy, kernel, ctx.round, half(x)),
                     lambda: ops.conv_kernel.default(x, dy, ctx.round), 2)

    def up_backward(ctx, dx):
        y, kernel = ctx.saved_tensors
        if ctx.round and kernel.shape[1] < FEW:
            operands = (t.to(torch.bfloat16) for t in (dx.permute(0, 3, 1, 2), y.permute(0, 3, 1, 2), kernel))
            dy, dkernel, _ = torch.ops.aten.convolution_backward(
                *operands, None, [2, 2], [1, 1], [1, 1], True, [0, 0], 1, [*ctx.needs_input_grad[:2], False])
            return (None if dy is None else dy.permute(0, 2, 3, 1).to(y.dtype),
                    None if dkernel is None else dkernel.float(), None, None)
        dx = dx.contiguous()
        return grads(ctx, lambda: ops.conv_down.default(dx, kernel, ctx.round, half(y)),
                     lambda: ops.conv_kernel.default(dx, y, ctx.round), 2)

    def kernel_backward(ctx, dkernel):
        x, y = ctx.saved_tensors
        dkernel = dkernel.contiguous()
        return grads(ctx, lambda: ops.conv_up.default(y, dkernel, ctx.round, half(x)),
                     lambda: ops.conv_down.default(x, dkernel, ctx.round, half(y)), 1)

    def result(like, shape, half):
        return like.new_empty(shape, dtype=torch.bfloat16 if half else torch.float32)

    def fake_down(x, kernel, round=False, half=False):
        return result(x, (x.shape[0], x.shape[1] // 2, x.shape[2] // 2, kernel.shape[0]), half)

    def fake_up(y, kernel, round=False, half=False):
        return result(y, (y.shape[0], 2 * y.shape[1], 2 * y.shape[2], kernel.shape[1]), half)

    def fake_kernel(x, y, round=False):
        return result(x, (y.shape[3], x.shape[3], 4, 4), False)

    for name, fake, backward in (("conv_down", fake_down, down_backward), ("conv_up", fake_up, up_backward),
                                 ("conv_kernel", fake_kernel, kernel_backward)):
        library.register_fake(f"{namespace}::{name}", fake)
        torch.library.register_autograd(f"{namespace}::{name}", backward, setup_context=saved)
