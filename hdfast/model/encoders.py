"""Image and vector encoders, and the image decoder.

Images are channels-last (..., h, w, c) everywhere, so layers copy nothing.
"""

import torch
from torch import Tensor, nn

from hdfast import ops
from hdfast.model.nets import Affine, Dense, Norm, init_normal_, init_uniform_

MIN_RES = 4  # side of the smallest feature map, official `minres`


class ConvStage(nn.Module):
    """4x4 convolution of stride 2, padding 1, LayerNorm over channels, SiLU: (n, h, w, c) -> (n, h/2, w/2, d)."""

    def __init__(self, in_depth: int, depth: int):
        super().__init__()
        kernel = torch.empty(depth, in_depth, 4, 4)
        self.kernel = nn.Parameter(init_normal_(kernel, 16 * (in_depth + depth) / 2))
        self.norm = Norm(depth)

    def forward(self, x: Tensor) -> Tensor:
        return ops.norm_act(ops.conv(x, self.kernel), self.norm.scale, self.norm.bias)


def shifted(x: Tensor, by: Tensor | float) -> Tensor:
    """x + by, in place unless x is a view: autograd would copy a view's whole gradient."""
    return x + by if x._is_view() else x.add_(by)


class DeconvStage(nn.Module):
    """4x4 transposed convolution of stride 2, padding 1: (n, h, w, c) -> (n, 2h, 2w, d).

    Stages before the last have LayerNorm and SiLU and no bias; the last has only a bias.
    """

    def __init__(self, in_depth: int, depth: int, last: bool):
        super().__init__()
        kernel, fan = torch.empty(in_depth, depth, 4, 4), 16 * (in_depth + depth) / 2
        self.kernel = nn.Parameter((init_uniform_ if last else init_normal_)(kernel, fan))
        self.norm = None if last else Norm(depth)
        self.bias = nn.Parameter(torch.zeros(depth)) if last else None

    def forward(self, x: Tensor) -> Tensor:
        x = ops.deconv(x, self.kernel, last=self.norm is None)
        return shifted(x, self.bias) if self.norm is None else ops.norm_act(x, self.norm.scale, self.norm.bias)


def stage_depths(size: int, depth: int) -> list[int]:
    """Channels after each encoder stage for a square image of side `size`, which halves until MIN_RES."""
    return [depth * 2 ** i for i in range((size // MIN_RES).bit_length() - 1)]


class ImageEncoder(nn.Module):
    """Image (..., h, w, c) in [0, 1] -> embed (..., E) in (h, w, c) order. Official nets.py, ImageEncoderResnet."""

    def __init__(self, shape: tuple[int, int, int], depth: int):
        super().__init__()
        depths = stage_depths(shape[0], depth)
        self.stages = nn.Sequential(*(ConvStage(a, b) for a, b in zip([shape[2], *depths], depths, strict=False)))
        self.size = MIN_RES * MIN_RES * depths[-1]

    def forward(self, image: Tensor) -> Tensor:
        x = self.stages(image.flatten(0, -4) - 0.5)
        return x.reshape(*image.shape[:-3], self.size)


class ImageDecoder(nn.Module):
    """Features (..., F) -> image mean (..., h, w, c), no sigmoid. Official nets.py, ImageDecoderResnet."""

    def __init__(self, in_size: int, shape: tuple[int, int, int], depth: int):
        super().__init__()
        depths = stage_depths(shape[0], depth)[::-1]
        self.depth = depths[0]
        self.inp = Affine(in_size, MIN_RES * MIN_RES * self.depth)
        outs = [*depths[1:], shape[2]]
        self.stages = nn.Sequential(*(
            DeconvStage(a, b, last=i == len(outs) - 1) for i, (a, b) in enumerate(zip(depths, outs, strict=True))))

    def forward(self, feat: Tensor) -> Tensor:
        x = self.inp(feat)
        y = self.stages(x.reshape(-1, MIN_RES, MIN_RES, self.depth))
        return shifted(y, 0.5).unflatten(0, x.shape[:-1])


class VectorEncoder(nn.Module):
    """Vector (..., n), raw units -> embed (..., units): dense blocks on symlog inputs. Official MultiEncoder."""

    def __init__(self, in_size: int, units: int, layers: int):
        super().__init__()
        self.hidden = nn.Sequential(*(Dense(units if i else in_size, units) for i in range(layers)))
        self.size = units

    def forward(self, vector: Tensor) -> Tensor:
        return self.hidden(ops.symlog(vector))
