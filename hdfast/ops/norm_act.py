"""LayerNorm over the last axis, then SiLU, as one native op with its own backward pass.

Forward saves x and two statistics per row; backward recomputes the normalized and the activated tensor. So memory holds
only x and y; plain PyTorch holds a third tensor.
"""

import torch
from torch import Tensor

from hdfast.ops import checks, library

OPS = ("norm_act_fwd", "norm_act_bwd")
PUBLIC = ("norm_act",)


def norm_act(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """x (..., C) float32 or bfloat16, scale (C,), bias (C,) -> (..., C) of x's dtype.

    Statistics, parameters and their gradients are float32. Autocast leaves the op alone: x's dtype decides. A strided x
    is copied first; channels-last images as (N, H, W, C) views are contiguous and need no copy.
    """
    columns = x.shape[-1:]
    if (not columns or scale.shape != columns or bias.shape != columns or x.dtype not in checks.STORAGE
            or scale.dtype is not torch.float32 or bias.dtype is not torch.float32
            or not (x.is_cpu and scale.is_cpu and bias.is_cpu)):
        check(x, scale, bias)
        scale, bias = scale.float(), bias.float()
    return library.op("norm_act_fwd")(x.contiguous(), scale.contiguous(), bias.contiguous())[0]


def check(x: Tensor, scale: Tensor, bias: Tensor) -> None:
    """Every check in words; `norm_act` itself asks only what is cheap."""
    if x.ndim == 0:
        raise ValueError("norm_act: x must have shape (..., C), got a tensor without axes; add one")
    checks.storage("norm_act", x=x)
    checks.shape("norm_act", x.shape[-1:], "(C,), the last axis of x", scale=scale, bias=bias)
    checks.devices("norm_act", x=x, scale=scale, bias=bias)


def register(namespace: str) -> None:
    """Shapes for tracing and the derivative, for the raw ops of one library."""
    def shapes(x, scale, bias):
        rows = x.new_empty(x.shape[:-1], dtype=torch.float32)
        return torch.empty_like(x, memory_format=torch.contiguous_format), rows, torch.empty_like(rows)

    library.register_pair(namespace, "norm_act", shapes)
