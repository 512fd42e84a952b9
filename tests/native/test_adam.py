"""adam: the flat-arena step against float64, its clip, its slow copy, and the arena that uses it."""

import pytest
import torch
from op_cases import on_device, rand  # noqa: F401

from hdfast.ops import library
from hdfast.ops.adam import adam_step
from tolerance import assert_as_accurate

OPTIONS = dict(lr=1e-3, eps=1e-8, clip=100.0, beta1=0.9, beta2=0.999)


def reference_step(p, g, m, v, k, *, lr, eps, clip, beta1, beta2):
    norm = g.square().sum().sqrt()
    g = g * torch.where(norm < clip, 1.0, clip / norm)
    m = m + (1 - beta1) * (g - m)
    v = beta2 * v + (1 - beta2) * g * g
    return p - lr / (1 - beta1 ** k) * m / ((v / (1 - beta2 ** k)).sqrt() + eps), g, m, v, norm


@pytest.mark.parametrize("size", [0, 1, 3, 7, 4095, 4096, 4097, 3 * 4096 + 5])
@pytest.mark.parametrize("clip", [1e9, 0.5])
def test_three_steps_equal_the_equations(native, size, clip):
    options = OPTIONS | {"clip": clip}
    p, g, m, v = rand(size), rand(size, seed=1), rand(size, seed=2), rand(size, seed=3).square()
    step = torch.tensor(4)
    for k in (5, 6, 7):
        g = rand(size, seed=k)
        exact = reference_step(p.double(), g.double(), m.double(), v.double(), k, **options)
        eager = reference_step(p, g, m, v, k, **options)
        norm, factor, count = adam_step(p, g, m, v, step, **options)
        names, got = ("param", "grad", "mean", "var", "norm"), (p, g, m, v, norm)
        for name, a, e, x in zip(names, got, eager, exact, strict=True):
            assert_as_accurate(a, e, x, least=0.0, name=name)
        assert step.item() == count == k
        torch.testing.assert_close(factor, (clip / norm).clamp(max=1.0))


def test_the_gradient_is_left_alone_without_a_clip(native):
    p, g, m, v = rand(5000), rand(5000, seed=1), torch.zeros(5000), torch.zeros(5000)
    before = g.clone()
    norm, factor, _ = adam_step(p, g, m, v, torch.tensor(0), **OPTIONS | {"clip": 1e9})
    assert torch.equal(g, before) and factor == 1
    torch.testing.assert_close(norm, before.norm())


def test_the_slow_copy_starts_as_a_copy_and_then_follows(native):
    p, m, v, step = rand(4100), torch.zeros(4100), torch.zeros(4100), torch.tensor(0)
    slow = rand(4100, seed=9)
    adam_step(p, rand(4100, seed=1), m, v, step, **OPTIONS, slow=slow, slow_fraction=0.02)
    assert torch.equal(slow, p)
    before = slow.clone()
    adam_step(p, rand(4100, seed=2), m, v, step, **OPTIONS, slow=slow, slow_fraction=0.02)
    torch.testing.assert_close(slow, 0.02 * p + 0.98 * before)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("size", [64, 4096 + 7])
def test_a_norm_that_is_not_finite_changes_nothing(native, bad, size):
    """Nor does one whose square is not: 1e30."""
    arenas = [rand(size, seed=seed) for seed in range(5)]
    arenas[1][5] = bad
    before, step = [x.clone() for x in arenas], torch.tensor(0)
    norm, _, count = adam_step(*arenas[:4], step, **OPTIONS, slow=arenas[4], slow_fraction=0.02)
    assert not norm.isfinite() and step.item() == count == 0
    torch.testing.assert_close(arenas, before, rtol=0, atol=0, equal_nan=True)


def test_the_largest_count_stays(native):
    p, g, m, v, step = rand(64), rand(64, seed=1), torch.zeros(64), torch.zeros(64), torch.tensor(2**63 - 1)
    adam_step(p, g, m, v, step, **OPTIONS)
    assert step.item() == 2**63 - 1 and p.isfinite().all()


def test_wrong_arenas_are_named(native):
    a = torch.zeros(8)
    with pytest.raises(ValueError, match="grad must have shape"):
        adam_step(a, a[:4], a, a, torch.tensor(0), **OPTIONS)
    with pytest.raises(TypeError, match="mean must be float32"):
        adam_step(a, a, a.double(), a, torch.tensor(0), **OPTIONS)
    with pytest.raises(RuntimeError, match="16 bytes"):
        big = torch.zeros(9)
        adam_step(big[1:], a, a, a, torch.tensor(0), **OPTIONS)


def test_opcheck_without_a_slow_copy(native):
    arguments = [rand(100), rand(100, seed=1), torch.zeros(100), torch.zeros(100), torch.tensor(0), None, 1e-3, 1e-8,
                 100.0, 0.9, 0.999, 0.02]
    torch.library.opcheck(library.op("adam_step"), arguments, test_utils=("test_schema", "test_faketensor"))
