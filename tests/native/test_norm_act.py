"""LayerNorm + SiLU: native values, gradients, shapes, tracing and messages, over every library."""

import pytest
import torch

from hdfast import ops
from hdfast.ops import reference
from tolerance import assert_as_accurate

SHAPES = [(1, 1), (3, 2), (7, 33), (2, 3, 32), (5, 64), (200, 17), (4, 512), (2, 1536)]
FLOOR = {torch.float32: 1e-6, torch.bfloat16: 4e-3}


@pytest.fixture(autouse=True)
def family(native):
    if not native.holds("norm_act"):
        pytest.skip(f"{native.namespace} has no norm_act")


def inputs(shape, dtype=torch.float32, device="cpu", seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(shape, generator=rng) + 0.5
    scale, bias = torch.randn(2, shape[-1], generator=rng)
    dy = torch.randn(shape, generator=rng)
    return [t.to(device) for t in (x.to(dtype), scale, bias, dy.to(dtype))]


def run(op, x, scale, bias, dy, dtype=None):
    """Output and the three gradients."""
    leaves = [t.detach().to(dtype or t.dtype).requires_grad_() for t in (x, scale, bias)]
    y = op(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy.to(y.dtype))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(native, shape, dtype):
    x, scale, bias, dy = inputs(shape, dtype, native.device)
    got = run(ops.norm_act, x, scale, bias, dy)
    eager = run(reference.norm_act, x.float(), scale, bias, dy.float())
    eager = [e.to(g.dtype) for e, g in zip(eager, got, strict=True)]
    exact = run(reference.norm_act, x, scale, bias, dy, torch.float64)
    for name, g, e, r in zip(("y", "dx", "dscale", "dbias"), got, eager, exact, strict=True):
        # Sums over rows lose with their length what single elements do not.
        floor = FLOOR[dtype] if name in ("y", "dx") else 4e-6
        assert_as_accurate(g, e, r, floor=floor, name=name)


def test_extreme_rows(native):
    """Constant, large, tiny and far-off rows; SiLU far into both tails."""
    x = torch.stack([torch.zeros(40), torch.full((40,), 1e4), torch.linspace(-1e4, 1e4, 40),
                     torch.linspace(-1e-4, 1e-4, 40), 300 + torch.linspace(-1, 1, 40)]).to(native.device)
    scale, bias = torch.full((40,), 30.0, device=native.device), torch.linspace(-90, 90, 40).to(native.device)
    got, exact = ops.norm_act(x, scale, bias), reference.norm_act(x.double(), scale.double(), bias.double())
    assert_as_accurate(got, reference.norm_act(x, scale, bias), exact, floor=2e-6)


def test_a_nan_reaches_its_row_and_no_other(native):
    x, scale, bias, _ = inputs((3, 48), device=native.device)
    x[1, 5] = torch.nan
    y = ops.norm_act(x, scale, bias)
    assert y[1].isnan().all() and y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 8), (4, 0, 8)], ids=str)
def test_no_rows(native, shape):
    y, dx, dscale, dbias = run(ops.norm_act, *inputs(shape, device=native.device))
    assert y.shape == dx.shape == shape
    assert torch.equal(dscale, torch.zeros_like(dscale)) and torch.equal(dbias, torch.zeros_like(dbias))


