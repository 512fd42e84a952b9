"""The GRU's LayerNorm and gates: native values, gradients, shapes, tracing and messages, over every library."""

import pytest
import torch

from hdfast import ops
from hdfast.ops import reference
from hdfast.ops.gru_gates import gru_gates
from tolerance import assert_as_accurate

SHAPES = [(1, 1), (3, 2), (2, 3, 4), (7, 33), (5, 64), (70, 12), (2, 512), (1, 2052)]
FLOOR = {torch.float32: 1e-6, torch.bfloat16: 4e-3}
NAMES = ("next", "dx", "ddeter", "dscale", "dbias")


@pytest.fixture(autouse=True)
def family(native):
    if not native.holds("gru_gates"):
        pytest.skip(f"{native.namespace} has no gru_gates")


def inputs(shape, dtype=torch.float32, device="cpu", seed=0):
    """x, deter, scale, bias and the gradient of the next state."""
    rng = torch.Generator().manual_seed(seed)
    *rows, size = shape
    x = 2 * torch.randn(*rows, 3 * size, generator=rng) + 0.5
    deter, dnext = torch.randn(2, *shape, generator=rng)
    scale, bias = torch.randn(2, 3 * size, generator=rng)
    return [t.to(device) for t in (x.to(dtype), deter, scale, bias, dnext)]


def run(op, *data, dtype=None):
    """Output and the four gradients."""
    *data, dnext = data
    leaves = [t.detach().to(dtype or t.dtype).requires_grad_() for t in data]
    y = op(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dnext.to(y.dtype))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(native, shape, dtype):
    x, *rest = inputs(shape, dtype, native.device)
    got = run(ops.gru_gates, x, *rest)
    eager = run(reference.gru_gates, x.float(), *rest)
    eager = [e.to(g.dtype) for e, g in zip(eager, got, strict=True)]
    exact = run(reference.gru_gates, x, *rest, dtype=torch.float64)
    for name, g, e, r in zip(NAMES, got, eager, exact, strict=True):
        # Only dx is stored in x's dtype; sums over rows lose with their length what single elements do not.
        floor = FLOOR[dtype] if name == "dx" else 1e-6 if name in ("next", "ddeter") else 4e-6
        assert_as_accurate(g, e, r, floor=floor, name=name)


def test_extreme_rows(native):
    """Constant, large and tiny rows; the gates far into both tails."""
    x = torch.stack([torch.zeros(24), torch.full((24,), 1e4), torch.linspace(-1e4, 1e4, 24),
                     torch.linspace(-1e-4, 1e-4, 24)]).to(native.device)
    deter = torch.linspace(-2, 2, 32).reshape(4, 8).to(native.device)
    scale, bias = torch.full((24,), 30.0, device=native.device), torch.linspace(-90, 90, 24).to(native.device)
    data = x, deter, scale, bias, torch.ones_like(deter)
    runs = run(ops.gru_gates, *data), run(reference.gru_gates, *data), \
        run(reference.gru_gates, *data, dtype=torch.float64)
    for name, g, e, r in zip(NAMES, *runs, strict=True):
        assert_as_accurate(g, e, r, floor=2e-6, name=name)


def test_a_nan_reaches_its_row_and_no_other(native):
    x, *rest, _ = inputs((3, 16), device=native.device)
    x[1, 5] = torch.nan
    y = ops.gru_gates(x, *rest)
    assert y[1].isnan().all() and y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 8), (4, 0, 8)], ids=str)
def test_no_rows(native, shape):
    y, dx, ddeter, dscale, dbias = run(ops.gru_gates, *inputs(shape, device=native.device))
    assert y.shape == ddeter.shape == shape and dx.shape == (*shape[:-1], 24)
    assert torch.equal(dscale, torch.zeros_like(dscale)) and torch.equal(dbias, torch.zeros_like(dbias))


