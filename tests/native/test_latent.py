"""Unimix and the categorical samples: native values, gradients, indices, tracing and messages, over every library."""

import pytest
import torch

from hdfast import ops
from hdfast.ops import latent, reference
from tolerance import assert_as_accurate

SHAPES = [(1, 1), (3, 2), (7, 33), (2, 3, 32), (9, 18), (3, 128), (2, 129), (1, 1024)]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
FLOOR = {torch.float32: 1e-6, torch.bfloat16: 4e-3}


@pytest.fixture(autouse=True)
def family(native):
    if not native.holds("latent"):
        pytest.skip(f"{native.namespace} has no latent")


def inputs(shape, dtype=torch.float32, device="cpu", seed=0):
    """Logits, uniforms, and a gradient for each class."""
    rng = torch.Generator().manual_seed(seed)
    logit, weight = 3 * torch.randn(2, *shape, generator=rng)
    return [t.to(device) for t in (logit.to(dtype), torch.rand(shape[:-1], generator=rng), weight.to(dtype))]


def run(op, x, *rest, dtype=None):
    """First output and its gradient with respect to x; the last argument weighs the output."""
    *rest, weight = rest
    x = x.detach().to(dtype or x.dtype).requires_grad_()
    y = op(x, *rest)
    y = y[0] if isinstance(y, tuple) else y
    return [y.detach(), *torch.autograd.grad(y, x, weight.to(y.dtype))]


def compare(name, x, *rest):
    got = run(getattr(ops, name), x, *rest)
    eager = [t.to(x.dtype) for t in run(getattr(reference, name), x.float(), *rest)]
    exact = run(getattr(reference, name), x, *rest, dtype=torch.float64)
    for part, g, e, r in zip(("value", "gradient"), got, eager, exact, strict=True):
        assert_as_accurate(g, e, r, floor=FLOOR[x.dtype], name=part)


