"""Building blocks of the networks: dense layers, MLP heads, image and vector encoders and decoders.

Images are channels-last (..., h, w, c) everywhere, so that nothing is copied between layers. Initialisers are those of
the official nets.py, class Initializer, with `fan = (fan_in + fan_out) / 2`.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from hdfast import ops
from hdfast.ops import bf16
from hdfast.ops import given as known
from hdfast.ops.conv import conv, deconv
from hdfast.ops.gemm import linear
from hdfast.ops.imagine import state_mm
from hdfast.ops.observe_scan import usable

MIN_RES = 4  # side of the smallest feature map, official `minres`


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


def project(x, kernel: Tensor, bias: Tensor | None = None, *, rows: slice | None = None, half: bool = False) -> Tensor:
    """x @ kernel (+ bias), or of the kernel only those `rows`, the native way where it serves.

    x (..., in), or model states (an rssm.State) of `in` features, whose one-hot part is gathered, not multiplied. A
    kernel with a bfloat16 shadow is multiplied in bfloat16; the result is float32, or with `half` bfloat16.
    """
    copy = bf16.shadow(kernel)
    if rows is not None:  # not always: even a whole slice has a backward pass, which copies the kernel's gradient
        kernel, copy = kernel[rows], None if copy is None else copy[rows]
    if not isinstance(x, Tensor):
        if usable(x.deter):
            product = state_mm if copy is None else partial(bf16.state_mm, half=half)
            y = product(x.deter, x.stoch, x.index, kernel, classes=classes_of(x, kernel))
            return y if bias is None else y + bias
        x = x.feat()
    if copy is not None:
        return bf16.linear(x, kernel, copy, bias, half=half)
    if usable(x):
        return linear(x, kernel, bias)
    return x @ kernel if bias is None else torch.addmm(bias, x.flatten(0, -2), kernel).unflatten(0, x.shape[:-1])


def classes_of(state, kernel: Tensor) -> int:
    """Classes per latent of model states that are multiplied with a kernel (D + S*K, out)."""
    return (len(kernel) - state.deter.shape[-1]) // state.index.shape[-1]


def given(x, kernel: Tensor, value: Tensor) -> Tensor:
    """project(x, kernel, half=True) whose value is known already: only its gradient is computed. States get none."""
    if bf16.shadow(kernel) is not None:
        value = value.bfloat16()
    if isinstance(x, Tensor):
        return known.rows(x, kernel, value)
    return known.states(x.deter, x.index, kernel, value, classes=classes_of(x, kernel))


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


def evenly(kernels: Sequence[Tensor]) -> Tensor | None:
    """Matrices (in, out) as one view (kernels, in, out), where memory lets them be one."""
    first, starts = kernels[0], [kernel.storage_offset() for kernel in kernels]
    step = starts[1] - starts[0]
    same = all(kernel.shape == first.shape and kernel.is_contiguous() and kernel.dtype is first.dtype
               and kernel.untyped_storage()._cdata == first.untyped_storage()._cdata for kernel in kernels)
    if not same or step < first.numel() or any(b - a != step for a, b in pairwise(starts)):
        return None
    return first.detach().as_strided((len(kernels), *first.shape), (step, *first.stride()))


class ConvStage(nn.Module):
    """4x4 convolution of stride 2, padding 1, LayerNorm over channels, SiLU: (n, h, w, c) -> (n, h/2, w/2, d)."""

    def __init__(self, in_depth: int, depth: int):
        super().__init__()
        kernel = torch.empty(depth, in_depth, 4, 4)
        self.kernel = nn.Parameter(init_normal_(kernel, 16 * (in_depth + depth) / 2))
        self.norm = Norm(depth)

    def forward(self, x: Tensor) -> Tensor:
        return ops.norm_act(conv(x, self.kernel), self.norm.scale, self.norm.bias)


def shifted(x: Tensor, by: Tensor | float) -> Tensor:
    """x + by, in place unless x is a view, whose whole gradient autograd would copy."""
    return x + by if x._is_view() else x.add_(by)


class DeconvStage(nn.Module):
    """4x4 transposed convolution of stride 2, padding 1: (n, h, w, c) -> (n, 2h, 2w, d).

    Stages before the last have LayerNorm and SiLU and no bias; the last has a bias and neither of the two.
    """

    def __init__(self, in_depth: int, depth: int, last: bool):
        super().__init__()
        kernel, fan = torch.empty(in_depth, depth, 4, 4), 16 * (in_depth + depth) / 2
        self.kernel = nn.Parameter((init_uniform_ if last else init_normal_)(kernel, fan))
        self.norm = None if last else Norm(depth)
        self.bias = nn.Parameter(torch.zeros(depth)) if last else None

    def forward(self, x: Tensor) -> Tensor:
        x = deconv(x, self.kernel, last=self.norm is None)
        return shifted(x, self.bias) if self.norm is None else ops.norm_act(x, self.norm.scale, self.norm.bias)


def stage_depths(size: int, depth: int) -> list[int]:
    """Channels after each encoder stage for a square image of side `size`, which halves until MIN_RES."""
    return [depth * 2 ** i for i in range((size // MIN_RES).bit_length() - 1)]


class ImageEncoder(nn.Module):
    """Image (..., h, w, c) in [0, 1] -> embed (..., E) in (h, w, c) order. Official nets.py, ImageEncoderResnet."""

    def __init__(self, shape: tuple[int, int, int], depth: int):
        super().__init__()
        depths = stage_depths(shape[0], depth)
        self.stages = nn.ModuleList(ConvStage(a, b) for a, b in zip([shape[2], *depths], depths, strict=False))
        self.size = MIN_RES * MIN_RES * depths[-1]

    def forward(self, image: Tensor) -> Tensor:
        x = image.flatten(0, -4) - 0.5
        for stage in self.stages:
            x = stage(x)
        return x.reshape(*image.shape[:-3], self.size)


class ImageDecoder(nn.Module):
    """Features (..., F) -> image mean (..., h, w, c), no sigmoid. Official nets.py, ImageDecoderResnet."""

    def __init__(self, in_size: int, shape: tuple[int, int, int], depth: int):
        super().__init__()
        depths = stage_depths(shape[0], depth)[::-1]
        self.depth = depths[0]
        self.inp = Affine(in_size, MIN_RES * MIN_RES * self.depth)
        outs = [*depths[1:], shape[2]]
        self.stages = nn.ModuleList(
            DeconvStage(a, b, last=i == len(outs) - 1) for i, (a, b) in enumerate(zip(depths, outs, strict=True)))

    def forward(self, feat: Tensor) -> Tensor:
        x = self.inp(feat)
        lead, x = x.shape[:-1], x.reshape(-1, MIN_RES, MIN_RES, self.depth)
        for stage in self.stages:
            x = stage(x)
        return shifted(x, 0.5).unflatten(0, lead)


class VectorEncoder(nn.Module):
    """Vector (..., n), raw units -> embed (..., units): dense blocks on symlog inputs. Official MultiEncoder."""

    def __init__(self, in_size: int, units: int, layers: int):
        super().__init__()
        self.hidden = nn.ModuleList(Dense(units if i else in_size, units) for i in range(layers))
        self.size = units

    def forward(self, vector: Tensor) -> Tensor:
        x = ops.symlog(vector)
        for layer in self.hidden:
            x = layer(x)
        return x
