"""Products and convolutions with bfloat16 operands and float32 sums.

A parameter with a bfloat16 copy of itself (`shadow`, kept by hdfast.arena) is multiplied in bfloat16; nothing else
selects the precision. Gradients reach the float32 parameter, those of products without rounding. On the CPU the native
library multiplies; elsewhere torch does.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from hdfast.ops import execution, library
from hdfast.ops.execution import usable
from hdfast.ops.state_mm import register_state_mm

OPS = ("mm_bf16", "state_mm_bf16_fwd", "state_mm_bf16_bwd")
PUBLIC = ()


def shadow(kernel: Tensor) -> Tensor | None:
    """The bfloat16 copy of a parameter that is multiplied in bfloat16, else None."""
    return getattr(kernel, "shadow", None)


def shadows(kernels: Iterable[Tensor]) -> list[Tensor]:
    """The bfloat16 copies of several parameters; empty if they have none."""
    found = [shadow(kernel) for kernel in kernels]
    return [] if any(copy is None for copy in found) else found


def product(a: Tensor, b: Tensor, half: bool) -> Tensor:
    """a (M, K) @ b (K, N), float32 or bfloat16 and of any strides -> bfloat16 if `half`, else float32. No gradient."""
    if usable(a):
        return library.op("mm_bf16")(a, b, half)
    a, b = a.bfloat16(), b.bfloat16()
    if half:
        return torch.mm(a, b)
    return torch.mm(a, b, out_dtype=torch.float32) if execution.on_cuda(a) else torch.mm(a.float(), b.float())


def operands(dy: Tensor) -> Tensor:
    """A gradient for several products: rounded here, unless each product rounds what it packs."""
    return dy if usable(dy) else dy.bfloat16()


class _Operand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kernel, copy):
        return copy.view_as(copy)

    @staticmethod
    def backward(ctx, grad):
        return grad.to(torch.float32, memory_format=torch.contiguous_format), None  # as an arena keeps it


def operand(kernel: Tensor) -> Tensor:
    """The kernel of a convolution: the parameter, or its bfloat16 copy, which passes its gradient to the parameter."""
    copy = shadow(kernel)
    return kernel if copy is None else _Operand.apply(kernel, copy)


def register(namespace: str) -> None:
    """Shapes for tracing and the derivative of the product with states, for the raw ops of one library."""
    def result(like, rows, columns, half):
        return like.new_empty(rows, columns, dtype=torch.bfloat16 if half else torch.float32)

    library.register_fake(f"{namespace}::mm_bf16", lambda a, b, half: result(a, a.shape[0], b.shape[1], half))
    library.register_fake(
        f"{namespace}::state_mm_bf16_fwd",
        lambda deter, stoch, index, kernel, classes, half: result(deter, len(deter), kernel.shape[1], half))
    register_state_mm(namespace, "state_mm_bf16")
