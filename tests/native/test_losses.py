"""Losses and returns: mixed types, closed forms, values outside; the rest is in test_public_ops.py."""

import pytest
import torch
from op_cases import CASES, NAMES, compare, on_device, op_of, rand, uniform  # noqa: F401

from hdfast import ops
from hdfast.ops import reference
from hdfast.ops.harmony import harmony_loss, weighted_loss
from hdfast.ops.replay_gather import replay_gather


def test_gradient_of_the_actors_loss_alone(native):
    compare(lambda *x: ops.actor_loss(*x, entropy=3e-4)[0], *CASES["actor_loss"].make(40, 6))


def test_an_action_outside_gives_nan(native):
    logit, action, advantage, weight = CASES["actor_loss"].make(6, 5)
    loss, logp, ent = op_of("actor_loss")(logit, torch.full_like(action, 5), advantage, weight)
    assert loss.isnan().all() and logp.isnan().all() and ent.isfinite().all()


def test_images_of_two_types(native):
    compare(ops.image_loss, rand(2, 8, 8, 3).bfloat16(), uniform(2, 8, 8, 3))


def test_cont_loss_of_certain_logits(native):
    logit, cont = torch.tensor([1e4, -1e4, 1e4, -1e4, torch.nan]), torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    torch.testing.assert_close(ops.cont_loss(logit, cont), reference.cont_loss(logit, cont), equal_nan=True)


def split(stacked):
    return dict(zip(NAMES, stacked, strict=True))


def test_harmony_gradient_is_the_closed_form(native):
    s, losses = rand(3).requires_grad_(), split([uniform(4, 3, seed=i) for i in range(5)])
    for mode in ("rectified", "plain"):
        grad, = torch.autograd.grad(harmony_loss(losses, s, mode=mode)[0], s)
        torch.testing.assert_close(grad, reference.harmony_grad(losses, s.detach(), mode=mode))


def test_a_harmonized_name_without_a_loss(native):
    """Adds nothing, and its s has gradient 0 exactly; so has every s that has no name's loss."""
    s, losses = torch.tensor([0.5, -30.0, 2.0], requires_grad=True), split([uniform(4, 3, seed=i) for i in range(5)])
    del losses["image"]
    for mode in ("rectified", "plain"):
        total, terms = harmony_loss(losses, s, mode=mode)
        grad, = torch.autograd.grad(total, s)
        assert terms[1] == 0 and grad[1] == 0 and (grad != 0).sum() == 2
        torch.testing.assert_close(total, reference.harmony_loss(losses, s, mode=mode)[0])


def test_sixteen_losses(native):
    losses = {str(i): uniform(9, seed=i) for i in range(16)}
    s = rand(16, seed=3).requires_grad_()
    torch.testing.assert_close(*(ops_.harmony_loss(losses, s, harmonized=tuple(losses)[::-1])
                                 for ops_ in (ops, reference)))


def test_terms_of_fixed_weights_sum_to_the_total(native):
    scales = {"reward": 1.0, "image": 2.0, "dyn": 0.5, "rep": 0.1, "cont": 3.0}
    losses = [5 * uniform(6, 7, seed=i) for i in range(5)]
    total, terms = weighted_loss(split(losses), scales)
    torch.testing.assert_close(terms.sum(), total)
    torch.testing.assert_close(terms, torch.stack([scales[name] * x.mean() for name, x in split(losses).items()]))


def test_harmony_errors(native):
    s, losses = torch.zeros(3), split([uniform(4) for _ in range(5)])
    with pytest.raises(ValueError, match="mode must be"):
        harmony_loss(losses, s, mode="off")
    with pytest.raises(ValueError, match=r"s must have shape \(2,\)"):
        harmony_loss(losses, s, harmonized=("image", "kl"))
    with pytest.raises(ValueError, match="losses must be 1 to 16, got 17; add some up"):
        harmony_loss({str(i): losses["cont"] for i in range(17)}, s)
    with pytest.raises(ValueError, match="not be empty"):
        harmony_loss(split([torch.zeros(0)] * 5), s)


@pytest.mark.parametrize("shape", [(64, 64, 3), (5, 3, 1), (7,)])
@pytest.mark.parametrize("rows", [(0,), (1,), (4, 3)])
def test_replay_gather(native, shape, rows):
    ring = (uniform(9, *shape) * 256).to(torch.uint8)
    index = (uniform(*rows, seed=1) * 9).long()
    want = ring[index].cpu().float() / 255  # on CUDA torch multiplies by 1 / 255, which differs in the last bit
    assert torch.equal(replay_gather(ring, index).cpu(), want)


def test_replay_gather_outside_the_ring(native):
    ring = torch.arange(12, dtype=torch.uint8).view(3, 4)
    got = replay_gather(ring, torch.tensor([0, 3, -1, 2]))
    assert got.isnan().any(1).tolist() == [False, True, True, False] and got[1:3].isnan().all()


def test_opcheck_of_fixed_weights(native):
    losses = [uniform(6, seed=i).requires_grad_() for i in range(5)]
    torch.library.opcheck(native.ops.harmony_fwd.default, (losses, None, [*range(5)], [1.0, 2.0, 3.0, 4.0, 5.0],
                                                           [0.0] * 5, False))


def test_columns_of_no_step_take_no_time(native):
    nothing = torch.empty(0, 1 << 40)
    weight = native.ops.return_weight_fwd(nothing, 0.9)
    assert weight.shape == native.ops.return_weight_bwd(nothing, nothing, weight, 0.9).shape == nothing.shape
