"""Imagination: roll the dynamics forward under the actor, without gradients (the actor is trained by REINFORCE)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hdfast import ops
from hdfast.rssm import RSSM, State


@dataclass(frozen=True)
class Trajectory:
    """Imagined states and actions, index 0 = start: feat (H+1, N, F), deter (H+1, N, D), index (H+1, N, S),
    prior (H, N, S, K) log-probabilities of the states 1..H, action (H, N) or (H+1, N) int64."""

    feat: Tensor
    deter: Tensor
    index: Tensor
    prior: Tensor
    action: Tensor


@torch.no_grad()
def imagine(rssm: RSSM, policy: Callable[[Tensor], Tensor], start: State, u: Tensor, u_action: Tensor) -> Trajectory:
    """Imagine H steps from N start states. Official agent.py, WorldModel.imagine.

    policy maps features (N, F) to action log-probabilities (N, A); u (H, N, S) latent uniforms; u_action (H, N), or
    (H+1, N) to also sample an action at the last state (training never uses it).
    """
    states, priors, actions, feats = [start], [], [], [start.feat()]
    for step, uniforms in enumerate(u):
        logit = policy(feats[-1])
        action = ops.sample_index(logit, u_action[step])
        state, prior = rssm.img_step(states[-1], F.one_hot(action, logit.shape[-1]).to(logit.dtype), uniforms)
        actions.append(action)
        states.append(state)
        priors.append(prior)
        feats.append(state.feat())
    if len(u_action) > len(u):
        actions.append(ops.sample_index(policy(feats[-1]), u_action[-1]))
    return Trajectory(torch.stack(feats), torch.stack([s.deter for s in states]),
                      torch.stack([s.index for s in states]), torch.stack(priors), torch.stack(actions))
