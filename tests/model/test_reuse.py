"""Products that an update computes once and reads twice: the numbers are those of computing them again."""

from contextlib import nullcontext

import pytest
import torch

from as_cuda import as_cuda
from hdfast import ops
from hdfast.arena import Arena
from hdfast.ops import library
from kinds import KINDS
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
def precision(request):
    return request.param


@pytest.fixture(params=["image", "images"])
def kind(request):
    """Observations and actions: single choices, and continuous actions."""
    return KINDS[request.param]


@pytest.fixture
def learner(precision, kind):
    """A learner without special values in its parameters."""
    made = make_learner(*kind, precision=precision, **{"model.mlp_layers": 3})
    for arena in made.optimizers.values():
        arena.param.add_(0.05 * torch.randn(arena.param.shape, generator=torch.Generator().manual_seed(1)))
    made.refresh()
    return made


def close(got, want, limit):
    assert set(got) == set(want)
    for name, x in want.items():
        assert (got[name] - x).norm() <= limit * x.norm().clamp(min=1e-6), name


def gradients(loss, network):
    names, params = zip(*network.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, params), strict=True))


def test_the_actor_loss_takes_the_products_of_the_rollout(path, learner, kind, monkeypatch):
    data, u, actor = make_data(*kind), draw(0, learner), learner.actor_critic.actor
    post = learner.update_model(data, u.post)[0].observed.state

    def loss(policy):
        advantage, weight = (b.ret - b.value[:-1]).detach(), b.weight[:-1].detach()
        return dict(zip(("element", "logp", "ent"),
                        policy.reinforce(b.trajectory.action, advantage, weight, entropy=3e-4), strict=True))

    b = learner.imagine(post, data.cont, u.prior, u.action)
    want = loss(actor(b.trajectory.features[:-1]))
    grads = gradients(want["element"].mean(), actor)
    for layer in actor.hidden:  # nothing is left that multiplies with them
        monkeypatch.setattr(layer, "forward", forward_of(layer))
    got = loss(learner.imagine(post, data.cont, u.prior, u.action).policy)
    # In bfloat16 the rollout's LayerNorms read float32, those of a network alone read values rounded for storage.
    limit = 3e-6 if learner.model_opt.shadows == [] else 6e-2
    close(got, want, limit)
    close(gradients(got["element"].mean(), actor), grads, limit)


def forward_of(layer):
    """The layer's forward pass, which fails if it would multiply."""
    run = layer.forward

    def forward(x, product):
        assert product is not None
        return run(x, product)

    return forward


def whole_update(learner, kind):
    data, u = make_data(*kind), draw(0, learner)
    out, metrics = learner.update_model(data, u.post)
    b = learner.imagine(out.observed.state, data.cont, u.prior, u.action)
    metrics |= learner.actor_gradient(b) | learner.critic_gradient(b)
    metrics |= learner.step("actor") | learner.step("critic")
    return metrics, {name: arena.grad.clone() for name, arena in learner.optimizers.items()}


def test_heads_on_one_input_share_a_product(path, learner, kind, monkeypatch):
    twin, joint, bmm = copy_of(learner, kind), [], torch.bmm
    with monkeypatch.context() as patch:
        patch.setattr(torch, "bmm", lambda x, stack: joint.append(len(stack)) or bmm(x, stack))
        metrics, grads = whole_update(learner, kind)
    # Rewards with continuation, twice, and the critics; if states are gathered each network does so by itself.
    assert joint == ([] if path == "call" else [2, 2, 2])
    twin.world_model.first_layers = twin.actor_critic.first_layers = None
    apart, apart_grads = whole_update(twin, kind)
    half = bool(learner.model_opt.shadows)
    close(metrics, apart, 2e-3 if half else 2e-5)
    close(grads, apart_grads, 2e-2 if half else 2e-5)


def copy_of(learner, kind):
    twin = make_learner(*kind, precision=learner.config.precision, **{"model.mlp_layers": 3})
    for name, arena in learner.optimizers.items():
        twin.optimizers[name].param.copy_(arena.param)
    twin.refresh()
    return twin


@pytest.mark.parametrize("half", [False, True])
def test_an_arena_stacks_parameters(half):
    params = {name: torch.nn.Parameter(torch.randn(2, 3)) for name in "abc"} | {"d": torch.nn.Parameter(torch.ones(4))}
    slow = {name: torch.nn.Parameter(p.detach() + 1) for name, p in params.items()}
    arena = Arena(params, lr=1.0, eps=1.0, clip=1.0, bf16=half)
    arena.lead(slow, 0.1)
    dtype = torch.bfloat16 if half else torch.float32
    for kernels in ([params[name] for name in "abc"], [params["b"], slow["b"]]):
        stack = arena.stack(*kernels)
        assert stack.kernels == tuple(kernels) and torch.equal(stack.view, torch.stack(kernels).detach().to(dtype))
    arena.param += 1
    arena.refresh()
    assert torch.equal(stack.view[0], params["b"].detach().to(dtype))
    for uneven in (["a", "b", "b"], ["a", "d"], ["c", "a", "b"]):
        with pytest.raises(ValueError, match="make no stack; give those of one shape"):
            arena.stack(*(params[name] for name in uneven))
