"""Unimix and the categorical samples: indices, extreme logits; the rest is in test_public_ops.py."""

import pytest
import torch
from op_cases import compare, on_device, op_of, rand, uniform  # noqa: F401

from hdfast import ops
from hdfast.ops import reference


@pytest.mark.parametrize("shape", [(2000, 18), (1000, 32), (60, 33), (40, 700)], ids=str)
def test_indices_are_those_of_the_reference(native, shape):
    """Except where u lies on a step of the CDF within its rounding; half of these rows have one class at 0.99."""
    if native.schedule:
        shape = (shape[0] // 20, shape[1])
    logit, u = rand(*shape, scale=3), uniform(shape[0])
    logit[::2, 1] += 20
    logp = reference.unimix(logit, 0.01)
    want, cdf = reference.sample_index(logp, u), logp.double().exp().cumsum(-1)
    near = ((cdf - u[:, None].double()).abs() < 1e-6).any(-1)
    assert near.float().mean() < 0.01 or shape[1] > 512
    onehot, index = ops.sample_latent(logp, u)
    assert index.dtype == torch.int64 and torch.equal(ops.sample_index(logp, u), index)
    assert torch.equal(index[~near], want[~near]) and ((index - want).abs() <= 1).all()
    assert torch.equal(onehot, torch.nn.functional.one_hot(index, shape[1]).float())


@pytest.mark.parametrize("classes", [1, 3, 32, 40])
def test_the_ends_of_the_cdf(native, classes):
    """u = 0 takes the first class that has any probability, u just below 1 the last."""
    logp = torch.full((2, classes), -torch.inf)
    logp[0] = torch.tensor(1 / classes).log()
    logp[1, classes // 2] = 0
    for u in (0.0, torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)).item()):
        index = ops.sample_index(logp, torch.full((2,), u)).tolist()
        assert index == [0 if u == 0 else classes - 1, classes // 2]


def test_the_cdf_falls_short_of_one(native):
    """Probabilities whose sum rounds to less than u: the last class, not one beyond it."""
    logp = torch.full((3, 10), 0.0999).log()
    assert ops.sample_index(logp, torch.full((3,), 0.9999)).tolist() == [9, 9, 9]


def test_extreme_logits(native):
    """Far-off, equal and huge values: as exact as eager, and probabilities that sum to 1."""
    logit = torch.tensor([[0.0] * 6, [3e4] * 6, [0, 1e3, -1e3, 3, 5e4, -3e38], [1e-30, 0, -1e-30, 1, 2, 3],
                          [-torch.inf, 0, 0, 1, 2, -torch.inf]])
    compare(op_of("unimix"), logit, least=1.0)
    torch.testing.assert_close(ops.unimix(logit, 0.01).exp().sum(-1), torch.ones(5))


def test_a_row_with_a_nan_is_all_nan_and_draws_the_first_class(native):
    logit = rand(4, 32)
    logit[1, 5], logit[2, 31] = torch.nan, torch.inf
    logp = ops.unimix(logit, 0.01)
    assert logp[1:3].isnan().all() and logp[[0, 3]].isfinite().all()
    assert ops.sample_index(logp, uniform(4))[1:3].tolist() == [0, 0]
