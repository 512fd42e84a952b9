"""A small learner, a batch for it and its uniforms."""

import numpy as np
import torch

from hdfast.config import Config
from hdfast.learner import Learner, Uniforms
from hdfast.model.world_model import Sequences
from hdfast.spaces import ActSpace, Discrete, ObsSpace
from kinds import IMAGE

TINY = {"model.deter": 16, "model.units": 12, "model.stoch": 3, "model.classes": 4, "model.cnn_depth": 2,
        "model.mlp_layers": 1, "model.bins": 41, "behavior.horizon": 3}
T, B, A = 6, 3, 5
ACTIONS = Discrete(A)


def make_learner(space: ObsSpace = IMAGE, actions: ActSpace = ACTIONS, seed: int = 0, **overrides) -> Learner:
    torch.manual_seed(seed)
    return Learner(space, actions, Config.preset("atari100k", **TINY | overrides), torch.device("cpu"))


def make_data(space: ObsSpace = IMAGE, actions: ActSpace = ACTIONS, seed: int = 0) -> Sequences:
    g = torch.Generator().manual_seed(seed)
    first = torch.rand(T, B, generator=g) < 0.2
    first[0] = True
    action = actions.encode(actions.random(np.random.default_rng(seed), T * B).reshape(T, B, *actions.shape))
    obs = {part.name: torch.rand(T, B, *part.shape, generator=g) for part in space.parts}
    return Sequences(obs, torch.from_numpy(action), torch.randn(T, B, generator=g),
                     (torch.rand(T, B, generator=g) < 0.9).float(), first)


def draw(seed: int = 0, learner: Learner | None = None) -> Uniforms:
    """Those of `learner`, by default of one with single choices."""
    g = torch.Generator().manual_seed(seed)
    post, prior = torch.rand(T, B, 3, generator=g), torch.rand(3, T * B, 3, generator=g)
    return Uniforms(post, prior, torch.rand(3, T * B, generator=g) if learner is None else
                    learner.actor_critic.actor.noise(3, T * B, generator=g))
