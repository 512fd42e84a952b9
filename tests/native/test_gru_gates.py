"""The GRU's LayerNorm and gates: extreme rows, types and alignment; the rest is in test_public_ops.py."""

import torch
from op_cases import CASES, compare, on_device, results  # noqa: F401

from hdfast import ops


def inputs(*shape):
    return CASES["gru_gates"].make(*shape)


def test_extreme_rows(native):
    """Constant, large and tiny rows; the gates far into both tails."""
    x = torch.stack([torch.zeros(24), torch.full((24,), 1e4), torch.linspace(-1e4, 1e4, 24),
                     torch.linspace(-1e-4, 1e-4, 24)])
    compare(ops.gru_gates, x, torch.linspace(-2, 2, 32).reshape(4, 8), torch.full((24,), 30.0),
            torch.linspace(-90, 90, 24), floor=2e-6, least=1.0)


def test_unaligned_inputs(native):
    """Storage that starts between two vectors of the wide kernels."""
    tensors = inputs(6, 16)
    shifted = [torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape) for t in tensors]
    torch.testing.assert_close(results(ops.gru_gates, shifted), results(ops.gru_gates, tensors))


def test_bfloat16_inputs_get_bfloat16_gradients(native):
    """Autocast or not."""
    tensors = [t.bfloat16() for t in inputs(4, 16)]
    for enabled in (False, True):
        with torch.autocast(native.device, torch.bfloat16, enabled=enabled):
            assert {g.dtype for g in results(ops.gru_gates, tensors)} == {torch.bfloat16}
