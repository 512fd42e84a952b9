"""Which code serves a tensor: the definition, one native call or launches; and which of two ways, CUDA's or
the CPU's, where ops and products have both."""

import contextlib
from collections.abc import Iterator

from torch import Tensor

from hdfast.ops import checks, library

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


def path(x: Tensor) -> str:
    """How the sequence ops serve this tensor now: 'call', one C++ call (CPU); 'steps', a launch after another (CUDA,
    and shapes alone on meta); '' not at all. Both need the native backend and float32 or bfloat16."""
    from hdfast import ops
    if ops.backend() != "native" or x.dtype not in checks.STORAGE or not library.runs_on(x.device):
        return ""
    if on_cuda(x) or library.active() != library.NAMESPACE:
        return "steps"
    return "call"


def usable(x: Tensor) -> bool:
    """Whether the C++ calls of the sequence ops serve this tensor now: native backend, on the CPU."""
    return path(x) == "call"
