"""actor_loss: value, log-probability, entropy and their gradients against the reference."""

import pytest
import torch
from loss_cases import compare, on_device, rand, uniform  # noqa: F401

from hdfast.ops import library, reference
from hdfast.ops.actor_loss import actor_loss


def case(*shape: int, actions: int):
    logit = reference.unimix(rand(*shape, actions, scale=2), 0.01)
    action = (uniform(*shape, seed=1) * actions).long()
    return logit.requires_grad_(), action, rand(*shape, seed=2), uniform(*shape, seed=3)


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (0,), (1031,)])
@pytest.mark.parametrize("actions", [1, 3, 18, 33, 1500])
def test_values_and_gradients(native, shape, actions):
    if actions > 1000 and len(shape) == 1 and shape[0] > 100:
        shape = (3,)
    compare(lambda *x: actor_loss(*x, entropy=3e-2), lambda *x: reference.actor_loss(*x, entropy=3e-2),
            *case(*shape, actions=actions))


def test_gradient_of_the_loss_alone(native):
    compare(lambda *x: actor_loss(*x, entropy=3e-4)[0], lambda *x: reference.actor_loss(*x, entropy=3e-4)[0],
            *case(40, actions=6))


def test_strided_and_half_inputs(native):
    logit, action, advantage, weight = case(6, actions=5)
    turned = logit.detach().t().contiguous().t()
    want = reference.actor_loss(logit, action, advantage, weight, entropy=0.1)
    for got, x in zip(actor_loss(turned, action, advantage, weight, entropy=0.1), want, strict=True):
        torch.testing.assert_close(got, x.detach())
    assert actor_loss(logit.bfloat16(), action, advantage, weight, entropy=0.1)[0].dtype == torch.float32


def test_wrong_inputs(native):
    logit, action, advantage, weight = case(6, actions=5)
    with pytest.raises(TypeError, match="action must be int64"):
        actor_loss(logit, action.int(), advantage, weight, entropy=0.1)
    with pytest.raises(ValueError, match="weight must have shape"):
        actor_loss(logit, action, advantage, weight[:2], entropy=0.1)
    loss, logp, ent = actor_loss(logit, torch.full_like(action, 5), advantage, weight, entropy=0.1)
    assert loss.isnan().all() and logp.isnan().all() and ent.isfinite().all()


def test_opcheck_and_compile(native):
    inputs = case(4, actions=6)
    torch.library.opcheck(library.op("actor_loss_fwd"), (*inputs, 0.1))
    f = lambda *x: actor_loss(*x, entropy=0.1)  # noqa: E731
    got = torch.compile(f, fullgraph=True, backend="aot_eager")(*inputs)
    for a, b in zip(got, f(*inputs), strict=True):
        torch.testing.assert_close(a, b)
