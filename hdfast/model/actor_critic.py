"""Actor and critic: policy, values, slow critic, return range, and their losses on imagined trajectories."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hdfast import ops
from hdfast.config import BehaviorConfig, ModelConfig
from hdfast.errors import ConfigError
from hdfast.model.nets import MLP
from hdfast.model.policy import Policy, build_actor
from hdfast.ops.dense import Features, Stack
from hdfast.spaces import ActSpace


@dataclass(frozen=True)
class ActorLoss:
    """Actor loss on a trajectory: optimized mean (), then its parts per element (H, N)."""

    loss: Tensor
    element: Tensor
    advantage: Tensor
    logp: Tensor
    ent: Tensor


@dataclass(frozen=True)
class CriticLoss:
    """Critic loss on a trajectory: optimized mean (), and per element (H, N) both targets' terms."""

    loss: Tensor
    nll: Tensor
    reg: Tensor


class ActorCritic(nn.Module):
    """Policy and value networks on model features. Official behaviors.py and agent.py, ImagActorCritic, VFunction."""

    def __init__(self, feat: int, actions: ActSpace, model: ModelConfig, behavior: BehaviorConfig):
        super().__init__()
        self.behavior = behavior
        if actions.sizes and behavior.actor_gradient == "dynamics":
            raise ConfigError(f"behavior.actor_gradient dynamics needs continuous actions, got {actions}; take auto")
        self.dynamics = not actions.sizes and behavior.actor_gradient != "reinforce"
        self.gather: Callable[[Tensor], Tensor] | None = None  # returns of all processes, for the range
        self.actor = build_actor(feat, actions, model)
        self.critic, self.slow = (MLP(feat, model.units, model.mlp_layers, model.bins, scale=0.0) for _ in range(2))
        self.slow.load_state_dict(self.critic.state_dict())
        self.slow.requires_grad_(False)
        self.first_layers: Stack | None = None  # of critic and slow: one product for both
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    @property
    def gamma(self) -> float:
        return 1 - 1 / self.behavior.discount_horizon

    def values(self, feat: Features) -> tuple[Tensor, Tensor]:
        """Logits of the critic, with gradient, and values of the slow critic for all states but the last, without: feat
        (H+1, N, F) -> (H+1, N, bins), (H, N)."""
        feat = feat.multiplied(self.first_layers)
        with torch.enable_grad():
            logit = self.critic(feat)
        return logit, ops.twohot_mean(self.slow(feat[:-1]))

    def returns(self, reward: Tensor, value: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
        """Lambda returns (H, N) and state weights (H+1, N) of reward (H, N), value and cont (H+1, N)."""
        ret = ops.lambda_return(reward, value, cont, gamma=self.gamma, lam=self.behavior.lam)
        return ret, ops.return_weight(cont, gamma=self.gamma)

    @torch.no_grad()
    def next_range(self, ret: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The return range moved toward ret (H, N), and the advantage's divisor: low, high, scale, each ()."""
        b = self.behavior
        if self.gather:
            ret = self.gather(ret)
        return ops.return_range(ret, self.low, self.high, decay=b.return_decay,
                                percentiles=(b.return_low, b.return_high), floor=b.return_floor)

    def move_range(self, low: Tensor, high: Tensor) -> None:
        """Make this the return range."""
        self.low.copy_(low)
        self.high.copy_(high)

    def actor_loss(self, policy: Policy, action: Tensor, ret: Tensor, value: Tensor, weight: Tensor,
                   scale: Tensor) -> ActorLoss:
        """policy of the states that action (H, N, ...) left, ret, value, weight (H, N), scale () -> ActorLoss. Official
        ImagActorCritic.loss.

        The range's offset cancels in the advantage: (ret - value) / scale. With `dynamics` ret and value have gradients
        to the actions; the baseline's counts, too.
        """
        advantage, entropy = ret / scale - value / scale, self.behavior.entropy
        if self.dynamics:
            logp, ent = policy.log_prob(action.detach())
            element = weight * (-advantage - entropy * ent)
        else:
            element, logp, ent = policy.reinforce(action.detach(), advantage, weight, entropy=entropy)
        return ActorLoss(element.mean(), element.detach(), advantage.detach(), logp.detach(), ent.detach())

    def critic_loss(self, logit: Tensor, ret: Tensor, slow_value: Tensor, weight: Tensor) -> CriticLoss:
        """logit (H, N, bins) of the critic, targets ret, slow_value and weight (H, N). Official VFunction.loss."""
        nll, reg = ops.twohot_losses(logit, ret, slow_value)
        return CriticLoss((weight * (nll + self.behavior.slow_reg * reg)).mean(), nll, reg)
