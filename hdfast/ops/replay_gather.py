"""Rows of the uint8 frame ring as normalized channels-last floats, in one native op."""

import torch
from torch import Tensor

from hdfast.ops import checks, library

OPS = ("replay_gather",)
PUBLIC = ("replay_gather",)


def replay_gather(ring: Tensor, index: Tensor) -> Tensor:
    """ring (R, h, w, c) uint8, index (...) int64 of its rows -> (..., h, w, c) float32 = ring[index] / 255.

    A row outside the ring gives NaN. The ring must be contiguous: it is the one tensor too large to copy.
    """
    checks.dtype("replay_gather", torch.uint8, ring=ring)
    checks.dtype("replay_gather", torch.int64, index=index)
    checks.devices("replay_gather", ring=ring, index=index)
    if ring.ndim < 2 or not ring.is_contiguous():
        raise ValueError(f"replay_gather: ring must be contiguous of shape (rows, ...), got {tuple(ring.shape)} with "
                         f"strides {ring.stride()}; allocate it so")
    pixels = ring.shape[1:]
    rows = library.op("replay_gather")(ring.view(len(ring), pixels.numel()), index.reshape(index.numel()).contiguous())
    return rows.view(*index.shape, *pixels)


def register(namespace: str) -> None:
    """Shapes for tracing; bytes have no derivative."""
    library.register_fake(f"{namespace}::replay_gather", lambda ring, index: ring.new_empty(
        (index.shape[0], ring.shape[1]), dtype=torch.float32))
