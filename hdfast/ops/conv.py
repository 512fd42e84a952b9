"""Convolutions of the image networks on the CPU: kernel 4x4, stride 2, padding 1, channels last.

Three raw ops, each the derivative of another, serve the forward and backward passes of convolution and transposed
convolution. They are defined by torch.nn.functional.conv2d and conv_transpose2d, which run everywhere else.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hdfast.ops import checks
from hdfast.ops.observe_scan import usable

FEW = 8  # channels of the big image below which oneDNN is faster in all but the transposed convolution itself
OPS = ("conv_down", "conv_up", "conv_kernel")
PUBLIC = ()


def conv(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolution of stride 2, padding 1: x (N, 2h, 2w, C), kernel (D, C, 4, 4) -> (N, h, w, D)."""
    if not _serves(x, kernel) or x.shape[-1] < FEW or x.shape[1] % 2 or x.shape[2] % 2:
        return F.conv2d(x.permute(0, 3, 1, 2), kernel, stride=2, padding=1).permute(0, 2, 3, 1)
    checks.shape("conv", "kernel", kernel, (kernel.shape[0], x.shape[-1], 4, 4), "(D, C, 4, 4), C the last axis of x")
    return torch.ops.hdfast.conv_down.default(x.contiguous(), kernel.contiguous())


def deconv(y: Tensor, kernel: Tensor) -> Tensor:
    """Transposed convolution of stride 2, padding 1: y (N, h, w, D), kernel (D, C, 4, 4) -> (N, 2h, 2w, C)."""
    if not _serves(y, kernel):
        return F.conv_transpose2d(y.permute(0, 3, 1, 2), kernel, stride=2, padding=1).permute(0, 2, 3, 1)
    checks.shape("deconv", "kernel", kernel, (y.shape[-1], *kernel.shape[1:]), "(D, C, 4, 4), D the last axis of y")
    return torch.ops.hdfast.conv_up.default(y.contiguous(), kernel.contiguous())


def _serves(x: Tensor, kernel: Tensor) -> bool:
    """Whether the native ops are for this image and this kernel."""
    return usable(x) and usable(kernel) and x.ndim == 4 and kernel.shape[2:] == (4, 4)


def register(namespace: str) -> None:
    """Shapes for tracing and derivatives, for the raw ops of one library."""
    ops = getattr(torch.ops, namespace)

    def saved(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    def grads(ctx, first, second):
        return tuple(f() if need else None for f, need in zip((first, second), ctx.needs_input_grad, strict=True))

    def down_backward(ctx, dy):
        x, kernel = ctx.saved_tensors
        dy = dy.contiguous()
        return grads(ctx, lambda: ops.conv_up.default(dy, kernel), lambda: ops.conv_kernel.default(x, dy))

    def up_backward(ctx, dx):
        y, kernel = ctx.saved_tensors
        if kernel.shape[1] < FEW:
            dy, dkernel, _ = torch.ops.aten.convolution_backward(
                dx.permute(0, 3, 1, 2), y.permute(0, 3, 1, 2), kernel, None, [2, 2], [1, 1], [1, 1], True, [0, 0], 1,
                [*ctx.needs_input_grad, False])
            return None if dy is None else dy.permute(0, 2, 3, 1), dkernel
        dx = dx.contiguous()
        return grads(ctx, lambda: ops.conv_down.default(dx, kernel), lambda: ops.conv_kernel.default(dx, y))

    def kernel_backward(ctx, dkernel):
        x, y = ctx.saved_tensors
        dkernel = dkernel.contiguous()
        return grads(ctx, lambda: ops.conv_up.default(y, dkernel), lambda: ops.conv_down.default(x, dkernel))

    def fake_down(x, kernel):
        return x.new_empty(x.shape[0], x.shape[1] // 2, x.shape[2] // 2, kernel.shape[0])

    def fake_up(y, kernel):
        return y.new_empty(y.shape[0], 2 * y.shape[1], 2 * y.shape[2], kernel.shape[1])

    def fake_kernel(x, y):
        return x.new_empty(y.shape[3], x.shape[3], 4, 4)

    for name, fake, backward in (("conv_down", fake_down, down_backward), ("conv_up", fake_up, up_backward),
                                 ("conv_kernel", fake_kernel, kernel_backward)):
        torch.library.register_fake(f"{namespace}::{name}", fake)
        torch.library.register_autograd(f"{namespace}::{name}", backward, setup_context=saved)
