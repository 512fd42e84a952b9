"""Encoder and decoder of observations: images by convolutions, vectors by dense layers.

Images are channels-last (..., h, w, c) everywhere, so layers copy nothing. Official nets.py, MultiEncoder and
MultiDecoder.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from hdfast import ops
from hdfast.config import ModelConfig
from hdfast.model.nets import Affine, Dense, Norm, init_normal_, init_uniform_
from hdfast.ops.dense import Features
from hdfast.spaces import ObsSpace

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


class DeconvStage(nn.Module):
    """4x4 transposed convolution of stride 2, padding 1: (n, h, w, c) -> (n, 2h, 2w, d).

    Stages before the last have LayerNorm and SiLU and no bias; the last has only a bias, and `offset`, a constant.
    """

    def __init__(self, in_depth: int, depth: int, last: bool, offset: float = 0.0):
        super().__init__()
        kernel, fan = torch.empty(in_depth, depth, 4, 4), 16 * (in_depth + depth) / 2
        self.kernel = nn.Parameter((init_uniform_ if last else init_normal_)(kernel, fan))
        self.norm = None if last else Norm(depth)
        self.bias, self.offset = nn.Parameter(torch.zeros(depth)) if last else None, offset

    def forward(self, x: Tensor) -> Tensor:
        x = ops.deconv(x, self.kernel, last=self.norm is None)
        if self.norm is not None:
            return ops.norm_act(x, self.norm.scale, self.norm.bias)
        by = (self.bias + self.offset).repeat(x.shape[2])  # a whole row of pixels: three numbers at a time are slow
        return (x.flatten(-2) + by).view_as(x)


def stage_depths(size: int, depth: int) -> list[int]:
    """Channels after each encoder stage for a square image of side `size`, which halves until MIN_RES."""
    return [depth * 2 ** i for i in range((size // MIN_RES).bit_length() - 1)]


class Encoder(nn.Module):
    """Observations {name: (..., *shape)}, images in [0, 1] and vectors in raw units -> embed (..., E).

    All images together enter the convolutions, side by side in their channels, and all vectors the dense layers, side
    by side; the embedding is that of the images in (h, w, c) order, then that of the vectors.
    """

    def __init__(self, space: ObsSpace, model: ModelConfig):
        super().__init__()
        self.images, self.vectors, self.size = space.images, space.vectors, 0
        if self.images:
            depths = stage_depths(self.images[0].shape[0], model.cnn_depth)
            widths = [channels(space), *depths]
            self.stages = nn.Sequential(*(ConvStage(a, b) for a, b in zip(widths, depths, strict=False)))
            self.size += MIN_RES * MIN_RES * depths[-1]
        if self.vectors:
            self.hidden = dense_layers(sum(part.shape[0] for part in self.vectors), model)
            self.size += model.vector_units or model.units

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        embeds = []
        if self.images:
            image = joined(obs, self.images)
            embeds.append(self.stages(image.flatten(0, -4) - 0.5).reshape(*image.shape[:-3], -1))
        if self.vectors:
            embeds.append(self.hidden(ops.symlog(joined(obs, self.vectors))))
        return joined(dict(enumerate(embeds)))


class Decoder(nn.Module):
    """Features (..., F) -> {name: (..., *shape)}: the mean of images, without sigmoid, and vectors in symlog units.

    Vectors share their dense layers and have an output layer each.
    """

    def __init__(self, in_size: int, space: ObsSpace, model: ModelConfig):
        super().__init__()
        self.images, self.vectors = space.images, space.vectors
        if self.images:
            depths = stage_depths(self.images[0].shape[0], model.cnn_depth)[::-1]
            self.depth = depths[0]
            self.inp = Affine(in_size, MIN_RES * MIN_RES * self.depth)
            outs = [*depths[1:], channels(space)]
            self.stages = nn.Sequential(*(
                DeconvStage(a, b, last=i == len(outs) - 1, offset=0.5)
                for i, (a, b) in enumerate(zip(depths, outs, strict=True))))
        if self.vectors:
            self.hidden = dense_layers(in_size, model)
            self.outs = nn.ModuleList(Affine(model.vector_units or model.units, part.shape[0])
                                      for part in self.vectors)

    def forward(self, feat: Features | Tensor) -> dict[str, Tensor]:
        found = {}
        if self.images:
            x = self.inp(feat)
            y = self.stages(x.reshape(-1, MIN_RES, MIN_RES, self.depth)).unflatten(0, x.shape[:-1])
            names, depths = zip(*((part.name, part.shape[-1]) for part in self.images), strict=True)
            found = dict(zip(names, y.split(depths, -1) if len(depths) > 1 else [y], strict=True))
        if self.vectors:
            hidden = self.hidden(feat)
            found |= {part.name: out(hidden) for part, out in zip(self.vectors, self.outs, strict=True)}
        return found


def dense_layers(in_size: int, model: ModelConfig) -> nn.Sequential:
    """The dense blocks of vectors."""
    sizes = [in_size, *[model.vector_units or model.units] * (model.vector_layers or model.mlp_layers)]
    return nn.Sequential(*(Dense(a, b) for a, b in pairwise(sizes)))


def channels(space: ObsSpace) -> int:
    """Channels of all images together."""
    return sum(part.shape[-1] for part in space.images)


def joined(values: dict[Any, Tensor], parts: Iterable[Any] = ()) -> Tensor:
    """Tensors side by side in the last axis; a single one as it is."""
    found = [values[part.name] for part in parts] or [*values.values()]
    return found[0] if len(found) == 1 else torch.cat(found, -1)
