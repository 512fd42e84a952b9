"""Matrix products of features with kernels: gathered, multiplied together, or known already.

The rollout multiplies every feature of a trajectory with the actor's kernels, and nothing changes these before the
actor's loss reads the same products: their values are kept, and only their gradients are computed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hdfast.ops import bf16, gemm
from hdfast.ops.execution import usable
from hdfast.ops.gemm import linear
from hdfast.ops.state import State, one_hot
from hdfast.ops.state_mm import state_mm


@dataclass(frozen=True)
class Stack:
    """Kernels of one shape (in, out), and their numbers as one view (kernels, in, out): of an arena's parameters, or of
    the bfloat16 copies that are multiplied in their place."""

    kernels: tuple[Tensor, ...]
    view: Tensor


@dataclass(frozen=True)
class Features:
    """What heads read of model states, (..., D + S*K), and which of its products are known.

    flat: the features as a tensor, None if products gather kernel rows by `index` instead. known: by kernel, the value
    of a product that was computed before. stoch may be None, which has no gradient then.
    """

    deter: Tensor
    stoch: Tensor | None
    index: Tensor
    flat: Tensor | None
    classes: int
    known: Mapping[Tensor, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, state: State) -> "Features":
        """Features of model states, with their gradients."""
        flat = None if usable(state.deter) else state.feat()
        return cls(state.deter, state.stoch, state.index, flat, state.stoch.shape[-1])

    def map(self, change: Callable[[Tensor], Tensor]) -> "Features":
        """The same with every tensor changed alike."""
        parts = (None if x is None else change(x) for x in (self.deter, self.stoch, self.index, self.flat))
        return Features(*parts, self.classes, {kernel: change(y) for kernel, y in self.known.items()})

    def __getitem__(self, steps: slice) -> "Features":
        """The features of some steps, the first axis."""
        return self.map(lambda x: x[steps])

    def detach(self) -> "Features":
        """The same features without gradient."""
        return self.map(Tensor.detach)

    def tensor(self) -> Tensor:
        """(..., D + S*K), the gradient of stoch included only where it is `flat`."""
        if self.flat is not None:
            return self.flat
        return torch.cat([self.deter, one_hot(self.index, self.classes, self.deter.dtype).flatten(-2)], -1)

    def knowing(self, products: Iterable[tuple[Tensor, Tensor]]) -> "Features":
        """With more products: pairs of a kernel and features @ kernel, or the input of a deeper layer @ kernel."""
        return replace(self, known={**self.known, **dict(products)})

    @torch.no_grad()
    def multiplied(self, stack: Stack | None) -> "Features":
        """With the products of several networks' first kernels, computed at once; unchanged without a stack, or if
        rows are gathered."""
        if stack is None or self.flat is None:
            return self
        rows = self.flat.reshape(-1, self.flat.shape[-1]).to(stack.view.dtype)
        products = torch.bmm(rows.expand(len(stack.kernels), *rows.shape), stack.view)
        return self.knowing(zip(stack.kernels, products.unflatten(1, self.flat.shape[:-1]), strict=True))


def known(x: Features | Tensor) -> Mapping[Tensor, Tensor]:
    """The products that are known of an input, by kernel."""
    return x.known if isinstance(x, Features) else {}


def project(x: Features | Tensor, kernel: Tensor, bias: Tensor | None = None, *, rows: slice | None = None,
            value: Tensor | None = None, narrow: bool = False) -> Tensor:
    """x @ kernel (+ bias), or of the kernel only those `rows`: x (..., in), kernel (in, out) -> (..., out).

    A kernel with a bfloat16 shadow is multiplied in bfloat16; the result is float32, or with `narrow` bfloat16. With a
    known `value` only the gradient is computed.
    """
    if value is not None:
        return _known(x, kernel, value)
    copy = bf16.shadow(kernel)
    if rows is not None:  # not always: even a whole slice has a backward pass, which copies the kernel's gradient
        kernel, copy = kernel[rows], None if copy is None else copy[rows]
    if isinstance(x, Features):
        if x.flat is None:
            of = x.deter, x.stoch, x.index, kernel
            y = state_mm(*of, classes=x.classes) if copy is None else \
                bf16.state_mm(*of, classes=x.classes, half=narrow)
            return y if bias is None else y + bias
        x = x.flat
    if copy is not None:
        return bf16.linear(x, kernel, copy, bias, half=narrow)
    if usable(x):
        return linear(x, kernel, bias)
    return x @ kernel if bias is None else torch.addmm(bias, x.flatten(0, -2), kernel).unflatten(0, x.shape[:-1])


def _known(x: Features | Tensor, kernel: Tensor, value: Tensor) -> Tensor:
    """project(x, kernel, narrow=True) whose value is known; gathered features get no gradient."""
    copy = bf16.shadow(kernel)
    y = (value if copy is None else value.bfloat16()).flatten(0, -2)
    if isinstance(x, Features) and x.flat is None:
        deter, index = (part.detach().flatten(0, -2).contiguous() for part in (x.deter, x.index))
        y = _States.apply(deter, index, kernel, y, x.classes, copy is not None)
    else:
        x = x.flat if isinstance(x, Features) else x
        y = _Rows.apply(x.reshape(-1, x.shape[-1]), kernel, copy, y)
    return y.view(value.shape)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kernel, copy, y):
        ctx.save_for_backward(x, kernel if copy is None else copy)
        return y.view_as(y)

    @staticmethod
    def backward(ctx, dy):
        x, operand = ctx.saved_tensors
        half = operand.dtype is torch.bfloat16
        product, dy = (_half, bf16.operands(dy)) if half else (gemm.product if usable(x) else torch.mm, dy)
        return (product(dy, operand.t()).to(x.dtype) if ctx.needs_input_grad[0] else None,
                product(x.t(), dy) if ctx.needs_input_grad[1] else None, None, None)


def _half(a: Tensor, b: Tensor) -> Tensor:
    return bf16.product(a, b, False)


class _States(torch.autograd.Function):
    @staticmethod
    def forward(ctx, deter, index, kernel, y, classes, half):
        ctx.save_for_backward(deter, index, kernel)
        ctx.classes, ctx.half = classes, half
        return y.view_as(y)

    @staticmethod
    def backward(ctx, dy):
        op = torch.ops.hdfast.state_mm_bf16_bwd if ctx.half else torch.ops.hdfast.state_mm_bwd
        dkernel = op.default(dy.contiguous(), *ctx.saved_tensors, ctx.classes, False, False, True)[2]
        return None, None, dkernel, None, None, None
