"""The imagined rollout in one native call, products with model states, and the matrix products behind them."""

import pytest
import torch
import torch.nn.functional as F
from imagine_cases import POLICIES, gradient, policy_rollout, rollout, states_case
from scan_cases import HALF, STEPS, TRACED

from hdfast import ops
from hdfast.model.imagination import imagine
from hdfast.ops import dense, gemm, library, reference
from hdfast.ops.execution import usable
from hdfast.ops.imagine import imagine as native_imagine
from hdfast.ops.imagine import imagine_states
from hdfast.ops.products import add_mm, mm_into
from hdfast.ops.state_mm import state_mm
from tolerance import assert_as_accurate

# T, B, E, A, D, U, S, K; H, N, actor layers
CASES = [((1, 1, 1, 1, 1, 2, 1, 2), 1, 1, 1), ((1, 1, 3, 5, 16, 12, 3, 5), 4, 7, 2),
         ((1, 1, 3, 6, 40, 33, 4, 32), 3, 300, 3)]


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("sizes, horizon, rows, layers", CASES, ids=str)
def test_equals_the_reference(sequences, sizes, horizon, rows, layers, extra):
    args, actor = rollout(sizes, horizon, rows, layers, extra, sequences.device)
    rssm, *inputs = args
    got = imagine(rssm, actor, *inputs, keep_prior=True)
    with ops.use("reference"):
        want = imagine(rssm, actor, *inputs, keep_prior=True)
    assert (got.features.flat is None) == (usable(got.features.deter)) and want.features.flat is not None
    assert torch.equal(got.features.index, want.features.index) and torch.equal(got.action, want.action)
    products = [[t.past.known[layer.kernel] for layer in actor.hidden] for t in (got, want)]
    for one, other in ((got.features.deter, want.features.deter), (got.prior, want.prior), products,
                       (got.features.tensor(), want.features.tensor())):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=5e-6)


