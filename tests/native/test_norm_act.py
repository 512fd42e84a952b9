"""LayerNorm + SiLU: layouts, extreme rows, types of parameters; the rest is in test_public_ops.py."""

import pytest
import torch
from op_cases import CASES, compare, on_device, results  # noqa: F401

from hdfast import ops
from hdfast.ops import reference


def inputs(*shape):
    return CASES["norm_act"].make(*shape)


def test_extreme_rows(native):
    """Constant, large, tiny and far-off rows; SiLU far into both tails."""
    x = torch.stack([torch.zeros(40), torch.full((40,), 1e4), torch.linspace(-1e4, 1e4, 40),
                     torch.linspace(-1e-4, 1e-4, 40), 300 + torch.linspace(-1, 1, 40)])
    compare(lambda *tensors: ops.norm_act(*tensors).detach(), x, torch.full((40,), 30.0), torch.linspace(-90, 90, 40),
            floor=2e-6, least=1.0)


def test_channels_last_images(native):
    x, (scale, bias) = torch.randn(2, 32, 4, 4), torch.rand(2, 32)
    nhwc = x.to(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    assert nhwc.is_contiguous()
    torch.testing.assert_close(ops.norm_act(nhwc, scale, bias), reference.norm_act(nhwc, scale, bias))


@pytest.mark.parametrize("columns", [1, 3, 8, 16, 27, 35, 48])
def test_a_row_is_the_same_wherever_it_stands(native, columns):
    """Threads decide where a range of rows begins: it must change no bit of a row."""
    x, scale, bias = inputs(70, columns)
    y = ops.norm_act(x, scale, bias)
    for first in (1, 6, 37, 69):
        assert torch.equal(ops.norm_act(x[first:].clone(), scale, bias), y[first:])


def test_bfloat16_parameters_get_bfloat16_gradients(native):
    x, scale, bias = inputs(4, 16)
    got = results(ops.norm_act, [x, scale.bfloat16(), bias.bfloat16()])
    assert [g.dtype for g in got] == [torch.float32, torch.float32, torch.bfloat16, torch.bfloat16]