def test_strided_inputs(native):
    """Transposed, sliced and expanded tensors give what their copies give, gradients of the views included."""
    x, deter, scale, bias, dnext = inputs((12, 6, 8), device=native.device)
    views = (x.transpose(0, 1)[:, ::2], deter.transpose(0, 1)[:, ::2], scale[:1].expand(24), bias.repeat(2)[::2],
             dnext.transpose(0, 1)[:, ::2])
    for a, b in zip(run(ops.gru_gates, *views), run(ops.gru_gates, *(v.clone() for v in views)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_unaligned_inputs(native):
    """Storage that starts between two vectors of the wide kernels."""
    data = inputs((6, 16), device=native.device)
    shifted = [torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape) for t in data]
    for name, a, b in zip(NAMES, run(ops.gru_gates, *shifted), run(ops.gru_gates, *data), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_repeats_are_bit_equal(native):
    first, second = (run(ops.gru_gates, *inputs((100, 20), device=native.device)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_number_of_threads_changes_nothing(native):
    data = inputs((70, 16) if native.namespace == "hdfast_emu" else (2000, 64), device=native.device)
    first = run(ops.gru_gates, *data)
    torch.set_num_threads(2)
    assert all(torch.equal(a, b) for a, b in zip(first, run(ops.gru_gates, *data), strict=True))


def test_opcheck(native):
    *data, dnext = inputs((6, 20), device=native.device)
    _, mean, rstd = native.ops.gru_gates_fwd(*data)
    x, deter, scale, bias = data
    torch.library.opcheck(native.ops.gru_gates_bwd.default, (dnext, x, deter, mean, rstd, scale, bias))
    torch.library.opcheck(native.ops.gru_gates_fwd.default, [t.clone().requires_grad_() for t in data])


@pytest.mark.slow
def test_compiles_without_graph_breaks(native):
    if native.schedule not in (None, ("fwd", "rr")):
        pytest.skip("tracing does not depend on the schedule")
    data = inputs((5, 8), device=native.device)

    def step(x, deter, scale, bias):
        return 2 * ops.gru_gates(x + 1, deter, scale, bias)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for a, b in zip(run(compiled, *data), run(step, *data), strict=True):
        torch.testing.assert_close(a, b)


def test_the_state_keeps_its_dtype(native):
    x, deter, scale, bias, _ = inputs((4, 16), device=native.device)
    with torch.autocast(native.device, torch.bfloat16):
        assert ops.gru_gates(x, deter, scale, bias).dtype == torch.float32
        assert ops.gru_gates(x.bfloat16(), deter, scale, bias).dtype == torch.float32
        assert ops.gru_gates(x.bfloat16(), deter.bfloat16(), scale, bias).dtype == torch.bfloat16


def test_bfloat16_inputs_get_bfloat16_gradients(native):
    data = [t.bfloat16() for t in inputs((4, 16), device=native.device)]
    assert {g.dtype for g in run(ops.gru_gates, *data)} == {torch.bfloat16}


def test_meta_tensors_have_shapes(native):
    with torch.device("meta"):
        y = ops.gru_gates(torch.empty(3, 5, 48), torch.empty(3, 5, 16), torch.empty(48), torch.empty(48))
    assert y.shape == (3, 5, 16) and y.device.type == "meta"


@pytest.mark.parametrize(("change", "error", "message"), [
    (lambda x, h, s, b: (x.double(), h, s, b), TypeError,
     "x must be float32 or bfloat16, got float64; .*use.'reference'"),
    (lambda x, h, s, b: (x, h.half(), s, b), TypeError, "deter must be float32 or bfloat16, got float16; convert"),
    (lambda x, h, s, b: (x[:, 1:], h, s, b), ValueError, r"x must have shape \(..., 3D\), got \(2, 23\); its last"),
    (lambda x, h, s, b: (x, h[:1], s, b), ValueError, r"deter must have shape \(2, 8\) = .*got \(1, 8\); reshape"),
    (lambda x, h, s, b: (x, h, s[:-1], b), ValueError, r"scale must have shape \(24,\) = .*got \(23,\); reshape"),
    (lambda x, h, s, b: (x, h, s, b[None]), ValueError, r"bias must have shape \(24,\) = .*got \(1, 24\); reshape"),
    (lambda x, h, s, b: (x, h.to("meta"), s, b), ValueError, "deter must be on .* got meta; move it there"),
    (lambda x, h, s, b: (x[0, 0], h, s, b), ValueError, r"x must have shape \(..., 3D\), got \(\); its last axis")])
def test_bad_input_is_explained(native, change, error, message):
    *data, _ = inputs((2, 8), device=native.device)
    with pytest.raises(error, match=f"gru_gates: {message}"):
        gru_gates(*change(*data))


@pytest.mark.parametrize("change", [
    lambda x, h, s, b: (x.t(), h, s, b), lambda x, h, s, b: (x, h[:2], s, b),
    lambda x, h, s, b: (x, h.bfloat16(), s, b), lambda x, h, s, b: (x, h, s.double(), b),
    lambda x, h, s, b: (x, h, s, b[:2]), lambda x, h, s, b: (x.half(), h, s, b),
    lambda x, h, s, b: (x[0, 0], h[0, 0], s, b), lambda x, h, s, b: (x[:, :-1].contiguous(), h, s[:-1], b[:-1])])
def test_the_raw_op_refuses_what_would_read_foreign_memory(native, change):
    *data, _ = inputs((3, 8), device=native.device)
    with pytest.raises(RuntimeError, match=r"gru_gates_(fwd|bwd): "):
        native.ops.gru_gates_fwd(*change(*data))
