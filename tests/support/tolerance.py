"""The tolerance rule of the native suite."""

import torch


def worst(got: torch.Tensor, exact: torch.Tensor) -> float:
    return (got.double().cpu() - exact.double().cpu()).abs().max().item() if got.numel() else 0.0


def assert_as_accurate(got, eager, exact, *, floor: float = 1e-6, least: float = 1.0, name: str = "") -> None:
    """The tolerance rule: error against float64 at most twice that of plain PyTorch in the same dtype, plus a floor.

    The floor is relative to the largest exact value, and at least to `least`: for rounding of results if PyTorch
    happens to be exact.
    """
    assert got.shape == exact.shape and got.dtype == eager.dtype, f"{name}: {got.shape} {got.dtype}"
    if not got.numel():
        return
    assert torch.isfinite(got).all(), f"{name} is not finite"
    limit = 2 * worst(eager, exact) + floor * max(exact.abs().max().item(), least)
    assert worst(got, exact) <= limit, f"{name}: error {worst(got, exact):.2e}, allowed {limit:.2e}"
