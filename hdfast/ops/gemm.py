"""Matrix products of the dense layers on the CPU, by one library for each kind of processor.

torch.mm uses MKL, whose speed depends on the vendor of the processor; that of oneDNN and of the project's own kernel
does not. Each sums in another order, so runs are bit-identical only on one of them: a run's meta.json says which. Small
products always take torch.mm, which starts fastest.
"""

import functools
from pathlib import Path

import torch
from torch import Tensor

from hdfast.ops import library
from hdfast.ops.execution import usable

LARGE = 1 << 24  # multiply-adds from which `chosen` decides


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    if a.stride(0) == 1:  # a kernel's gradient: oneDNN copies both operands first and splits such sums badly
        return library.op("mm")(a, b)
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


@functools.cache
def chosen() -> str:
    """What multiplies large matrices: "onednn" on AMD's processors, where MKL is slow, else "mkl", by torch.mm."""
    onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    try:
        amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        amd = False
    return "onednn" if onednn and amd else "mkl"


def large(a: Tensor, b: Tensor) -> bool:
    """Whether a (M, K) @ b (K, N) takes the chosen library: enough work, on the CPU, under the native backend."""
    return a.shape[0] * b.numel() >= LARGE and usable(a)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a (M, K) @ b (K, N), any strides, no gradient."""
    return _onednn(a, b) if large(a, b) and chosen() == "onednn" else torch.mm(a, b)
