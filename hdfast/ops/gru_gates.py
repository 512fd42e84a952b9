"""LayerNorm over the GRU's joint pre-activations, then its gates, as one native op with its own backward pass.

Forward saves its inputs and two statistics per row; backward recomputes the gates.
"""

import torch
from torch import Tensor

from hdfast.ops import checks, library

OPS = ("gru_gates_fwd", "gru_gates_bwd")
PUBLIC = ("gru_gates",)


def gru_gates(x: Tensor, deter: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """x (..., 3D) = [reset, cand, update], deter (..., D), scale (3D,), bias (3D,) -> (..., D) of deter's dtype.

    x and deter are float32 or bfloat16; x may be bfloat16 beside a float32 state. State, statistics, parameters and
    their gradients are float32 inside. Autocast leaves the op alone.
    """
    checks.storage("gru_gates", x=x, deter=deter)
    if x.ndim == 0 or x.shape[-1] % 3:
        raise ValueError(f"gru_gates: x must have shape (..., 3D), got {tuple(x.shape)}; its last axis holds reset, "
                         f"cand and update")
    checks.shape("gru_gates", (*x.shape[:-1], x.shape[-1] // 3), "(..., D), a third of x's last axis", deter=deter)
    checks.shape("gru_gates", x.shape[-1:], "(3D,), the last axis of x", scale=scale, bias=bias)
    checks.devices("gru_gates", x=x, deter=deter, scale=scale, bias=bias)
    others = (t.float().contiguous() for t in (deter, scale, bias))
    return library.op("gru_gates_fwd")(x.contiguous(), *others)[0].to(deter.dtype)


def register(namespace: str) -> None:
    """Shapes for tracing and the derivative, for the raw ops of one library."""
    def shapes(x, deter, scale, bias):
        rows = x.new_empty(x.shape[:-1], dtype=torch.float32)
        return torch.empty_like(deter), rows, torch.empty_like(rows)

    library.register_pair(namespace, "gru_gates", shapes)
