"""Imagination: roll the dynamics forward under the actor, and backpropagate through that to its actions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hdfast import ops
from hdfast.model.policy import ChoosingActor, NormalActor
from hdfast.model.rssm import RSSM
from hdfast.ops.dense import Features
from hdfast.ops.state import State


@dataclass(frozen=True)
class Trajectory:
    """Imagined states and actions, index 0 = start.

    features (H+1, N); past, the first H of them, with the actor's products; action (H, N, ...) or (H+1, N, ...), as the
    policy samples it; prior (H, N, S, K) log-probabilities of the states 1..H, or empty without `keep_prior`.
    """

    features: Features
    past: Features
    action: Tensor
    prior: Tensor


@torch.no_grad()
def imagine(rssm: RSSM, actor: ChoosingActor | NormalActor, start: State, u: Tensor, noise: Tensor, *,
            keep_prior: bool = False) -> Trajectory:
    """Imagine H steps from N start states under the actor's policy, without gradient. Official agent.py,
    WorldModel.imagine.

    u (H, N, S) latent uniforms; noise (H, N, ...) of the actions, or (H+1, N, ...) to also sample an action at the last
    state (training never uses it).
    """
    deter, index, prior, action, pre, flat = ops.imagine(
        start.deter, start.index, u, noise, rssm.weights(), actor.weights(), classes=rssm.classes, mix=rssm.mix,
        groups=actor.groups, keep_prior=keep_prior)
    features = Features(deter, None, index, flat, rssm.classes)
    products = zip((layer.kernel for layer in actor.hidden), pre[:, :len(u)], strict=True)
    return Trajectory(features, features[:-1].knowing(products), action, prior)


def followed(rssm: RSSM, trajectory: Trajectory, action: Tensor) -> Features:
    """The features (H+1, N) of a trajectory as a function of its actions (H, N, A), encoded: their values are known,
    their gradient goes through every step to the actions. Official agent.py, with actor_grad_cont `backprop`."""
    features = trajectory.features
    deter, stoch = ops.imagine_states(action, features.deter, features.index, rssm.weights(), classes=rssm.classes,
                                      mix=rssm.mix)
    return Features.of(State(deter, stoch, features.index))
