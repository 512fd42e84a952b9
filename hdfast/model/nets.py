"""Building blocks of the networks: dense layers and MLP heads.

Initialisers are those of the official nets.py, class Initializer, with `fan = (fan_in + fan_out) / 2`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hdfast import ops
from hdfast.ops import bf16
from hdfast.ops.dense import evenly, given, project


def init_normal_(weight: Tensor, fan: float) -> Tensor:
    """Truncated normal at two sigma with variance 1 / fan after truncation."""
    std = math.sqrt(1 / fan) / 0.87962566103423978
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def init_uniform_(weight: Tensor, fan: float) -> Tensor:
    """Uniform on +-sqrt(3 / fan)."""
    limit = math.sqrt(3 / fan)
    return nn.init.uniform_(weight, -limit, limit)


def one_hot(index: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """One-hot of index (...) -> (..., classes); unlike torch's it never looks at values on the host."""
    out = torch.empty(*index.shape, classes, dtype=dtype, device=index.device)
    return torch.eq(index.unsqueeze(-1), torch.arange(classes, device=index.device), out=out)


class Norm(nn.Module):
    """Scale and bias of a LayerNorm over `size` features; the arithmetic is in the op that uses them."""

    def __init__(self, size: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))


class Dense(nn.Module):
    """silu(LayerNorm(x @ kernel)): (..., in) -> (..., units). The linear map has no bias."""

    def __init__(self, in_size: int, units: int):
        super().__init__()
        self.kernel = nn.Parameter(init_normal_(torch.empty(in_size, units), (in_size + units) / 2))
        self.norm = Norm(units)

    def forward(self, x: Tensor, pre: Tensor | None = None) -> Tensor:
        return self.activate(project(x, self.kernel, half=True) if pre is None else given(x, self.kernel, pre))

    def activate(self, pre: Tensor) -> Tensor:
        """The part after the matrix product: (..., units) -> (..., units)."""
        return ops.norm_act(pre, self.norm.scale, self.norm.bias)


class Affine(nn.Module):
    """x @ kernel + bias: (..., in) -> (..., out). `init` is 'uniform' or 'zeros'."""

    def __init__(self, in_size: int, out_size: int, init: str = "uniform"):
        super().__init__()
        kernel = torch.zeros(in_size, out_size)
        self.kernel = nn.Parameter(init_uniform_(kernel, (in_size + out_size) / 2) if init == "uniform" else kernel)
        self.bias = nn.Parameter(torch.zeros(out_size))

    def forward(self, x: Tensor) -> Tensor:
        return project(x, self.kernel, self.bias)


class MLP(nn.Module):
    """`layers` dense blocks and an affine output: (..., in) -> (..., out). Official nets.py, class MLP."""

    def __init__(self, in_size: int, units: int, layers: int, out_size: int, init: str = "uniform"):
        super().__init__()
        self.hidden = nn.ModuleList(Dense(units if i else in_size, units) for i in range(layers))
        self.out = Affine(units, out_size, init)

    def forward(self, x: Tensor, pre: Sequence[Tensor] = ()) -> Tensor:
        """`pre` are the products of the first layers with their kernels, where they are known: (..., units) each."""
        for i, layer in enumerate(self.hidden):
            x = layer(x, pre[i] if i < len(pre) else None)
        return self.out(x)

    def traced(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and what `forward` takes as `pre` (layers, ..., units)."""
        pre = []
        for layer in self.hidden:
            pre.append(project(x, layer.kernel, half=True))
            x = layer.activate(pre[-1])
        return self.out(x), torch.stack(pre)


@torch.no_grad()
def first_products(x, networks: Sequence[MLP]) -> list[Sequence[Tensor]]:
    """What each network takes as `pre` for its first layer on a common input x (..., in), by one product of all.

    Nothing where the kernels do not lie evenly in one allocation, or where states are gathered instead.
    """
    kernels = [kernel if (copy := bf16.shadow(kernel)) is None else copy
               for kernel in (network.hidden[0].kernel for network in networks)]
    if not isinstance(x, Tensor) or (stack := evenly(kernels)) is None:
        return [()] * len(networks)
    rows = x.reshape(-1, x.shape[-1]).to(stack.dtype)
    y = torch.bmm(rows.expand(len(kernels), *rows.shape), stack)
    return [[part.view(*x.shape[:-1], -1)] for part in y]
