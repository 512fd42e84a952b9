"""Which of two ways a tensor takes where ops and products have one for CUDA and one for the CPU."""

import contextlib
from collections.abc import Iterator

from torch import Tensor

_as_on_cuda = False


def on_cuda(x: Tensor) -> bool:
    """Whether a tensor takes the way of CUDA: it lies there or on meta, or `as_on_cuda` is in force."""
    return x.device.type != "cpu" or _as_on_cuda


@contextlib.contextmanager
def as_on_cuda() -> Iterator[None]:
    """Tensors of the CPU take the way of CUDA for a while, to test it where there is no GPU."""
    global _as_on_cuda
    before, _as_on_cuda = _as_on_cuda, True
    try:
        yield
    finally:
        _as_on_cuda = before
