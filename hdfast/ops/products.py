"""Matrix products into given float32 buffers, of float32 or of bfloat16 operands, without gradient.

Sums are float32 for both. A product is one launch, or two if torch cannot add a bfloat16 product to float32.
"""

import functools

import torch
from torch import Tensor

from hdfast.ops import bf16, execution

aten = torch.ops.aten


def mm_into(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """out (M, N) = a (M, K) @ b (K, N)."""
    if a.dtype is out.dtype:
        return torch.mm(a, b, out=out)
    if execution.on_cuda(a):
        return aten.mm.dtype_out(a, b, out.dtype, out=out)
    return out.copy_(bf16.product(a, b, False))


def add_mm(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """out (M, N) += a (M, K) @ b (K, N)."""
    if a.dtype is out.dtype:
        return out.addmm_(a, b)
    if execution.on_cuda(a) and accumulates(a.device):
        return aten.addmm.dtype_out(out, a, b, out.dtype, out=out)
    return out.add_(new_mm(a, b))


@functools.cache
def accumulates(device: torch.device) -> bool:
    """Whether torch adds a product of bfloat16 matrices to a float32 one on a device; some versions want one type.

    It tries a small product and waits for the result: the first call must not be in a capture. On meta, where nothing
    has a value, an op that runs counts as right.
    """
    ones, out = torch.ones(16, 16, dtype=torch.bfloat16, device=device), torch.full((16, 16), 2.0, device=device)
    try:
        aten.addmm.dtype_out(out, ones, ones, out.dtype, out=out)
    except (AttributeError, RuntimeError, TypeError):  # the last from shapes alone, torch 2.11
        return False
    return device.type == "meta" or bool((out == 18).all())


def new_mm(a: Tensor, b: Tensor) -> Tensor:
    """a (M, K) @ b (K, N) as a new float32 tensor."""
    return mm_into(a.new_empty(a.shape[0], b.shape[1], dtype=torch.float32), a, b)
