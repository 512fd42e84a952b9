"""Convolutions of the image networks on the CPU: kernel 4x4, stride 2, padding 1, channels last.

Three raw ops, each the derivative of another, serve the forward and backward passes of convolution and transposed
convolution; elsewhere the definition runs. A kernel with a bfloat16 shadow (hdfast.ops.bf16) is multiplied in bfloat16.
"""

import torch
from torch import Tensor

from hdfast.ops import bf16, checks, library, reference
from hdfast.ops.execution import usable

OPS = ("conv_down", "conv_up", "conv_kernel")
PUBLIC = ("conv", "deconv")


def conv(x: Tensor, kernel: Tensor) -> Tensor:
    """As reference.conv."""
    half = bf16.shadow(kernel) is not None
    if not _serves(x, kernel) or x.shape[1] % 2 or x.shape[2] % 2:
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

    def register_one(name, takes, gives, shape):
        def fake(first, second, round=False, half=False):
            return first.new_empty(shape(first, second), dtype=torch.bfloat16 if half else torch.float32)

        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs[:2])
            ctx.round, ctx.flags = inputs[2], len(inputs) - 2

        def backward(ctx, dout):
            saved = dict(zip(takes, ctx.saved_tensors, strict=True))
            parts = saved | {gives: dout.contiguous()}
            need = dict(zip(takes, ctx.needs_input_grad, strict=False))
            # The kernel's first: after it nobody reads the image, and a tape frees it before the next one is made.
            grads = {part: derivative(part, ctx.round, saved[part], **parts) for part in reversed(takes) if need[part]}
            return *map(grads.get, takes), *(None,) * ctx.flags

        library.register_fake(f"{namespace}::{name}", fake)
        library.register_derivative(namespace, name, backward, setup_context)

    register_one("conv_down", ("x", "kernel"), "y", lambda x, kernel: (
        x.shape[0], x.shape[1] // 2, x.shape[2] // 2, kernel.shape[0]))
    register_one("conv_up", ("y", "kernel"), "x", lambda y, kernel: (
        y.shape[0], 2 * y.shape[1], 2 * y.shape[2], kernel.shape[1]))
    register_one("conv_kernel", ("x", "y"), "kernel", lambda x, y: (y.shape[3], x.shape[3], 4, 4))
