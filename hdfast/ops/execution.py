"""Which code serves a tensor if an op has several: one C++ call on the CPU, or CUDA's sequence of launches."""

from torch import Tensor

from hdfast.ops import checks, library


def on_cuda(x: Tensor) -> bool:
    """Whether CUDA's code serves this tensor: it is there, or on meta, which has only shapes."""
    return x.device.type != "cpu"


def usable(x: Tensor) -> bool:
    """Whether the C++ calls of the CPU serve this tensor now: native backend, float32 or bfloat16."""
    from hdfast import ops
    return (ops.backend() == "native" and x.dtype in checks.STORAGE and not on_cuda(x)
            and library.active() == library.NAMESPACE)