def test_strided_inputs(native):
    """Transposed, sliced and expanded tensors give what their copies give, gradients of the views included."""
    x, scale, bias, dy = inputs((12, 6, 24), device=native.device)
    views = x.transpose(0, 1)[:, ::2], scale[:1].expand(24), bias.repeat(2)[::2]
    strided = run(ops.norm_act, *views, dy.transpose(0, 1)[:, ::2])
    copied = run(ops.norm_act, *(v.clone() for v in views), dy.transpose(0, 1)[:, ::2].clone())
    for a, b in zip(strided, copied, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_channels_last_images(native):
    x = inputs((2, 32, 4, 4), device=native.device)[0]
    scale, bias = torch.rand(2, 32, device=native.device)
    nhwc = x.to(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    assert nhwc.is_contiguous()
    torch.testing.assert_close(ops.norm_act(nhwc, scale, bias), reference.norm_act(nhwc, scale, bias))


def test_repeats_are_bit_equal(native):
    first, second = (run(ops.norm_act, *inputs((300, 40), device=native.device)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_number_of_threads_changes_nothing(native):
    data = inputs((5000, 48), device=native.device)
    if native.namespace == "hdfast_emu":
        data = inputs((70, 48))
    first = run(ops.norm_act, *data)
    torch.set_num_threads(2)
    assert all(torch.equal(a, b) for a, b in zip(first, run(ops.norm_act, *data), strict=True))


@pytest.mark.parametrize("columns", [1, 3, 8, 16, 27, 35, 48])
def test_a_row_is_the_same_wherever_it_stands(native, columns):
    """Threads decide where a range of rows begins: it must change no bit of a row."""
    x, scale, bias, _ = inputs((70, columns), device=native.device)
    y = ops.norm_act(x, scale, bias)
    for first in (1, 6, 37, 69):
        assert torch.equal(ops.norm_act(x[first:].clone(), scale, bias), y[first:])


def test_opcheck(native):
    x, scale, bias, dy = inputs((6, 20), device=native.device)
    leaves = [t.requires_grad_() for t in (x, scale, bias)]
    torch.library.opcheck(native.ops.norm_act_fwd.default, leaves)
    _, mean, rstd = native.ops.norm_act_fwd(x.detach(), scale.detach(), bias.detach())
    torch.library.opcheck(native.ops.norm_act_bwd.default,
                          (dy, x.detach(), mean, rstd, scale.detach(), bias.detach()))


@pytest.mark.slow
def test_compiles_without_graph_breaks(native):
    if native.schedule not in (None, ("fwd", "rr")):
        pytest.skip("tracing does not depend on the schedule")
    data = inputs((5, 24), device=native.device)
    compiled = torch.compile(lambda x, scale, bias: 2 * ops.norm_act(x + 1, scale, bias), fullgraph=True,
                             backend="aot_eager")
    plain = run(lambda x, scale, bias: 2 * ops.norm_act(x + 1, scale, bias), *data)
    for a, b in zip(run(compiled, *data), plain, strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_leaves_the_dtype_alone(native):
    x, scale, bias, _ = inputs((4, 16), device=native.device)
    with torch.autocast(native.device, torch.bfloat16):
        assert ops.norm_act(x, scale, bias).dtype == torch.float32
        assert ops.norm_act(x.bfloat16(), scale, bias).dtype == torch.bfloat16


def test_bfloat16_parameters_get_bfloat16_gradients(native):
    x, scale, bias, dy = inputs((4, 16), device=native.device)
    got = run(ops.norm_act, x, scale.bfloat16(), bias.bfloat16(), dy)
    assert [g.dtype for g in got] == [torch.float32, torch.float32, torch.bfloat16, torch.bfloat16]


def test_meta_tensors_have_shapes(native):
    with torch.device("meta"):
        y = ops.norm_act(torch.empty(3, 5, 16), torch.empty(16), torch.empty(16))
    assert y.shape == (3, 5, 16) and y.device.type == "meta"


@pytest.mark.parametrize(("change", "error", "message"), [
    (lambda x, s, b: (x.half(), s, b), TypeError, "x must be float32 or bfloat16, got float16; .*use.'reference'"),
    (lambda x, s, b: (x, s[:-1], b), ValueError, r"scale must have shape \(8,\) = .*got \(7,\); reshape"),
    (lambda x, s, b: (x, s, b[None]), ValueError, r"bias must have shape \(8,\) = .*got \(1, 8\); reshape"),
    (lambda x, s, b: (x, s.to("meta"), b), ValueError, "scale must be on .* got meta; move it there"),
    (lambda x, s, b: (x[0, 0], s, b), ValueError, r"x must have shape .*got a tensor without axes; add one")])
def test_bad_input_is_explained(native, change, error, message):
    x, scale, bias, _ = inputs((2, 8), device=native.device)
    with pytest.raises(error, match=f"norm_act: {message}"):
        ops.norm_act(*change(x, scale, bias))


@pytest.mark.parametrize("change", [
    lambda x, s, b: (x.t(), s[:3], b[:3]), lambda x, s, b: (x, s.double(), b), lambda x, s, b: (x, s[:2], b),
    lambda x, s, b: (x.half(), s, b), lambda x, s, b: (x[0, 0], s, b)])
def test_the_raw_op_refuses_what_would_read_foreign_memory(native, change):
    x, scale, bias, _ = inputs((3, 8), device=native.device)
    with pytest.raises(RuntimeError, match="norm_act_fwd: "):
        native.ops.norm_act_fwd(*change(x, scale, bias))
