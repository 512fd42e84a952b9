"""KL divergences: native values, gradients, free nats, tracing and messages, over every library."""

import pytest
import torch

from hdfast import ops
from hdfast.ops import kl, reference
from tolerance import assert_as_accurate

SHAPES = [(1, 1, 1), (2, 3), (5, 1, 2), (7, 3, 33), (2, 3, 4, 32), (4, 32, 32), (3, 2, 129), (1, 2, 512)]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
FLOOR = {torch.float32: 1e-6, torch.bfloat16: 4e-3}


@pytest.fixture(autouse=True)
def family(native):
    if not native.holds("kl"):
        pytest.skip(f"{native.namespace} has no kl")


def inputs(shape, dtype=torch.float32, device="cpu", seed=0):
    """Log-probabilities of posterior and prior, and two gradients for each row."""
    rng = torch.Generator().manual_seed(seed)
    post, prior = (reference.unimix(2 * torch.randn(shape, generator=rng), 0.01).to(dtype) for _ in range(2))
    ddyn, drep = torch.randn(2, *shape[:-2], generator=rng)
    return [t.to(device) for t in (post, prior, ddyn, drep)]


def run(op, post, prior, *gradients, dtype=None, **kwargs):
    """Outputs and the gradients of both inputs."""
    leaves = [t.detach().to(dtype or t.dtype).requires_grad_() for t in (post, prior)]
    out = op(*leaves, **kwargs)
    out = out if isinstance(out, tuple) else (out,)
    weights = [w.to(y.dtype) for w, y in zip(gradients, out, strict=False)]
    return [*(y.detach() for y in out), *torch.autograd.grad(out[:len(weights)], leaves, weights)]


def compare(name, post, prior, *gradients, **kwargs):
    got = run(getattr(ops, name), post, prior, *gradients, **kwargs)
    eager = run(getattr(reference, name), post.float(), prior.float(), *gradients, **kwargs)
    exact = run(getattr(reference, name), post, prior, *gradients, dtype=torch.float64, **kwargs)
    for i, (g, e, r) in enumerate(zip(got, eager, exact, strict=True)):
        values = i < len(got) - 2
        assert g.dtype == (torch.float32 if values else post.dtype)
        assert_as_accurate(g, e.to(g.dtype), r, floor=1e-6 if values else FLOOR[post.dtype], name=f"{name} {i}")


@DTYPES
@pytest.mark.parametrize("free_nats", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_balanced_kl(native, shape, free_nats, dtype):
    compare("balanced_kl", *inputs(shape, dtype, native.device), free_nats=free_nats)


@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kl_divergence(native, shape, dtype):
    post, prior, dkl, _ = inputs(shape, dtype, native.device)
    compare("kl_divergence", post, prior, dkl)


def test_below_the_free_nats_there_is_no_gradient(native):
    post, prior, *gradients = inputs((6, 4, 8), device=native.device)
    prior[::2] = post[::2]
    dyn, rep, value, dpost, dprior = run(ops.balanced_kl, post, prior, *gradients, free_nats=1.0)
    assert (value[::2].abs() < 1e-6).all() and (value[1::2] > 1).all()
    assert (dyn[::2] == 1).all() and (rep[::2] == 1).all() and torch.equal(dyn[1::2], value[1::2])
    for d in (dpost, dprior):
        assert not d[::2].any() and d[1::2].flatten(1).any(1).all()


def test_each_loss_reaches_one_side_only(native):
    post, prior, *_ = inputs((3, 4, 8), device=native.device)
    for which in (0, 1):
        leaves = [t.clone().requires_grad_() for t in (post, prior)]
        out = ops.balanced_kl(*leaves, 0.0)
        assert not out[2].requires_grad
        dpost, dprior = torch.autograd.grad(out[which].sum(), leaves)
        assert (dpost if which == 0 else dprior).count_nonzero() == 0
        assert (dprior if which == 0 else dpost).count_nonzero() > 0


def test_only_one_input_wants_a_gradient(native):
    post, prior, ddyn, _ = inputs((3, 4, 8), device=native.device)
    prior.requires_grad_()
    dyn, _, _ = ops.balanced_kl(post, prior, 0.0)
    got, = torch.autograd.grad(dyn, prior, ddyn)
    torch.testing.assert_close(got, -ddyn[:, None, None] * post.exp())


def test_probabilities_near_zero_and_one(native):
    post = torch.tensor([[[0.0, -90.0, -90.0]], [[-1e-7, -16.0, -40.0]], [[-3.0, -0.1, -3.0]]]).to(native.device)
    prior = torch.tensor([[[-60.0, 0.0, -60.0]], [[-1e-7, -16.0, -30.0]], [[-100.0, -100.0, 0.0]]]).to(native.device)
    weights = torch.ones(2, 3, device=native.device)
    compare("balanced_kl", post, prior, *weights, free_nats=0.0)


def test_a_nan_reaches_its_row_and_no_other(native):
    post, prior, *_ = inputs((3, 4, 32), device=native.device)
    prior[1, 2, 5] = torch.nan
    for value in (*ops.balanced_kl(post, prior), ops.kl_divergence(post, prior)):
        assert value[1].isnan() and value[[0, 2]].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 2, 8), (4, 0, 2, 8)], ids=str)
