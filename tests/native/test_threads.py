"""As many threads, the same bits: every raw op on the CPU, with sizes that are worth several threads."""

import pytest
import raw_cases
import torch
from raw_cases import CASES

from hdfast.ops import library

N = 50_021  # numbers of an op without rows: several slices, and some left over behind the last vector
FLAT = {
    "actor_loss_fwd": lambda: (torch.randn(N, 6), torch.randint(6, (N,)), torch.randn(N), torch.randn(N), 0.1),
    "adam_step": lambda: (*(torch.rand(N) for _ in range(4)), torch.zeros((), dtype=torch.int64), torch.rand(N),
                          1e-3, 1e-8, 1.0, 0.9, 0.999, 0.02),
    "cont_loss_fwd": lambda: (torch.randn(N), torch.ones(N)),
    "cont_loss_bwd": lambda: (torch.randn(N), torch.randn(N), torch.ones(N)),
    "harmony_fwd": lambda: ([*torch.rand(3, N)], torch.rand(2), [1, -1, 1], [0.8, 1.0, 0.2], [0.0, 0.8], False),
    "lambda_return_fwd": lambda: (torch.randn(2, N), torch.randn(3, N), torch.ones(3, N), 0.99, 0.95),
    "normal_policy_fwd": lambda: (torch.randn(N), torch.randn(N)),
    "normal_policy_bwd": lambda: (torch.randn(N), torch.randn(N), torch.randn(N), torch.randn(N)),
    "return_range": lambda: (torch.randn(N), torch.rand(()), torch.rand(()), 0.99, 5.0, 95.0, 1.0),
    "symlog_fwd": lambda: (9 * torch.randn(N),),
    "symlog_bwd": lambda: (torch.randn(N), torch.randn(N)),
    "symexp_fwd": lambda: (9 * torch.randn(N),),
    "symexp_bwd": lambda: (torch.randn(N), 9 * torch.randn(N)),
}
CALLS = [*CASES.items(), *FLAT.items()]
SIZES = {"LENGTH": 4, "BATCH": 1100, "EMBED": 33, "ACTIONS": 18, "DETER": 96, "UNITS": 80, "STOCH": 16, "CLASSES": 16}


def tensors(values) -> list[torch.Tensor]:
    """All in a tuple or list, those of lists in it too."""
    found = [values] if isinstance(values, torch.Tensor) else []
    return found + [t for value in values for t in tensors(value)] if isinstance(values, (tuple, list)) else found


@pytest.mark.parametrize(("name", "make"), CALLS, ids=[name for name, _ in CALLS])
def test_threads_change_no_bit(name, make, monkeypatch):
    if reason := library.problem():
        pytest.skip(f"the native library is not there: {reason}")
    for size, value in (SIZES | {"LATENT": SIZES["STOCH"] * SIZES["CLASSES"]}).items():
        monkeypatch.setattr(raw_cases, size, value)
    op, before, bits = getattr(torch.ops.hdfast, name).default, torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.manual_seed(0)
            given = make()
            torch.set_num_threads(threads)
            bits.append([t.clone() for t in tensors([op(*given), *given])])
    finally:
        torch.set_num_threads(before)
    for several in bits[1:]:
        assert all(torch.equal(a.view(torch.uint8), b.view(torch.uint8))
                   for a, b in zip(bits[0], several, strict=True) if a.dim())
