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
    checks.shape("conv", (len(kernel), x.shape[-1], 4, 4), "(D, C, 4, 4), C the last axis of x", kernel=kernel)
    return library.op("conv_down")(x.contiguous(), kernel.contiguous(), half, half)


def deconv(y: Tensor, kernel: Tensor, *, last: bool = False) -> Tensor:
    """As reference.deconv."""
    half = bf16.shadow(kernel) is not None
    if not _serves(y, kernel):
        return reference.deconv(y, kernel, last=last)
    checks.shape("deconv", (y.shape[-1], *kernel.shape[1:]), "(D, C, 4, 4), D the last axis of y", kernel=kernel)
    return library.op("conv_up")(y.contiguous(), kernel.contiguous(), half, half and not last)


def _serves(x: Tensor, kernel: Tensor) -> bool:
    """Whether the native ops serve this image and this kernel."""
    return usable(x) and kernel.dtype == torch.float32 and x.ndim == 4 and kernel.shape[2:] == (4, 4)


def register(namespace: str) -> None:
    """Shapes for tracing and derivatives, for the raw ops of one library.

    sum(y * conv_down(x, kernel)) is linear in x, y and kernel: each op is its derivative by what that op does not take.
    """
    ops = library.raw(namespace)

    def derivative(by, round, like, x, y, kernel):
        if by == "kernel":
            return ops["conv_kernel"](x, y, round)
        name, image = ("conv_up", y) if by == "x" else ("conv_down", x)
        return ops[name](image, kernel, round, like.dtype == torch.bfloat16)

    def by_onednn(ctx, dx):
        """The gradients of conv_up in bfloat16 for few channels."""
        y, kernel = ctx.saved_tensors
        operands = (t.to(torch.bfloat16) for t in (dx.permute(0, 3, 1, 2), y.permute(0, 3, 1, 2), kernel))
        dy, dkernel, _ = torch.ops.aten.convolution_backward(
            *operands, None, [2, 2], [1, 1], [1, 1], True, [0, 0], 1, [*ctx.needs_input_grad[:2], False])
        return (None if dy is None else dy.permute(0, 2, 3, 1).to(y.dtype),
                None if dkernel is None else dkernel.float(), None, None)

    def register_one(name, takes, gives, shape):
        def fake(first, second, round=False, half=False):
            return first.new_empty(shape(first, second), dtype=torch.bfloat16 if half else torch.float32)

        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs[:2])
            ctx.round, ctx.flags = inputs[2], len(inputs) - 2

        def backward(ctx, dout):
            saved = dict(zip(takes, ctx.saved_tensors, strict=True))
            if gives == "x" and ctx.round and saved["kernel"].shape[1] < FEW:
                return by_onednn(ctx, dout)
            parts = saved | {gives: dout.contiguous()}
            grads = [derivative(part, ctx.round, saved[part], **parts) if need else None
                     for part, need in zip(takes, ctx.needs_input_grad[:2], strict=True)]
            return *grads, *(None,) * ctx.flags

        library.register_fake(f"{namespace}::{name}", fake)
        library.register_derivative(namespace, name, backward, setup_context)

    register_one("conv_down", ("x", "kernel"), "y", lambda x, kernel: (
        x.shape[0], x.shape[1] // 2, x.shape[2] // 2, kernel.shape[0]))
    register_one("conv_up", ("y", "kernel"), "x", lambda y, kernel: (
        y.shape[0], 2 * y.shape[1], 2 * y.shape[2], kernel.shape[1]))
    register_one("conv_kernel", ("x", "y"), "kernel", lambda x, y: (y.shape[3], x.shape[3], 4, 4))
