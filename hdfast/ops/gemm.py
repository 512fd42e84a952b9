"""Matrix products of the dense layers on the CPU, by a library that is fixed for each kind of processor.

torch.mm goes through MKL, whose speed depends on the vendor of the processor; oneDNN and the project's own kernel do
not look at it. Their sums are ordered differently, so results are bit-identical between runs only on one of them: a
run's meta.json says which. Small products always take torch.mm, which starts fastest.
"""

import functools
from pathlib import Path

import torch
from torch import Tensor

LARGE = 1 << 24  # multiply-adds from which `chosen` decides


def _mkl(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b)


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    if a.stride(0) == 1:  # a kernel's gradient: oneDNN copies both operands first and splits such sums badly
        return torch.ops.hdfast.mm.default(a, b)
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


PATHS = {"mkl": _mkl, "onednn": _onednn}


@functools.cache
def chosen() -> str:
    """Which of PATHS multiplies large matrices on this processor: oneDNN on AMD's, where MKL is slow, else torch.mm."""
    onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    try:
        amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        amd = False
    return "onednn" if onednn and amd else "mkl"


def product(a: Tensor, b: Tensor) -> Tensor:
    """a (M, K) @ b (K, N), any strides, no gradient."""
    large = a.shape[0] * a.shape[1] * b.shape[1] >= LARGE
    return PATHS[chosen()](a, b) if large else torch.mm(a, b)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kernel, bias):
        ctx.save_for_backward(x, kernel)
        y = product(x, kernel)
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx, dy):
        x, kernel = ctx.saved_tensors
        need_x, need_kernel, need_bias = ctx.needs_input_grad
        return (product(dy, kernel.t()) if need_x else None, product(x.t(), dy) if need_kernel else None,
                dy.sum(0) if need_bias else None)


def linear(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ kernel + bias: x (..., in), kernel (in, out), bias (out,) or None -> (..., out)."""
    lead = x.shape[:-1]
    flat = x.reshape(-1, x.shape[-1])
    if flat.shape[0] * kernel.numel() < LARGE:
        y = torch.mm(flat, kernel) if bias is None else torch.addmm(bias, flat, kernel)
    else:
        y = _Linear.apply(flat, kernel, bias)
    return y.view(*lead, kernel.shape[1])
