"""Imagination: roll the dynamics forward under the actor, without gradients (the actor is trained by REINFORCE)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hdfast import ops
from hdfast.model.nets import MLP, one_hot
from hdfast.model.rssm import RSSM
from hdfast.ops import bf16
from hdfast.ops.execution import path
from hdfast.ops.imagine import imagine as native_imagine
from hdfast.ops.state import State


@dataclass(frozen=True)
class Trajectory:
    """Imagined states and actions, index 0 = start: deter (H+1, N, D), index (H+1, N, S), action (H, N) or (H+1, N)
    int64, prior (H, N, S, K) log-probabilities of the states 1..H, or empty where nobody asked for them, pre (layers, H
    or H+1, N, U) what the actor's LayerNorms read, where its network is known."""

    deter: Tensor
    index: Tensor
    prior: Tensor
    action: Tensor
    pre: Tensor | None
    classes: int
    features: Tensor | None = None

    @property
    def feat(self) -> Tensor:
        """Features (H+1, N, F); made anew where the rollout did not need them."""
        if self.features is not None:
            return self.features
        return torch.cat([self.deter, one_hot(self.index, self.classes, self.deter.dtype).flatten(-2)], -1)

    def heads(self, begin: int | None = None, end: int | None = None) -> State | Tensor:
        """What heads read of the steps [begin, end): states where the native ops take them apart, else features."""
        if self.features is not None:
            return self.features[begin:end]
        return State(self.deter[begin:end], None, self.index[begin:end])


@torch.no_grad()
def imagine(rssm: RSSM, policy: Callable[[Tensor], Tensor], start: State, u: Tensor, u_action: Tensor, *,
            actor: MLP | None = None) -> Trajectory:
    """Imagine H steps from N start states. Official agent.py, WorldModel.imagine.

    policy maps features (N, F) to action log-probabilities (N, A); u (H, N, S) latent uniforms; u_action (H, N), or
    (H+1, N) to also sample an action at the last state (training never uses it). `actor` is the network of a policy
    that is unimix(actor(feat), rssm.mix): its products are kept, and the native backend makes the whole rollout.
    """
    if actor is not None and path(start.deter):
        hidden = [p for layer in actor.hidden for p in (layer.kernel, layer.norm.scale, layer.norm.bias)]
        copies = bf16.shadows(layer.kernel for layer in (*actor.hidden, actor.out))
        *out, feat = native_imagine(start.deter, start.index, u, u_action, rssm.parameter_list(),
                                    [*hidden, actor.out.kernel, actor.out.bias], classes=rssm.classes, mix=rssm.mix,
                                    half=bool(copies), copies=[*rssm.copies(), *copies])
        return Trajectory(*out, rssm.classes, feat)
    states, priors, actions, feats, pres = [start], [], [], [start.feat()], []
    for step, uniform in enumerate(u_action):
        if actor is None:
            logit = policy(feats[-1])
        else:
            logit, pre = actor.traced(feats[-1])
            logit = ops.unimix(logit, rssm.mix)
            pres.append(pre)
        actions.append(ops.sample_index(logit, uniform))
        if step < len(u):
            state, prior = rssm.img_step(states[-1], one_hot(actions[-1], logit.shape[-1], logit.dtype), u[step])
            states.append(state)
            priors.append(prior)
            feats.append(state.feat())
    return Trajectory(torch.stack([s.deter for s in states]), torch.stack([s.index for s in states]),
                      torch.stack(priors), torch.stack(actions), torch.stack(pres, 1) if pres else None, rssm.classes,
                      torch.stack(feats))
