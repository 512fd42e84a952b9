"""An actor and a start for the imagined rollout."""

import torch
import torch.nn.functional as F
from scan_cases import make

from hdfast.config import Config
from hdfast.model.actor_critic import ActorCritic
from hdfast.ops.state import State


def rollout(sizes, horizon, rows, layers, extra=0, device="cpu"):
    rssm, _ = make(sizes)
    _, _, _, actions, deter, units, stoch, classes = sizes
    config = Config.preset("atari100k", **{"model.units": units, "model.mlp_layers": layers})
    actor_critic = ActorCritic(deter + stoch * classes, actions, config.model, config.behavior)
    index = torch.randint(classes, (rows, stoch))
    start = State(*(x.to(device) for x in (torch.randn(rows, deter), F.one_hot(index, classes).float(), index)))
    u, u_action = (x.to(device) for x in (torch.rand(horizon, rows, stoch), torch.rand(horizon + extra, rows)))
    rssm, actor_critic = rssm.to(device), actor_critic.to(device)
    return (rssm, start, u, u_action), actor_critic.actor
