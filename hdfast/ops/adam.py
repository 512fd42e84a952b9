"""Clip by global norm and one Adam step over a flat arena, as one native op that works in place."""

import torch
from torch import Tensor

from hdfast.ops import checks, library

OPS = ("adam_step",)
PUBLIC = ("adam_step",)


def adam_step(param: Tensor, grad: Tensor, mean: Tensor, var: Tensor, step: Tensor, *, lr: float, eps: float,
              clip: float, beta1: float, beta2: float, slow: Tensor | None = None,
              slow_fraction: float = 1.0) -> Tensor:
    """As reference.adam_step; contiguous float32 arenas that start on 16 bytes."""
    arenas = {"param": param, "grad": grad, "mean": mean, "var": var} | ({} if slow is None else {"slow": slow})
    checks.dtype("adam_step", torch.float32, **arenas)
    checks.shape("adam_step", (param.numel(),), "(size,), that of param", **arenas)
    for name, x in arenas.items():
        if not x.is_contiguous():
            raise ValueError(f"adam_step: {name} must be contiguous, got strides {x.stride()}; it is updated in place")
    checks.dtype("adam_step", torch.int64, step=step)
    checks.devices("adam_step", **arenas, step=step)
    return library.op("adam_step")(param, grad, mean, var, step, slow, lr, eps, clip, beta1, beta2, slow_fraction)


def register(namespace: str) -> None:
    """Shapes for tracing; an optimizer's step has no derivative."""
    library.register_fake(f"{namespace}::adam_step", lambda param, *rest: param.new_empty(3))
