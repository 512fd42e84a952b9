"""Matrix products into given float32 buffers, of float32 or of bfloat16 operands; one launch each, without gradient.

Sums are float32 for both. bfloat16 operands are multiplied as they are on CUDA, elsewhere as float32, which is exact.
"""

import torch
from torch import Tensor

aten = torch.ops.aten


def mm_into(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """out (M, N) = a (M, K) @ b (K, N)."""
    if a.dtype is out.dtype:
        return torch.mm(a, b, out=out)
    if a.is_cuda:
        return aten.mm.dtype_out(a, b, out.dtype, out=out)
    return torch.mm(a.to(out.dtype), b.to(out.dtype), out=out)


def add_mm(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """out (M, N) += a (M, K) @ b (K, N)."""
    if a.dtype is out.dtype:
        return out.addmm_(a, b)
    if a.is_cuda:
        return aten.addmm.dtype_out(out, a, b, out.dtype, out=out)
    return out.addmm_(a.to(out.dtype), b.to(out.dtype))


def affine_into(out: Tensor, a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
    """out (M, N) = a (M, K) @ b (K, N) + bias (N,)."""
    if a.dtype is out.dtype:
        return torch.addmm(bias, a, b, out=out)
    if a.is_cuda:  # not addmm of the bias: some versions of torch hand its float32 to cuBLASLt as bfloat16
        return add_mm(out.copy_(bias), a, b)
    return torch.addmm(bias, a.to(out.dtype), b.to(out.dtype), out=out)


def new_mm(a: Tensor, b: Tensor) -> Tensor:
    """a (M, K) @ b (K, N) as a new float32 tensor."""
    return mm_into(a.new_empty(a.shape[0], b.shape[1], dtype=torch.float32), a, b)
