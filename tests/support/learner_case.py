"""A small learner, a batch for it and its uniforms."""

import torch
import torch.nn.functional as F

from hdfast.config import Config
from hdfast.learner import Learner, Uniforms
from hdfast.model.world_model import Sequences
from hdfast.spaces import Discrete, ObsSpace

TINY = {"model.deter": 16, "model.units": 12, "model.stoch": 3, "model.classes": 4, "model.cnn_depth": 2,
        "model.mlp_layers": 1, "model.bins": 41, "behavior.horizon": 3}
T, B, A = 6, 3, 5


def make_learner(shape: tuple[int, ...] = (16, 16, 3), seed: int = 0, **overrides) -> Learner:
    torch.manual_seed(seed)
    return Learner(single(shape), Discrete(A), Config.preset("atari100k", **TINY | overrides), torch.device("cpu"))


def single(shape: tuple[int, ...]) -> ObsSpace:
    return ObsSpace.single(shape, "uint8" if len(shape) == 3 else "float32")


def make_data(shape: tuple[int, ...] = (16, 16, 3), seed: int = 0) -> Sequences:
    g = torch.Generator().manual_seed(seed)
    first = torch.rand(T, B, generator=g) < 0.2
    first[0] = True
    action = F.one_hot(torch.randint(A, (T, B), generator=g), A).float()
    name = single(shape).parts[0].name
    return Sequences({name: torch.rand(T, B, *shape, generator=g)}, action, torch.randn(T, B, generator=g),
                     (torch.rand(T, B, generator=g) < 0.9).float(), first)


def draw(seed: int = 0) -> Uniforms:
    g = torch.Generator().manual_seed(seed)
    return Uniforms(torch.rand(T, B, 3, generator=g), torch.rand(3, T * B, 3, generator=g),
                    torch.rand(3, T * B, generator=g))
