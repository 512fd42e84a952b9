"""Moving percentiles of the imagined returns as one native op: order statistics by radix select instead of a sort."""

import torch
from torch import Tensor

from hdfast.ops import checks, library

OPS = ("return_range",)
PUBLIC = ("return_range",)


def return_range(ret: Tensor, low: Tensor, high: Tensor, *, decay: float = 0.99, percentiles=(5.0, 95.0),
                 floor: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """ret any shape, not empty, low, high () float32 -> new low, new high, scale (). Without gradient.

    A return that is not finite leaves the range as it is.
    """
    if not ret.numel():
        raise ValueError(f"return_range: ret must not be empty, got {tuple(ret.shape)}; it needs returns to rank")
    checks.dtype("return_range", torch.float32, ret=ret, low=low, high=high)
    checks.shape("return_range", (), "(), one number", low=low, high=high)
    checks.devices("return_range", ret=ret, low=low, high=high)
    with torch.no_grad():
        out = library.op("return_range")(ret.detach().reshape(-1).contiguous(), low.detach(), high.detach(), decay,
                                         *(float(p) for p in percentiles), floor)
    return out.unbind()


def register(namespace: str) -> None:
    """Shapes for tracing; the percentiles carry no gradient."""
    library.register_fake(f"{namespace}::return_range", lambda ret, *rest: ret.new_empty(3))
