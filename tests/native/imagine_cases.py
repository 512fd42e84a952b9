"""An actor and a start for the imagined rollout."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from scan_cases import make

from hdfast.config import Config
from hdfast.model.actor_critic import ActorCritic
from hdfast.ops import reference
from hdfast.ops.state import Parameters, State
from hdfast.spaces import Discrete

# Policies of 6 actions by `groups`: one categorical, several, and the normal policy.
POLICIES = pytest.mark.parametrize("groups", [None, (6,), (1, 2, 3), ()], ids=["one", "group", "groups", "normal"])


def rollout(sizes, horizon, rows, layers, extra=0, device="cpu"):
    rssm, _ = make(sizes)
    _, _, _, actions, deter, units, stoch, classes = sizes
    config = Config.preset("atari100k", **{"model.units": units, "model.mlp_layers": layers})
    actor_critic = ActorCritic(deter + stoch * classes, Discrete(actions), config.model, config.behavior)
    index = torch.randint(classes, (rows, stoch))
    start = State(*(x.to(device) for x in (torch.randn(rows, deter), F.one_hot(index, classes).float(), index)))
    u, u_action = (x.to(device) for x in (torch.rand(horizon, rows, stoch), torch.rand(horizon + extra, rows)))
    rssm, actor_critic = rssm.to(device), actor_critic.to(device)
    return (rssm, start, u, u_action), actor_critic.actor


def policy_rollout(sizes, horizon, rows, groups, layers=2, extra=0, device="cpu"):
    """Arguments of ops.imagine under a policy, by position, then by name; as many actions as `groups` say, of sizes."""
    rssm, _ = make(sizes)
    _, _, _, actions, deter, units, stoch, classes = sizes
    widths = [deter + stoch * classes, *[units] * layers]
    hidden = [x for i, o in itertools.pairwise(widths)
              for x in (torch.randn(i, o) * i ** -0.5, 1 + 0.3 * torch.randn(o), 0.3 * torch.randn(o))]
    heads = [x for _ in range(2 if groups == () else 1)
             for x in (torch.randn(widths[-1], actions) * widths[-1] ** -0.5, torch.randn(actions))]
    shape = horizon + extra, rows, *(() if groups is None else (len(groups) or actions,))
    noise = torch.randn(shape) if groups == () else torch.rand(shape)
    start = torch.randn(rows, deter), torch.randint(classes, (rows, stoch)), torch.rand(horizon, rows, stoch)
    tensors = [x.detach().to(device) for x in (*start, noise)]
    params, actor = ([x.detach().to(device) for x in group] for group in (rssm.weights(), [*hidden, *heads]))
    return (*tensors, Parameters(*params), actor), dict(classes=classes, mix=0.01, groups=groups)


def states_case(sizes, horizon, rows, device="cpu"):
    """action, deter, index and parameters of a rollout under the normal policy, and gradients of its states."""
    args, options = policy_rollout(sizes, horizon, rows, (), device=device)
    deter, index, _, action, _, _ = reference.imagine(*args, **options)
    grads = torch.randn(deter.shape), torch.randn(*index.shape, options["classes"])
    return (action, deter, index, args[4]), [x.to(device) for x in grads]


def gradient(imagine_states, case, grads, classes, dtype=torch.float32):
    """The states, and the gradient of the actions from those of the states, of which some may be None."""
    action, deter, index, params = case
    leaf = action.to(dtype).requires_grad_()
    states = imagine_states(leaf, deter.to(dtype), index, type(params)(*(x.to(dtype) for x in params)),
                            classes=classes, mix=0.01)
    pairs = [(x, g.to(dtype)) for x, g in zip(states, grads, strict=True) if g is not None]
    return *states, *torch.autograd.grad([x for x, _ in pairs], leaf, [g for _, g in pairs])