def test_no_rows(native, shape):
    dyn, rep, value, dpost, dprior = run(ops.balanced_kl, *inputs(shape, device=native.device))
    assert dyn.shape == rep.shape == value.shape == shape[:-2] and dpost.shape == dprior.shape == shape


def test_no_latents(native):
    post = torch.zeros(3, 0, 8, device=native.device)
    dyn, rep, value = ops.balanced_kl(post, post, 0.5)
    assert dyn.tolist() == rep.tolist() == [0.5] * 3
    assert value.tolist() == ops.kl_divergence(post, post).tolist() == [0] * 3


def test_strided_inputs(native):
    """Transposed, sliced and expanded tensors give what their copies give, gradients of the views included."""
    post, prior, ddyn, drep = inputs((12, 6, 3, 8), device=native.device)
    views = (post.transpose(0, 1)[:, ::2], prior.transpose(0, 1)[:1, ::2].expand(6, 6, 3, 8),
             ddyn.transpose(0, 1)[:, ::2], drep[:1, :1].expand(6, 6))
    copies = [v.clone() for v in views]
    for a, b in zip(run(ops.balanced_kl, *views), run(ops.balanced_kl, *copies), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_repeats_are_bit_equal_whatever_the_number_of_threads(native):
    data = inputs((20, 4, 32) if native.namespace == "hdfast_emu" else (200, 32, 32), device=native.device)
    first = run(ops.balanced_kl, *data)
    assert all(torch.equal(a, b) for a, b in zip(first, run(ops.balanced_kl, *data), strict=True))
    torch.set_num_threads(2)
    assert all(torch.equal(a, b) for a, b in zip(first, run(ops.balanced_kl, *data), strict=True))


def test_opcheck(native):
    post, prior, ddyn, drep = inputs((5, 3, 8), device=native.device)
    torch.library.opcheck(native.ops.balanced_kl_bwd.default, (ddyn, drep, post, prior, 1.0))
    for op, *rest in ((native.ops.balanced_kl_fwd, 1.0), (native.ops.kl_divergence_fwd,)):
        torch.library.opcheck(op.default, (post.clone().requires_grad_(), prior.clone().requires_grad_(), *rest))


@pytest.mark.slow
def test_compiles_without_graph_breaks(native):
    if native.schedule not in (None, ("fwd", "rr")):
        pytest.skip("tracing does not depend on the schedule")

    def losses(post, prior):
        dyn, rep, value = ops.balanced_kl(post, prior, 1.0)
        return 2 * dyn + value, rep + ops.kl_divergence(prior, post)

    data = inputs((5, 3, 8), device=native.device)
    compiled = torch.compile(losses, fullgraph=True, backend="aot_eager")
    for a, b in zip(run(compiled, *data), run(losses, *data), strict=True):
        torch.testing.assert_close(a, b)


def test_meta_tensors_have_shapes(native):
    with torch.device("meta"):
        x = torch.empty(3, 5, 4, 16)
        assert {y.shape for y in (*ops.balanced_kl(x, x), ops.kl_divergence(x, x))} == {(3, 5)}


@pytest.mark.parametrize(("change", "error", "message"), [
    (lambda p, q: (p.double(), q.double()), TypeError,
     "{} must be float32 or bfloat16, got float64; .*use.'reference'"),
    (lambda p, q: (p, q.bfloat16()), TypeError, "{} must be float32, got bfloat16; convert it"),
    (lambda p, q: (p, q[:1]), ValueError, r"{} must have shape \(2, 3, 8\) = .*got \(1, 3, 8\); reshape"),
    (lambda p, q: (p, q.to("meta")), ValueError, "{} must be on .* got meta; move it there"),
    (lambda p, q: (p[0, 0], q[0, 0]), ValueError, r"{} must have shape \(..., S, K\), got \(8,\); the last axes"),
    (lambda p, q: (p.repeat(1, 1, 65), q), ValueError, "{} must have at most 512 classes, got 520; take fewer")])
def test_bad_input_is_explained(native, change, error, message):
    post, prior = change(*inputs((2, 3, 8), device=native.device)[:2])
    for op, names in ((kl.balanced_kl, "(post|prior)"), (kl.kl_divergence, "(p|q)")):
        with pytest.raises(error, match=f"{op.__name__}: {message.replace('{}', names)}"):
            op(post, prior)


@pytest.mark.parametrize("change", [
    lambda p, q: (p.transpose(0, 1), q), lambda p, q: (p, q[:2]), lambda p, q: (p, q.bfloat16()),
    lambda p, q: (p.half(), q.half()), lambda p, q: (p[0, 0], q[0, 0]),
    lambda p, q: (p.repeat(1, 1, 65), q.repeat(1, 1, 65))])
def test_the_raw_op_refuses_what_would_read_foreign_memory(native, change):
    post, prior = change(*inputs((3, 2, 8), device=native.device)[:2])
    with pytest.raises(RuntimeError, match=r"balanced_kl_(fwd|bwd): "):
        native.ops.balanced_kl_fwd(post, prior, 1.0)
