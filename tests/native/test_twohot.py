"""twohot: special values, the bins themselves, extreme logits; the rest is in test_public_ops.py."""

import torch
from op_cases import on_device, rand, targets  # noqa: F401

from hdfast import ops
from hdfast.ops import reference
from hdfast.ops.twohot import twohot_loss, twohot_mean


def test_symlog_and_symexp_at_special_points(native):
    x = torch.tensor([0.0, -0.0, 1e-30, -1e-8, torch.inf, -torch.inf, torch.nan])
    for name in ("symlog", "symexp"):
        torch.testing.assert_close(getattr(ops, name)(x), getattr(reference, name)(x), equal_nan=True)


def test_loss_takes_the_reference_bins_bit_for_bit(native):
    """Targets on, and one rounding beside, every bin: the loss of one-hot logits shows which bins were taken."""
    grid = reference.twohot_bins(255, torch.device(native.device))
    on = torch.cat([reference.symexp(grid), torch.nextafter(reference.symexp(grid), torch.tensor(torch.inf)),
                    torch.nextafter(reference.symexp(grid), torch.tensor(-torch.inf)), targets(500)])
    logit = rand(len(on), 255, scale=30)
    torch.testing.assert_close(twohot_loss(logit, on), reference.twohot_loss(logit, on), rtol=2e-5, atol=2e-5)


def test_extreme_logits(native):
    logit = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [88.0, 89.0, 90.0]])
    x = torch.tensor([0.0, 1e9, -1e9])
    torch.testing.assert_close(twohot_loss(logit, x), reference.twohot_loss(logit, x))
    torch.testing.assert_close(twohot_mean(logit), reference.twohot_mean(logit))


def test_a_target_that_is_nan_shows(native):
    """It is no value of its own: without this it would count as the last bin, or as the first."""
    x = torch.tensor([0.3, torch.nan, torch.inf])
    for function in (twohot_loss, reference.twohot_loss):
        logit = rand(3, 255).requires_grad_()
        loss = function(logit, x)
        assert loss.isnan().tolist() == [False, True, False]
        loss.sum().backward()
        assert logit.grad.isfinite().all(1).tolist() == [True, False, True]
