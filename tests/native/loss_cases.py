"""What the tests of the loss families share: the error rule against float64, and one comparison by it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

FLOOR = 1e-6  # relative to the largest exact value: a few roundings where eager happens to make none


@pytest.fixture(autouse=True)
def on_device(native):
    """Tensors of a test lie where the library under test runs; import it into a module to have it there."""
    with torch.device(native.device):
        yield


def assert_as_exact_as_eager(name: str, got: Tensor, eager: Tensor, exact: Tensor) -> None:
    """Largest error against float64 at most twice that of eager float32, plus a floor; NaN in the same places."""
    assert got.shape == exact.shape and got.dtype == eager.dtype, (name, got.shape, exact.shape, got.dtype)
    if not exact.numel():
        return
    got, eager = got.detach().double(), eager.detach().double()
    finite = exact.isfinite()
    assert torch.equal(got.isnan(), eager.isnan()), f"{name}: NaN in other places"
    error, bound = ((x - exact)[finite].abs().max().item() if finite.any() else 0.0 for x in (got, eager))
    scale = exact[finite].abs().max().item() if finite.any() else 0.0
    assert error <= 2 * bound + FLOOR * max(scale, 1e-30), \
        f"{name}: error {error:.3g}, eager {bound:.3g}, of {scale:.3g}"


def compare(native: Callable, reference: Callable, *inputs: Tensor, seed: int = 0) -> None:
    """Values and gradients of native(*inputs) against reference on the same inputs in float32 and float64.

    Inputs with requires_grad get a gradient from a random weighting of every output.
    """
    runs = []
    for f, dtype in ((native, torch.float32), (reference, torch.float32), (reference, torch.float64)):
        args = [x.detach().to(dtype if x.is_floating_point() else x.dtype).clone().requires_grad_(x.requires_grad)
                for x in inputs]
        out = f(*args)
        out = out if isinstance(out, tuple) else (out,)
        wrt = [x for x in args if x.requires_grad]
        grads = ()
        if wrt:
            weights = [rand(*o.shape, seed=seed + i).to(o.dtype) for i, o in enumerate(out)]
            grads = torch.autograd.grad(sum((o * w).sum() for o, w in zip(out, weights, strict=True)), wrt)
        runs.append([*out, *grads])
    for i, (got, eager, exact) in enumerate(zip(*runs, strict=True)):
        assert_as_exact_as_eager(f"output {i}", got, eager, exact)


def rand(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers, the same ones on every device."""
    numbers = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    return scale * numbers.to(torch.get_default_device())


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator("cpu").manual_seed(seed), device="cpu").to(
        torch.get_default_device())
