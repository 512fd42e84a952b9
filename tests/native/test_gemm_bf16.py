"""Matrix products with bf16 operands: rounded once, summed in fp32, whatever the strides and the storage."""

import pytest
import torch

SIZES = [(1, 1, 1), (4, 130, 33), (15, 385, 31), (16, 32, 64), (129, 1700, 530), (17, 33, 65), (3, 0, 5), (0, 4, 4)]


pytestmark = pytest.mark.usefixtures("one_thread_of_native_code")


def layouts(x: torch.Tensor) -> list[torch.Tensor]:
    """x row-major, column-major and with strides in both directions, stored as float32 and as bfloat16."""
    wide = torch.full((2 * x.shape[0], 2 * x.shape[1]), torch.nan)
    wide[::2, ::2] = x
    return [y.to(dtype) for dtype in (torch.float32, torch.bfloat16)
            for y in (x, x.t().contiguous().t())] + [wide[::2, ::2]]


@pytest.mark.parametrize("m, k, n", SIZES)
def test_own_bf16_product(m, k, n):
    torch.manual_seed(0)
    a, b = torch.randn(m, k), torch.randn(k, n)
    want = a.bfloat16().double() @ b.bfloat16().double()
    largest = float(want.abs().max()) if want.numel() else 0.0
    for x in layouts(a):
        for y in layouts(b):
            whole, half = (torch.ops.hdfast.mm_bf16(x, y, half) for half in (False, True))
            assert (whole.dtype, half.dtype) == (torch.float32, torch.bfloat16)
            assert whole.shape == half.shape == (m, n)
            assert torch.all((whole.double() - want).abs() <= 4e-6 * max(k, 1) ** 0.5)
            assert torch.all((half.double() - want).abs() <= 2 ** -8 * largest)


def test_threads_do_not_change_a_bit():
    a, b = torch.randn(200, 900), torch.randn(900, 300)
    one = torch.ops.hdfast.mm_bf16(a, b, False)
    torch.set_num_threads(2)
    assert torch.equal(one, torch.ops.hdfast.mm_bf16(a, b, False))


def test_what_is_not_finite_stays_so():
    a = torch.tensor([[torch.nan, 1.0], [torch.inf, 1.0], [3e38, 1.0]])
    y = torch.ops.hdfast.mm_bf16(a, torch.eye(2), False)
    assert y[0, 0].isnan() and y[1, 0] == torch.inf and y[2, 0].isfinite() and (y[:, 1] == 1).sum() == 1


def test_other_types_are_refused():
    with pytest.raises(RuntimeError, match="mm_bf16: [ab] must"):
        torch.ops.hdfast.mm_bf16(torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, 2), False)
