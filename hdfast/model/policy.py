"""The policy: what an actor says about the next action, as choices or as a normal distribution.

Noise comes from outside: uniforms in [0, 1) for choices, standard normals for a normal distribution.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hdfast import ops
from hdfast.config import ModelConfig
from hdfast.model.nets import MLP, Affine
from hdfast.ops import reference
from hdfast.ops.dense import Features
from hdfast.ops.state import one_hot
from hdfast.spaces import ActSpace, Discrete

STD = reference.LEAST_STD, reference.LARGEST_STD


@dataclass(frozen=True)
class Choices:
    """Independent choices: the log-probabilities (..., n) of each group. A single choice has no axis of groups."""

    logits: tuple[Tensor, ...]
    single: bool

    def sample(self, noise: Tensor) -> Tensor:
        """Actions by uniforms (...) or (..., groups): int64 of the same shape."""
        drawn = [ops.sample_index(logit, u) for logit, u in zip(self.logits, self.columns(noise), strict=True)]
        return drawn[0] if self.single else torch.stack(drawn, -1)

    def encode(self, action: Tensor) -> Tensor:
        """The one-hot codes of actions, one after the other: (..., width)."""
        codes = [one_hot(index, logit.shape[-1], logit.dtype)
                 for logit, index in zip(self.logits, self.columns(action), strict=True)]
        return codes[0] if self.single else torch.cat(codes, -1)

    def reinforce(self, action: Tensor, advantage: Tensor, weight: Tensor, *,
                  entropy: float) -> tuple[Tensor, Tensor, Tensor]:
        """`ops.actor_loss` of all groups together: loss, log-probability and entropy (...)."""
        parts = [ops.actor_loss(logit, index, advantage, weight, entropy=entropy)
                 for logit, index in zip(self.logits, self.columns(action), strict=True)]
        return parts[0] if self.single else tuple(torch.stack(x).sum(0) for x in zip(*parts, strict=True))

    def randomness(self, ent: Tensor) -> Tensor:
        """The share that entropies have of the largest one."""
        return ent / sum(math.log(max(logit.shape[-1], 2)) for logit in self.logits)

    def columns(self, x: Tensor) -> tuple[Tensor, ...]:
        """x of each group."""
        return (x,) if self.single else x.unbind(-1)


@dataclass(frozen=True)
class Normal:
    """Independent normal numbers, the official `normal` with a bounded mean: mean and std (..., A)."""

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std * noise (..., A), with the gradient of both."""
        return self.mean + self.std * noise

    def encode(self, action: Tensor) -> Tensor:
        """The actions themselves."""
        return action

    def log_prob(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of actions and entropy, which may be negative: (..., A) -> (...), (...)."""
        return ops.normal_log_prob(self.mean, self.std, action)

    def reinforce(self, action: Tensor, advantage: Tensor, weight: Tensor, *,
                  entropy: float) -> tuple[Tensor, Tensor, Tensor]:
        """As `Choices.reinforce`."""
        logp, ent = self.log_prob(action)
        return weight * (-logp * advantage - entropy * ent), logp, ent

    def randomness(self, ent: Tensor) -> Tensor:
        """Where entropies lie between those of the smallest and the largest std."""
        low, high = (self.mean.shape[-1] * (math.log(std) + (1 + math.log(2 * math.pi)) / 2) for std in STD)
        return (ent - low) / (high - low)


Policy = Choices | Normal


class ChoosingActor(MLP):
    """Features (..., F) -> Choices, whose probabilities have a share `mix` of uniform ones. Official nets.py, MLP with
    dist `onehot`."""

    def __init__(self, in_size: int, space: ActSpace, model: ModelConfig):
        super().__init__(in_size, model.units, model.mlp_layers, space.width, model.actor_outscale)
        self.sizes, self.mix = space.sizes, model.unimix
        self.groups = None if isinstance(space, Discrete) else space.sizes

    def forward(self, feat: Features | Tensor) -> Choices:
        raw = super().forward(feat)
        parts = [raw] if self.groups is None else raw.split(self.sizes, -1)
        return Choices(tuple(ops.unimix(x, self.mix) for x in parts), self.groups is None)

    def noise(self, *lead: int, generator: torch.Generator) -> Tensor:
        """What `sample` takes for actions (*lead, ...)."""
        return torch.rand(*lead, *([] if self.groups is None else [len(self.sizes)]), generator=generator,
                          device=generator.device)


class NormalActor(MLP):
    """Features (..., F) -> Normal, by an output layer for the mean and one for the std. Official nets.py, MLP with dist
    `normal`."""

    groups: Any = ()  # there is nothing to choose from

    def __init__(self, in_size: int, space: ActSpace, model: ModelConfig):
        super().__init__(in_size, model.units, model.mlp_layers, space.width, model.actor_outscale)
        self.std = Affine(model.units, space.width, model.actor_outscale)
        self.width = space.width

    def forward(self, feat: Features | Tensor) -> Normal:
        hidden = self.trunk(feat)
        return Normal(*ops.normal_policy(self.out(hidden), self.std(hidden)))

    def noise(self, *lead: int, generator: torch.Generator) -> Tensor:
        """What `sample` takes for actions (*lead, A)."""
        return torch.randn(*lead, self.width, generator=generator, device=generator.device)

    def weights(self) -> list[Tensor]:
        return [*super().weights(), self.std.kernel, self.std.bias]


def build_actor(in_size: int, space: ActSpace, model: ModelConfig) -> ChoosingActor | NormalActor:
    """The actor of an action space."""
    return (ChoosingActor if space.sizes else NormalActor)(in_size, space, model)
