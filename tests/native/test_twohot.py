"""twohot: symlog, symexp, loss with one or more targets, and mean, against the reference."""

import pytest
import torch
from loss_cases import compare, on_device, rand, uniform  # noqa: F401

from hdfast.ops import library, reference
from hdfast.ops.twohot import symexp, symlog, twohot_loss, twohot_losses, twohot_mean

OWN = {"symlog": symlog, "symexp": symexp}
SHAPES = [(1,), (7,), (3, 5), (0,), (2, 0, 3), (1031,)]


def targets(*shape: int, seed: int = 5):
    """Rewards of every size: zeros, small ones, and some beyond both ends of the bins."""
    x = rand(*shape, seed=seed) * 10 ** (12 * uniform(*shape, seed=seed + 1) - 2)
    return torch.where(uniform(*shape, seed=seed + 2) < 0.2, 0.0, x)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["symlog", "symexp"])
def test_symlog_and_symexp(native, name, shape):
    x = targets(*shape) if name == "symlog" else rand(*shape, scale=5)
    compare(OWN[name], getattr(reference, name), x.requires_grad_())


def test_symlog_and_symexp_at_special_points(native):
    x = torch.tensor([0.0, -0.0, 1e-30, -1e-8, torch.inf, -torch.inf, torch.nan])
    for name in ("symlog", "symexp"):
        torch.testing.assert_close(OWN[name](x), getattr(reference, name)(x), equal_nan=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bins", [2, 3, 41, 255, 300])
def test_loss(native, shape, bins):
    compare(twohot_loss, reference.twohot_loss, rand(*shape, bins, scale=3).requires_grad_(), targets(*shape))


def test_loss_takes_the_reference_bins_bit_for_bit(native):
    """Targets on, and one rounding beside, every bin: the loss of one-hot logits shows which bins were taken."""
    grid = reference.twohot_bins(255, torch.device(native.device))
    on = torch.cat([reference.symexp(grid), torch.nextafter(reference.symexp(grid), torch.tensor(torch.inf)),
                    torch.nextafter(reference.symexp(grid), torch.tensor(-torch.inf)), targets(500)])
    logit = rand(len(on), 255, scale=30)
    torch.testing.assert_close(twohot_loss(logit, on), reference.twohot_loss(logit, on), rtol=2e-5, atol=2e-5)


def test_several_targets_share_one_softmax(native):
    a, b = targets(50), targets(50, seed=11)
    compare(twohot_losses, lambda z, x, y: (reference.twohot_loss(z, x), reference.twohot_loss(z, y)),
            rand(50, 255, scale=3).requires_grad_(), a, b)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bins", [2, 41, 255])
def test_mean(native, shape, bins):
    compare(twohot_mean, reference.twohot_mean, rand(*shape, bins).requires_grad_())


def test_extreme_logits(native):
    logit = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [88.0, 89.0, 90.0]])
    x = torch.tensor([0.0, 1e9, -1e9])
    torch.testing.assert_close(twohot_loss(logit, x), reference.twohot_loss(logit, x))
    torch.testing.assert_close(twohot_mean(logit), reference.twohot_mean(logit))
    logit[1, 1] = torch.nan
    assert twohot_loss(logit, x).isnan().tolist() == [False, True, False]


def test_a_target_that_is_nan_shows(native):
    """It is no value of its own: without this it would count as the last bin, or as the first."""
    x = torch.tensor([0.3, torch.nan, torch.inf])
    for function in (twohot_loss, reference.twohot_loss):
        logit = rand(3, 255).requires_grad_()
        loss = function(logit, x)
        assert loss.isnan().tolist() == [False, True, False]
        loss.sum().backward()
        assert logit.grad.isfinite().all(1).tolist() == [True, False, True]


def test_strided_and_half_inputs(native):
    logit, x = rand(255, 6).t(), targets(12)[::2]
    torch.testing.assert_close(twohot_loss(logit, x), reference.twohot_loss(logit.contiguous(), x))
    half = logit.bfloat16()
    torch.testing.assert_close(twohot_mean(half), reference.twohot_mean(half.float()))
    with pytest.raises(TypeError, match="float32 or bfloat16"):
        twohot_loss(logit.double(), x)
    with pytest.raises(ValueError, match="x must have shape"):
        twohot_loss(logit, x[:3])


def test_opcheck(native):
    logit, bins = rand(4, 41).requires_grad_(), reference.twohot_bins(41, torch.device(native.device))
    x = rand(4).requires_grad_()
    torch.library.opcheck(library.op("symlog_fwd"), (x,))
    torch.library.opcheck(library.op("symexp_fwd"), (x,))
    torch.library.opcheck(library.op("twohot_loss_fwd"), (logit, rand(2, 4), bins))
    torch.library.opcheck(library.op("twohot_mean_fwd"), (logit, bins))


def test_compiles_as_a_whole(native):
    def f(logit, x):
        first, second = twohot_losses(logit, x, x + 1)
        return first + second + twohot_mean(logit) + symexp(symlog(x))

    logit, x = rand(6, 41), targets(6)
    a, b = (logit.clone().requires_grad_() for _ in range(2))
    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="aot_eager")(a, x), f(b, x))
    f(a, x).sum().backward()
