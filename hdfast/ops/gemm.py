"""Matrix products of the dense layers on the CPU, by the fastest of three libraries as measured on this machine.

torch.mm goes through MKL, whose speed depends on the vendor of the processor; oneDNN and the project's own kernel do
not look at it. Small products always take torch.mm, which starts fastest; products of 16 M multiply-adds or more take
the first of onednn, native, mkl that comes near the fastest in one measurement at the first of them.
HDFAST_GEMM=mkl|onednn|native settles the choice: their sums are ordered differently, so results are bit-identical
between runs only on the same path.
"""

import functools
import os
import time
from collections.abc import Callable

import torch
from torch import Tensor

from hdfast.errors import ConfigError

LARGE = 1 << 24  # multiply-adds from which the measured path is taken


def _mkl(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b)


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


def _native(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.hdfast.mm.default(a, b)


PATHS = {"mkl": _mkl, "onednn": _onednn, "native": _native}


def available() -> list[str]:
    """The paths that exist in this process."""
    onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    found = {"mkl": True, "onednn": onednn, "native": hasattr(torch.ops.hdfast, "mm")}
    return [name for name, here in found.items() if here]


def measure(rows: int = 1024, inner: int = 512, columns: int = 512, rounds: int = 5) -> dict[str, float]:
    """GFLOP/s of each path on one product, its best of a few rounds taken in turns."""
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    best = dict.fromkeys(available(), float("inf"))
    for _ in range(rounds + 1):
        for name in best:
            start = time.perf_counter()
            PATHS[name](a, b)
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: 2e-9 * rows * inner * columns / seconds for name, seconds in best.items()}


@functools.cache
def chosen(threads: int) -> str:
    """Name of the path of large products on this many threads."""
    name = os.environ.get("HDFAST_GEMM", "")
    if name and name not in available():
        raise ConfigError(f"HDFAST_GEMM must be one of {', '.join(available())}, got {name!r:.60}; unset it")
    if name:
        return name
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        speed = measure()
    # Near the best is good enough: noise must not decide, or runs would not repeat.
    return next(name for name in ("onednn", "native", "mkl") if speed.get(name, 0) >= 0.8 * max(speed.values()))


def product(a: Tensor, b: Tensor) -> Tensor:
    """a (M, K) @ b (K, N), any strides, no gradient."""
    path: Callable = _mkl
    if a.shape[0] * a.shape[1] * b.shape[1] >= LARGE:
        path = PATHS[chosen(torch.get_num_threads())]
        if path is _onednn and a.stride(0) == 1 and not os.environ.get("HDFAST_GEMM") and "native" in available():
            path = _native  # a kernel's gradient: oneDNN copies both operands first and splits such sums badly
    return path(a, b)


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
