"""CPU tensors treated as CUDA's: every choice as on CUDA, and the products that torch has only there.

Those have bfloat16 operands and a float32 result. Here they are float32 products of the same operands; what CUDA
refuses is refused.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor

from hdfast.ops import execution, products


def check(a: Tensor, b: Tensor, dtype: torch.dtype) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({tuple(a.shape)} and {tuple(b.shape)})")
    if a.dtype is not b.dtype:
        raise RuntimeError(f"input dtypes must be the same, got {a.dtype} and {b.dtype}")
    if dtype is not a.dtype and (dtype is not torch.float32 or a.dtype not in (torch.bfloat16, torch.float16)):
        raise RuntimeError(f"out_dtype must be the same as input dtype or fp32 for fp16/bf16 inputs, got {dtype}")


def mm(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    check(a, b, dtype)
    return torch.mm(a.float(), b.float()).to(dtype)


def mm_out(a: Tensor, b: Tensor, dtype: torch.dtype, *, out: Tensor) -> Tensor:
    product = mm(a, b, dtype)
    if out.dtype is not dtype or out.shape != product.shape:
        raise RuntimeError(f"out must be {tuple(product.shape)} {dtype}, got {tuple(out.shape)} {out.dtype}")
    return out.copy_(product)


def addmm_out(x: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype, *, beta: float = 1, alpha: float = 1,
              out: Tensor) -> Tensor:
    """As torch 2.13 has it; some versions want one type of all three (hdfast.ops.products.accumulates)."""
    if x.dtype is not dtype and x.dtype is not a.dtype:
        raise RuntimeError("self dtype must match either out_dtype or mat1 dtype")
    return mm_out(a, b, dtype, out=out) if beta == 0 else out.copy_(beta * x + alpha * mm(a, b, dtype))


@contextlib.contextmanager
def as_cuda() -> Iterator[None]:
    """Treat tensors as CUDA's inside the block."""
    with torch.library._scoped_library("aten", "IMPL") as library, \
            mock.patch.object(execution, "on_cuda", lambda x: True):
        for name, product in (("mm.dtype", mm), ("mm.dtype_out", mm_out), ("addmm.dtype_out", addmm_out)):
            library.impl(name, product, "CPU")
        products.accumulates.cache_clear()
        try:
            yield
        finally:
            products.accumulates.cache_clear()
