"""Imagination: roll the dynamics forward under the actor, without gradients (the actor is trained by REINFORCE)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hdfast import ops
from hdfast.model.nets import MLP
from hdfast.model.rssm import RSSM
from hdfast.ops.dense import Features
from hdfast.ops.state import State


@dataclass(frozen=True)
class Trajectory:
    """Imagined states and actions, index 0 = start.

    features (H+1, N); past, the first H of them, with the actor's products; action (H, N) or (H+1, N) int64; prior
    (H, N, S, K) log-probabilities of the states 1..H, or empty without `keep_prior`.
    """

    features: Features
    past: Features
    action: Tensor
    prior: Tensor


@torch.no_grad()
def imagine(rssm: RSSM, actor: MLP, start: State, u: Tensor, u_action: Tensor, *,
            keep_prior: bool = False) -> Trajectory:
    """Imagine H steps from N start states under the policy unimix(actor(feat)). Official agent.py, WorldModel.imagine.

    u (H, N, S) latent uniforms; u_action (H, N), or (H+1, N) to also sample an action at the last state (training never
    uses it).
    """
    deter, index, prior, action, pre, flat = ops.imagine(
        start.deter, start.index, u, u_action, rssm.weights(), actor.weights(), classes=rssm.classes, mix=rssm.mix,
        keep_prior=keep_prior)
    features = Features(deter, None, index, flat, rssm.classes)
    products = zip((layer.kernel for layer in actor.hidden), pre[:, :len(u)], strict=True)
    return Trajectory(features, features[:-1].knowing(products), action, prior)
