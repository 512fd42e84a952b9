"""Products that an update computes once and reads twice: the numbers are those of computing them again."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from as_cuda import as_cuda
from hdfast import ops
from hdfast.model import nets
from hdfast.ops import library
from hdfast.ops.dense import evenly
from learner_case import draw, make_data, make_learner

PATHS = {"reference": nullcontext, "call": nullcontext, "steps": as_cuda}


@pytest.fixture(params=PATHS)
def path(request):
    """Plain PyTorch, and both executions of the native sequence ops."""
    if request.param != "reference" and (reason := library.problem()):
        pytest.skip(f"the native library is not there: {reason}")
    with ops.use("reference" if request.param == "reference" else "native"), PATHS[request.param]():
        yield request.param


@pytest.fixture(params=["fp32", "bf16"])
def learner(request):
    """A learner none of whose parameters has a special value."""
    made = make_learner(precision=request.param, **{"model.mlp_layers": 3})
    for arena in made.optimisers.values():
        arena.param.add_(0.05 * torch.randn(arena.param.shape, generator=torch.Generator().manual_seed(1)))
    made.refresh()
    return made


def imagined(learner):
    data, u = make_data(), draw()
    out, _ = learner.update_model(data, u.post)
    return learner.imagine(out.observed.state, data.cont, u.prior, u.action)


def close(got, want, limit):
    assert set(got) == set(want)
    for name, x in want.items():
        assert (got[name] - x).norm() <= limit * x.norm().clamp(min=1e-6), name


def gradients(loss, network):
    names, params = zip(*network.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, params), strict=True))


def test_the_actor_loss_takes_the_products_of_the_rollout(path, learner, monkeypatch):
    b, actor = imagined(learner), learner.actor_critic.actor
    again = replace(b, trajectory=replace(b.trajectory, pre=None))
    want = learner.actor_loss(again)
    grads = gradients(want.loss, actor)
    for layer in actor.hidden:  # nothing is left that multiplies with them
        monkeypatch.setattr(type(layer), "forward", forward_of(layer))
    got = learner.actor_loss(b)
    # In bfloat16 the rollout's LayerNorms read float32, those of a network by itself what was rounded for storage.
    limit = 3e-6 if learner.model_opt.shadows == [] else 6e-2
    close({name: getattr(got, name) for name in ("element", "logp", "ent")},
          {name: getattr(want, name) for name in ("element", "logp", "ent")}, limit)
    close(gradients(got.loss, actor), grads, limit)


def forward_of(layer):
    """The layer's forward pass, which fails where it would multiply."""
    run = type(layer).forward

    def forward(self, x, pre=None):
        assert pre is not None
        return run(self, x, pre)

    return forward


def whole_update(learner):
    out, metrics = learner.update_model(make_data(), draw().post)
    b = learner.imagine(out.observed.state, make_data().cont, draw().prior, draw().action)
    metrics |= learner.actor_gradient(b) | learner.critic_gradient(b)
    metrics |= learner.step(learner.actor_opt, "actor") | learner.step(learner.critic_opt, "critic")
    return metrics, {name: arena.grad.clone() for name, arena in learner.optimisers.items()}


def test_heads_on_one_input_share_a_product(path, learner, monkeypatch):
    twin = copy_of(learner)
    joint, metrics = [], {}
    monkeypatch.setattr(nets, "evenly", lambda kernels: joint.append(evenly(kernels)) or joint[-1])
    metrics, grads = whole_update(learner)
    # Rewards with continuation, twice, and the critics; where states are gathered each network does so for itself.
    assert [len(stack) for stack in joint] == ([] if path == "call" else [2, 2, 2])
    monkeypatch.setattr(nets, "evenly", lambda kernels: None)
    apart, apart_grads = whole_update(twin)
    half = bool(learner.model_opt.shadows)
    close(metrics, apart, 2e-3 if half else 2e-5)
    close(grads, apart_grads, 2e-2 if half else 2e-5)


def copy_of(learner):
    twin = make_learner(precision=learner.config.precision, **{"model.mlp_layers": 3})
    for name, arena in learner.optimisers.items():
        twin.optimisers[name].param.copy_(arena.param)
    twin.refresh()
    return twin


def test_kernels_that_lie_evenly_are_one_view():
    flat = torch.arange(60.0)
    kernels = [flat[i:i + 6].view(2, 3) for i in (4, 14, 24)]
    stack = evenly(kernels)
    assert stack.data_ptr() == kernels[0].data_ptr() and torch.equal(stack, torch.stack(kernels))
    other = torch.arange(6.0).view(2, 3)
    for uneven in ([*kernels, flat[40:46].view(2, 3)], [kernels[0], other], kernels[::-1],
                   [kernels[0], flat[14:18].view(2, 2)], [kernels[0], kernels[1].bfloat16()],
                   [flat[:6].view(2, 3), flat[3:9].view(2, 3)], [x.t() for x in kernels]):
        assert evenly(uneven) is None
