"""Matrix products of features with kernels: gathered, several at once, or known already.

The rollout multiplies a trajectory's features with the actor's kernels, which do not change before the actor's loss:
the loss takes those values and computes only their gradients.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hdfast.ops import bf16, gemm
from hdfast.ops.execution import usable
from hdfast.ops.state import State, one_hot
from hdfast.ops.state_mm import state_mm


@dataclass(frozen=True)
class Stack:
    """Kernels of one shape (in, out), and their numbers as one view (kernels, in, out): of an arena's parameters, or of
    the bfloat16 copies that products read instead."""

    kernels: tuple[Tensor, ...]
    view: Tensor


@dataclass(frozen=True)
class Features:
    """The input of heads, (..., D + S*K), and its known products.

    flat: the features as a tensor, None if products gather kernel rows by `index` instead. known: products computed
    before, by kernel. Without stoch the latents have no gradient.
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
        """(..., D + S*K); only `flat` carries the gradient of stoch."""
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


def project(x: Features | Tensor, kernel: Tensor, bias: Tensor | None = None, *, rows: slice | None = None,
            value: Tensor | None = None, narrow: bool = False) -> Tensor:
    """x @ kernel (+ bias), or x @ kernel[rows]: x (..., in), kernel (in, out) -> (..., out).

    A kernel with a bfloat16 shadow is multiplied in bfloat16; the result is float32, or with `narrow` bfloat16. With a
    known `value` (no bias) it computes only the gradient; gathered features get none.
    """
    copy = bf16.shadow(kernel)
    if rows is not None:  # only then: in backward even a whole slice copies the kernel's gradient
        kernel, copy = kernel[rows], None if copy is None else copy[rows]
    if value is not None and copy is not None:
        value = value.bfloat16()
    if isinstance(x, Features):
        if x.flat is None:
            return _gathered(x, kernel, bias, value, copy is not None, narrow)
        x = x.flat
    lead, x = x.shape[:-1], x.reshape(-1, x.shape[-1])
    if copy is not None or value is not None or gemm.large(x, kernel):
        y = matmul(x, kernel, copy, bias, None if value is None else value.flatten(0, -2), narrow)
    else:
        y = torch.mm(x, kernel) if bias is None else torch.addmm(bias, x, kernel)
    return y.view(*lead, kernel.shape[1])


def _gathered(x: Features, kernel: Tensor, bias: Tensor | None, value: Tensor | None, rounded: bool,
              narrow: bool) -> Tensor:
    """`project` by gathered kernel rows."""
    if value is None:
        y = state_mm(x.deter, x.stoch, x.index, kernel, classes=x.classes, rounded=rounded, narrow=narrow)
        return y if bias is None else y + bias
    deter, index = (part.detach().flatten(0, -2).contiguous() for part in (x.deter, x.index))
    return _Gathered.apply(deter, index, kernel, value.flatten(0, -2), x.classes, rounded).view(value.shape)


class _Matmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kernel, copy, bias, value, narrow):
        ctx.save_for_backward(x, kernel if copy is None else copy)
        if value is not None:
            return value.view_as(value)
        y = gemm.product(x, kernel) if copy is None else bf16.product(x, copy, narrow)
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx, dy):
        x, operand = ctx.saved_tensors
        need_x, need_kernel, _, need_bias, _, _ = ctx.needs_input_grad
        dbias = dy.sum(0, dtype=torch.float32) if need_bias else None
        if operand.dtype is torch.bfloat16:
            dy = bf16.operands(dy)
            dx = bf16.product(dy, operand.t(), x.dtype is torch.bfloat16) if need_x else None
            return dx, bf16.product(x.t(), dy, False) if need_kernel else None, None, dbias, None, None
        dx = gemm.product(dy, operand.t()) if need_x else None
        return dx, gemm.product(x.t(), dy) if need_kernel else None, None, dbias, None, None


def matmul(x: Tensor, kernel: Tensor, copy: Tensor | None = None, bias: Tensor | None = None,
           value: Tensor | None = None, narrow: bool = False) -> Tensor:
    """x @ kernel + bias for x (N, in), kernel (in, out); the kernel's bfloat16 `copy` takes its place if there is one.

    With a known `value` (N, out) of x @ kernel it computes only the gradient.
    """
    return _Matmul.apply(x, kernel, copy, bias, value, narrow)


class _Gathered(torch.autograd.Function):
    """A known product with gathered rows; only the kernel gets a gradient."""

    @staticmethod
    def forward(ctx, deter, index, kernel, value, classes, rounded):
        ctx.save_for_backward(deter, index, kernel)
        ctx.classes, ctx.rounded = classes, rounded
        return value.view_as(value)

    @staticmethod
    def backward(ctx, dy):
        op = torch.ops.hdfast.state_mm_bf16_bwd if ctx.rounded else torch.ops.hdfast.state_mm_bwd
        dkernel = op.default(dy.contiguous(), *ctx.saved_tensors, ctx.classes, False, False, True)[2]
        return None, None, dkernel, None, None, None
