"""return_range: percentiles by radix select against torch.quantile, exactly, and the moving average."""

import pytest
import torch
from op_cases import on_device, rand, uniform  # noqa: F401

from hdfast.ops import reference
from hdfast.ops.return_range import return_range


def zero():
    return torch.zeros(())


CASES = {
    "normal": lambda n: rand(n, scale=3),
    "equal": lambda n: torch.full((n,), -2.5),
    "two values": lambda n: (uniform(n) < 0.5).float(),
    "every size": lambda n: rand(n) * 10 ** (60 * uniform(n, seed=1) - 30),
    "signed zeros": lambda n: torch.where(uniform(n) < 0.5, -0.0, 0.0),
    "infinite": lambda n: torch.where(uniform(n) < 0.01, torch.inf, rand(n)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [1, 2, 3, 100, 1023, 1025, 15360])
def test_equals_the_reference(native, name, size):
    ret = CASES[name](size)
    low, high = torch.tensor(-0.3), torch.tensor(2.0)
    got, want = return_range(ret, low, high), reference.return_range(ret, low, high)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("percentiles", [(0.0, 100.0), (50.0, 50.0), (33.3, 66.6), (95.0, 5.0)])
def test_other_percentiles_and_options(native, percentiles):
    ret, options = rand(4, 251), dict(percentiles=percentiles, decay=0.5, floor=0.1)
    got, want = (f(ret, zero(), zero(), **options) for f in (return_range, reference.return_range))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_the_range_stays_where_a_return_is_not_finite(native, bad):
    ret, low, high = rand(100), torch.tensor(-0.3), torch.tensor(2.0)
    ret[17] = bad
    for function in (return_range, reference.return_range):
        assert torch.equal(torch.stack(function(ret, low, high)), torch.stack([low, high, high - low]))