SIZES = (1, 1, 3, 6, 40, 33, 4, 32)
ROUNDED = pytest.mark.parametrize("sequences", ["call", "steps", "steps-emu-rev-rr",
                                                pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True)


@POLICIES
@pytest.mark.parametrize("rows, horizon, layers, extra", [(7, 4, 2, 1), (300, 1, 1, 0)])
def test_every_policy_equals_the_reference(sequences, groups, rows, horizon, layers, extra):
    args, options = policy_rollout(SIZES, horizon, rows, groups, layers, extra, sequences.device)
    got, want = (run(*args, **options, keep_prior=True) for run in (native_imagine, reference.imagine))
    assert (got[5] is None) == usable(args[0])
    for one, other in zip(got, want, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, rtol=2e-5, atol=5e-6)


@pytest.mark.parametrize(("groups", "shape", "message"), [
    ((2, 3), (2, 3, 2), r"groups must add up to 6, the actions of params, got \(2, 3\)"),
    ((2, 4), (2, 3, 3), r"noise must have shape \(2, 3, 2\)"), ((), (2, 3), r"noise must have shape \(2, 3, 6\)")])
def test_noise_that_fits_no_policy_is_refused(groups, shape, message):
    (*start, _, params, actor), options = policy_rollout(SIZES, 2, 3, ())
    with pytest.raises(ValueError, match=f"imagine: {message}"):
        native_imagine(*start, torch.rand(shape), params, actor, **options | {"groups": groups})


@ROUNDED
@POLICIES
def test_policies_in_bfloat16(sequences, groups):
    """One step, before a flipped sample can lead elsewhere."""
    args, options = policy_rollout(SIZES, 1, 300, groups, device=sequences.device)
    want = native_imagine(*args, **options)
    for kernel in (*args[4], *args[5]):
        kernel.shadow = kernel.bfloat16()
    got = native_imagine(*args, **options)
    assert got[5] is None if usable(args[0]) else got[5].dtype is torch.bfloat16
    assert got[0].dtype is torch.float32 and got[3].dtype is want[3].dtype
    same = (want[3] - got[3]).abs()[0].view(300, -1).amax(1) < 0.05
    assert same.float().mean() > 0.9 and 0 < (got[0] - want[0])[1][same].abs().max() < 0.03
    if groups == ():
        assert not torch.equal(got[3], want[3]) and want[3].abs().max() > 1


STATES = [((1, 1, 1, 1, 1, 2, 1, 2), 1, 1), ((1, 1, 3, 5, 16, 12, 3, 5), 4, 7), ((1, 1, 3, 6, 40, 33, 4, 32), 3, 70)]


@pytest.mark.parametrize("used", [(True, True), (True, False), (False, True)], ids=["both", "deter", "stoch"])
@pytest.mark.parametrize("sizes, horizon, rows", STATES, ids=str)
def test_states_as_a_function_of_actions(sequences, sizes, horizon, rows, used):
    case, grads = states_case(sizes, horizon, rows, sequences.device)
    grads = [g if wanted else None for g, wanted in zip(grads, used, strict=True)]
    got = gradient(imagine_states, case, grads, sizes[-1])
    eager, exact = (gradient(reference.imagine_states, case, grads, sizes[-1], dtype)
                    for dtype in (torch.float32, torch.float64))
    assert torch.equal(got[0], case[1]) and torch.equal(got[1], eager[1])
    assert_as_accurate(got[2], eager[2], exact[2], floor=1e-6, name="gradient")
    if rows > 1:
        assert float((got[2] - exact[2]).abs().max() / exact[2].abs().max()) < 1e-5 and case[0].abs().max() > 1


@ROUNDED
def test_states_with_operands_in_bfloat16(sequences):
    case, grads = states_case(SIZES, 3, 70, sequences.device)
    want = gradient(imagine_states, case, grads, 32)[2]
    for kernel in case[3]:
        kernel.shadow = kernel.bfloat16()
    leaf = case[0].requires_grad_()
    got, = torch.autograd.grad(imagine_states(leaf, *case[1:], classes=32, mix=0.01), leaf, grads)
    assert 0 < float((got - want).norm() / want.norm()) < 0.02


def test_parameters_are_constants_of_the_states():
    case, _ = states_case(SIZES, 2, 3)
    params = type(case[3])(*(x.requires_grad_() for x in case[3]))
    for run in (ops.imagine_states, reference.imagine_states):
        deter, _ = run(case[0].requires_grad_(), case[1].requires_grad_(), case[2], params, classes=32, mix=0.01)
        grads = torch.autograd.grad(deter.sum(), [*params, case[1]], allow_unused=True)
        assert all(g is None for g in grads)


@pytest.mark.parametrize(("place", "wrong", "error", "message"), [
    (0, lambda x: x.double(), TypeError, "action must be float32, got float64"),
    (0, lambda x: x[0], ValueError, r"action must have shape \(H, N, A\), got \(3, 6\)"),
    (0, lambda x: x[..., 1:], ValueError, r"action must have shape \(2, 3, 6\) = \(H, N, A\), got \(2, 3, 5\)"),
    (1, lambda x: x[1:], ValueError, r"deter must have shape \(3, 3, 40\)"),
    (2, lambda x: x[..., 1:], ValueError, r"index must have shape \(3, 3, 4\)"),
    (2, lambda x: x.int(), TypeError, "index must be int64, got int32")])
def test_states_that_fit_no_rollout_are_refused(place, wrong, error, message):
    case = list(states_case(SIZES, 2, 3)[0])
    case[place] = wrong(case[place])
    with pytest.raises(error, match=f"imagine_states: {message}"):
        imagine_states(*case, classes=32, mix=0.01)


@HALF
@pytest.mark.parametrize("rows", [7, 300])
def test_operands_in_bfloat16(sequences, rows):
    """One step, before a flipped sample can lead elsewhere; of the samples few flip."""
    (rssm, start, u, u_action), actor = rollout((1, 1, 3, 6, 40, 33, 4, 32), 1, rows, 2, device=sequences.device)
    args = start.deter, start.index, u, u_action, rssm.weights(), actor.weights()
    want = native_imagine(*args, classes=32, mix=0.01, keep_prior=True)
    for kernel in (*rssm.parameters(), *actor.parameters()):
        kernel.shadow = kernel.detach().bfloat16()
    got = native_imagine(*args, classes=32, mix=0.01, keep_prior=True)
    same = (want[3] == got[3])[0]
    assert got[5].dtype is torch.bfloat16 and got[0].dtype is got[2].dtype is torch.float32
    assert same.float().mean() > 0.9 and (want[1] == got[1]).float().mean() > 0.95
    assert 0 < (got[0] - want[0])[1][same].abs().max() < 0.03 and (got[2] - want[2])[0][same].abs().max() < 0.1
    assert torch.equal(got[5][..., :40], got[0].bfloat16())
    assert torch.equal(got[5][..., 40:].float().view(2, rows, 4, 32), F.one_hot(got[1], 32).float())


@pytest.mark.parametrize("rows, deter, stoch, classes, columns",
                         [(1, 1, 1, 2, 1), (9, 5, 3, 4, 7), (50, 64, 8, 8, 200)])
def test_state_product(sequences, rows, deter, stoch, classes, columns):
    torch.manual_seed(0)
    index = torch.randint(classes, (2, rows, stoch)).to(sequences.device)
    leaves = [torch.randn(2, rows, deter), F.one_hot(index, classes).float(),
              torch.randn(deter + stoch * classes, columns)]
    leaves = [x.to(sequences.device).requires_grad_() for x in leaves]
    dy = torch.randn(2, rows, columns).to(sequences.device)

    def run(product, dtype):
        h, z, w = (x.detach().to(dtype).requires_grad_() for x in leaves)
        y = product(h, z, w)
        return [y.detach(), *torch.autograd.grad(y, (h, z, w), dy.to(dtype))]

    got = run(lambda h, z, w: state_mm(h, z, index, w, classes=classes), torch.float32)
    exact = run(lambda h, z, w: torch.cat([h, z.flatten(-2)], -1) @ w, torch.float64)
    for g, e in zip(got, exact, strict=True):
        torch.testing.assert_close(g.double(), e, rtol=1e-5, atol=2e-5)


@pytest.fixture
def library_here():
    if reason := library.problem():
        pytest.skip(f"the native library is not there: {reason}")


@pytest.mark.usefixtures("library_here")
@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (4, 130, 33), (15, 385, 31), (16, 32, 64), (129, 800, 530), (3, 0, 5)])
def test_own_matrix_product(m, k, n):
    torch.manual_seed(0)
    a, b = torch.randn(m, k), torch.randn(k, n)
    want = a.double() @ b.double()
    limit = 1e-6 * max(k, 1) ** 0.5 * 4
    for x in (a, a.t().contiguous().t()):
        for y in (b, b.t().contiguous().t()):
            assert (torch.ops.hdfast.mm(x, y).double() - want).abs().max() <= limit


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("rows, columns, inner", [(16, 1536, 1024), (1, 7, 5), (37, 33, 257)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_products_into_buffers(device, rows, columns, inner, dtype):
    """Sums stay float32, also if torch multiplies bfloat16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        a, b = (torch.randn(shape).to(dtype).to(device) for shape in ((rows, inner), (inner, columns)))
        start = torch.randn(rows, columns).to(device)
        written, added = mm_into(torch.empty_like(start), a, b), add_mm(start.clone(), a, b)
    finally:
        torch.set_float32_matmul_precision(before)
    exact = a.double() @ b.double()
    for got, want in ((written, exact), (added, exact + start)):
        assert got.dtype is torch.float32
        torch.testing.assert_close(got.double(), want, atol=1e-5 * inner ** 0.5, rtol=1e-5)


@pytest.mark.usefixtures("library_here")
@pytest.mark.parametrize("name", ["mkl", "onednn"])
def test_every_path_of_large_products(name, monkeypatch):
    monkeypatch.setattr(gemm, "chosen", lambda: name)
    x, w, b = (torch.randn(s, requires_grad=True) for s in ((2, 300, 260), (260, 256), (256,)))
    y = dense.project(x, w, b)
    want = [y.detach().double(), *(g.double() for g in torch.autograd.grad(y.square().sum(), (x, w, b)))]
    xd, wd, bd = (t.detach().double().requires_grad_() for t in (x, w, b))
    exact = xd @ wd + bd
    for g, e in zip(want, [exact.detach(), *torch.autograd.grad(exact.square().sum(), (xd, wd, bd))], strict=True):
        torch.testing.assert_close(g, e, rtol=1e-4, atol=1e-5 * float(e.abs().max()))


@pytest.mark.parametrize("vendor, name", [("AuthenticAMD", "onednn"), ("GenuineIntel", "mkl"), (None, "mkl")])
def test_the_library_of_large_products_is_fixed_by_the_processor(monkeypatch, vendor, name):
    def read(path):
        if vendor is None:
            raise FileNotFoundError(path)
        return f"vendor_id : {vendor}"

    monkeypatch.setattr(gemm.Path, "read_text", read)
    assert gemm.chosen.__wrapped__() == name


@STEPS
def test_opcheck(sequences):
    (rssm, start, u, u_action), actor = rollout(*CASES[1], device=sequences.device)
    params = [[p.detach() for p in group] for group in (rssm.weights(), actor.weights())]
    torch.library.opcheck(torch.ops.hdfast.imagine_steps.default,
                          (start.deter, start.index, u, u_action, *params, 5, 0.01, True, False, []))


@STEPS
@POLICIES
def test_opcheck_of_every_policy(sequences, groups):
    (*tensors, params, actor), options = policy_rollout(SIZES, 2, 3, groups, device=sequences.device)
    torch.library.opcheck(torch.ops.hdfast.imagine_steps.default,
                          (*tensors, list(params), actor, 32, 0.01, True, False, [], options["groups"]))


@STEPS
def test_opcheck_of_states(sequences):
    (action, *states, params), grads = states_case(SIZES, 2, 3, device=sequences.device)
    inputs = action.requires_grad_(), *states, list(params), 32, 0.01, False, []
    torch.library.opcheck(torch.ops.hdfast.imagine_states.default, inputs)
    torch.library.opcheck(torch.ops.hdfast.imagine_states_bwd.default, (*grads, action.detach(), *inputs[1:]),
                          test_utils=("test_schema", "test_faketensor"))


@TRACED
def test_compiles_without_graph_break(sequences):
    (rssm, start, u, u_action), actor = rollout(*CASES[1], device=sequences.device)

    def run(deter):
        out = native_imagine(deter, start.index, u, u_action, rssm.weights(), actor.weights(), classes=5, mix=0.01)
        return out[0], state_mm(out[0], None, out[1], rssm.img_in.kernel.new_ones(31, 2), classes=5)

    for got, want in zip(torch.compile(run, fullgraph=True, backend="aot_eager")(start.deter), run(start.deter),
                         strict=True):
        torch.testing.assert_close(got, want)