@DTYPES
@pytest.mark.parametrize("mix", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unimix(native, shape, mix, dtype):
    logit, _, weight = inputs(shape, dtype, native.device)
    compare("unimix", logit, mix, weight)


@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sample_latent(native, shape, dtype):
    logit, u, weight = inputs(shape, dtype, native.device)
    compare("sample_latent", reference.unimix(logit, 0.01), u, weight)


@pytest.mark.parametrize("shape", [(2000, 18), (1000, 32), (60, 33), (40, 700)], ids=str)
def test_indices_are_those_of_the_reference(native, shape):
    """Except where u lies on a step of the CDF within its rounding; half of these rows have one class at 0.99."""
    if native.namespace == "hdfast_emu":
        shape = (shape[0] // 20, shape[1])
    logit, u, _ = inputs(shape, device=native.device)
    logit[::2, 1] += 20
    logp = reference.unimix(logit, 0.01)
    want, cdf = reference.sample_index(logp, u), logp.double().exp().cumsum(-1)
    near = ((cdf - u[:, None].double()).abs() < 1e-6).any(-1)
    assert near.float().mean() < 0.01 or shape[1] > 512
    onehot, index = ops.sample_latent(logp, u)
    assert index.dtype == torch.int64 and torch.equal(ops.sample_index(logp, u), index)
    assert torch.equal(index[~near], want[~near]) and ((index - want).abs() <= 1).all()
    assert torch.equal(onehot, torch.nn.functional.one_hot(index, shape[1]).float())


@pytest.mark.parametrize("classes", [1, 3, 32, 40])
def test_the_ends_of_the_cdf(native, classes):
    """u = 0 takes the first class that has any probability, u just below 1 the last."""
    logp = torch.full((2, classes), -torch.inf)
    logp[0] = torch.tensor(1 / classes).log()
    logp[1, classes // 2] = 0
    logp = logp.to(native.device)
    for u in (0.0, torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)).item()):
        index = ops.sample_index(logp, torch.full((2,), u, device=native.device)).tolist()
        assert index == [0 if u == 0 else classes - 1, classes // 2]


def test_the_cdf_falls_short_of_one(native):
    """Probabilities whose sum rounds to less than u: the last class, not one beyond it."""
    logp = torch.full((3, 10), 0.0999).log().to(native.device)
    assert ops.sample_index(logp, torch.full((3,), 0.9999, device=native.device)).tolist() == [9, 9, 9]


def test_extreme_logits(native):
    """Far-off, equal and huge values: as exact as eager, and probabilities that sum to 1."""
    logit = torch.stack([torch.zeros(6), torch.full((6,), 3e4), torch.tensor([0, 1e3, -1e3, 3, 5e4, -3e38]),
                         torch.tensor([1e-30, 0, -1e-30, 1, 2, 3]), torch.tensor([-torch.inf, 0, 0, 1, 2, -torch.inf])])
    logit = logit.to(native.device)
    compare("unimix", logit, 0.01, torch.linspace(-1, 1, 30, device=native.device).view(5, 6))
    torch.testing.assert_close(ops.unimix(logit, 0.01).exp().sum(-1), torch.ones(5, device=native.device))


def test_a_nan_reaches_its_row_and_no_other(native):
    logit, u, _ = inputs((4, 32), device=native.device)
    logit[1, 5], logit[2, 31] = torch.nan, torch.inf
    logp = ops.unimix(logit, 0.01)
    assert logp[1:3].isnan().all() and logp[[0, 3]].isfinite().all()
    index = ops.sample_index(logp, u)
    assert torch.equal(index, reference.sample_index(logp, u)) and index[1] == 0


@pytest.mark.parametrize("shape", [(0, 8), (4, 0, 8)], ids=str)
def test_no_rows(native, shape):
    logit, u, weight = inputs(shape, device=native.device)
    assert all(t.shape == shape for t in run(ops.unimix, logit, 0.01, weight))
    assert all(t.shape == shape for t in run(ops.sample_latent, logit, u, weight))
    assert ops.sample_index(logit, u).shape == shape[:-1]


def test_strided_inputs(native):
    """Transposed, sliced and expanded tensors give what their copies give, gradients of the views included."""
    logit, u, weight = (t.transpose(0, 1)[:, ::2] for t in inputs((12, 6, 20), device=native.device))
    for op, *data in ((ops.unimix, logit, 0.01, weight), (ops.sample_latent, reference.unimix(logit, 0.01), u, weight),
                      (ops.sample_latent, logit[:1].expand(6, 6, 20), u, weight[:1].expand(6, 6, 20))):
        copies = [t.clone() if isinstance(t, torch.Tensor) else t for t in data]
        for a, b in zip(run(op, *data), run(op, *copies), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_repeats_are_bit_equal_whatever_the_number_of_threads(native):
    logit, u, weight = inputs((40, 32) if native.namespace == "hdfast_emu" else (4000, 32), device=native.device)

    def everything():
        return [*run(ops.unimix, logit, 0.01, weight), *run(ops.sample_latent, logit, u, weight),
                ops.sample_index(logit, u)]

    first = everything()
    assert all(torch.equal(a, b) for a, b in zip(first, everything(), strict=True))
    torch.set_num_threads(2)
    assert all(torch.equal(a, b) for a, b in zip(first, everything(), strict=True))


def test_opcheck(native):
    logit, u, weight = inputs((6, 20), device=native.device)
    torch.library.opcheck(native.ops.unimix_bwd.default, (weight, logit, 0.01))
    torch.library.opcheck(native.ops.sample_latent_bwd.default, (weight, logit))
    torch.library.opcheck(native.ops.sample_index.default, (logit, u))
    torch.library.opcheck(native.ops.unimix_fwd.default, (logit.clone().requires_grad_(), 0.01))
    torch.library.opcheck(native.ops.sample_latent_fwd.default, (logit.clone().requires_grad_(), u))


@pytest.mark.slow
def test_compiles_without_graph_breaks(native):
    if native.schedule not in (None, ("fwd", "rr")):
        pytest.skip("tracing does not depend on the schedule")

    def draw(logit, u):
        onehot, index = ops.sample_latent(ops.unimix(logit + 1, 0.01), u)
        return onehot * (1 + index + ops.sample_index(logit, u))[..., None]

    data = inputs((5, 24), device=native.device)
    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")
    for a, b in zip(run(compiled, *data), run(draw, *data), strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_leaves_the_dtype_alone(native):
    logit, u, _ = inputs((4, 16), device=native.device)
    with torch.autocast(native.device, torch.bfloat16):
        for x in (logit, logit.bfloat16()):
            assert ops.unimix(x, 0.01).dtype == ops.sample_latent(x, u)[0].dtype == x.dtype


def test_meta_tensors_have_shapes(native):
    with torch.device("meta"):
        onehot, index = ops.sample_latent(ops.unimix(torch.empty(3, 5, 16), 0.01), torch.empty(3, 5))
    assert onehot.shape == (3, 5, 16) and index.shape == (3, 5) and index.dtype == torch.int64


@pytest.mark.parametrize(("change", "error", "message"), [
    (lambda x, u: (x.double(), u), TypeError, "logit must be float32 or bfloat16, got float64; .*use.'reference'"),
    (lambda x, u: (x, u.bfloat16()), TypeError, "u must be float32, got bfloat16; convert it"),
    (lambda x, u: (x, u[:1]), ValueError, r"u must have shape \(2,\) = .*got \(1,\); reshape"),
    (lambda x, u: (x, u.to("meta")), ValueError, "u must be on .* got meta; move it there"),
    (lambda x, u: (x[0, 0], u), ValueError, r"logit must have shape \(..., K\) .*got \(\); the classes are"),
    (lambda x, u: (x[:, :0], u), ValueError, r"logit must have shape \(..., K\) .*got \(2, 0\); the classes are"),
    (lambda x, u: (x.repeat(1, 129), u), ValueError, "logit must have at most 1024 classes, got 1032; take fewer")])
def test_bad_input_is_explained(native, change, error, message):
    x, u = change(*inputs((2, 8), device=native.device)[:2])
    calls = {"sample_index": (x, u), "sample_latent": (x, u)} | ({"unimix": (x, 0.01)} if "logit" in message else {})
    for name, args in calls.items():
        with pytest.raises(error, match=f"{name}: {message}"):
            getattr(latent, name)(*args)


@pytest.mark.parametrize("change", [
    lambda x, u: (x.t(), u), lambda x, u: (x, u[:2]), lambda x, u: (x, u.double()), lambda x, u: (x.half(), u),
    lambda x, u: (x[0, 0], u), lambda x, u: (x[:, :0].contiguous(), u), lambda x, u: (x.repeat(1, 129), u)])
def test_the_raw_op_refuses_what_would_read_foreign_memory(native, change):
    x, u = change(*inputs((3, 8), device=native.device)[:2])
    for name in ("sample_index", "sample_latent_fwd"):
        with pytest.raises(RuntimeError, match="sample_(index|latent_fwd): "):
            getattr(native.ops, name)(x, u)
