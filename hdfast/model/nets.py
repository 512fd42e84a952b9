"""Building blocks of the networks: dense layers and MLP heads.

Initializers are those of the official nets.py, class Initializer, with `fan = (fan_in + fan_out) / 2`.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from hdfast import ops
from hdfast.ops.dense import Features, project


def init_normal_(weight: Tensor, fan: float) -> Tensor:
    """Truncated normal at two sigma with variance 1 / fan after truncation."""
    std = math.sqrt(1 / fan) / 0.87962566103423978
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def init_uniform_(weight: Tensor, fan: float) -> Tensor:
    """Uniform on +-sqrt(3 / fan)."""
    limit = math.sqrt(3 / fan)
    return nn.init.uniform_(weight, -limit, limit)


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

    def forward(self, x: Features | Tensor, product: Tensor | None = None) -> Tensor:
        """`product`: that of x with the kernel, if it is known."""
        return self.activate(project(x, self.kernel, value=product, narrow=True))

    def activate(self, pre: Tensor) -> Tensor:
        """The part after the matrix product: (..., units) -> (..., units)."""
        return ops.norm_act(pre, self.norm.scale, self.norm.bias)


class Affine(nn.Module):
    """x @ kernel + bias: (..., in) -> (..., out). The kernel begins uniform, times `scale`; with 0 as zeros."""

    def __init__(self, in_size: int, out_size: int, scale: float = 1.0):
        super().__init__()
        kernel = torch.zeros(in_size, out_size)
        self.kernel = nn.Parameter(init_uniform_(kernel, (in_size + out_size) / 2).mul_(scale) if scale else kernel)
        self.bias = nn.Parameter(torch.zeros(out_size))

    def forward(self, x: Features | Tensor) -> Tensor:
        return project(x, self.kernel, self.bias)


class MLP(nn.Module):
    """`layers` dense blocks and an affine output: (..., in) -> (..., out). Official nets.py, class MLP."""

    def __init__(self, in_size: int, units: int, layers: int, out_size: int, scale: float = 1.0):
        super().__init__()
        self.hidden = nn.ModuleList(Dense(units if i else in_size, units) for i in range(layers))
        self.out = Affine(units, out_size, scale)

    def forward(self, x: Features | Tensor) -> Any:
        return self.out(self.trunk(x))

    def trunk(self, x: Features | Tensor) -> Tensor:
        """The last hidden layer: (..., in) -> (..., units)."""
        products = x.known if isinstance(x, Features) else {}
        for layer in self.hidden:
            x = layer(x, products.get(layer.kernel))
        return x

    def weights(self) -> list[Tensor]:
        """Kernel, scale and bias of each hidden layer, then kernel and bias, as `ops.imagine` takes them."""
        hidden = [p for layer in self.hidden for p in (layer.kernel, layer.norm.scale, layer.norm.bias)]
        return [*hidden, self.out.kernel, self.out.bias]
