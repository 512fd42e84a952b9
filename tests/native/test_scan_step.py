"""The kernels between a step's products through their functions: operands in bfloat16, rows apart, checks, tracing.

Their values and gradients in float32 are those of the whole scan (test_observe_scan.py, test_imagine.py), and of each
kernel in tests/cpp/scan_step_test.cpp.
"""

import pytest
import torch

from hdfast.ops import reference, scan_step

B, D, U, S, K, A = 3, 8, 12, 2, 5, 4
BF16 = dict(rtol=8e-3, atol=8e-3)


@pytest.fixture(autouse=True)
def family(native):
    if not native.holds("scan_step"):
        pytest.skip(f"{native.namespace} has no scan_step")


def draw(device, *shapes):
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=rng).to(device) for shape in shapes]


def step_inputs(device, dtype):
    """Arguments of step_input by name, with a state, masks and an action; joint is a part of a wider buffer."""
    rng = torch.Generator().manual_seed(1)
    pre, deter, start, kernel, action_kernel, scale, bias = draw(device, (B, U), (B, D), D, (S * K, U), (A, U), U, U)
    return dict(
        pre=pre, deter=deter, index=torch.randint(K, (B, S), generator=rng).to(device),
        reset=torch.tensor([False, True, False], device=device), start=start,
        start_index=torch.tensor([1, 3], device=device), kernel=kernel.to(dtype), action_kernel=action_kernel.to(dtype),
        scale=scale, bias=bias, before=torch.zeros_like(deter),
        joint=torch.full((B, D + U + 4), 7.0, dtype=dtype, device=device)[:, :D + U],
        stats=torch.zeros(2, B, device=device), draw=action_draw(device))


def action_draw(device):
    logit, bias, u, onehot = draw(device, (B, 1, A), A, (B, 1), (B, A))
    index = torch.empty(B, 1, dtype=torch.int64, device=device)
    return scan_step.Draw(logit, bias, u.sigmoid(), 0.01, None, onehot, index)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_step_input(native, dtype):
    x = step_inputs(native.device, dtype)
    rows = torch.where(x["reset"][:, None], x["start_index"], x["index"]) + torch.arange(S, device=native.device) * K
    h, before = torch.where(x["reset"][:, None], x["start"], x["deter"]), x["pre"].clone()
    scan_step.step_input(**x, accumulate=True)
    pre = before + x["kernel"].float()[rows].sum(1) + x["action_kernel"].float()[x["draw"].index[:, 0]]
    torch.testing.assert_close(x["pre"], pre)
    assert torch.equal(x["before"], h)
    want = torch.cat([h, reference.norm_act(pre, x["scale"], x["bias"])], 1)
    torch.testing.assert_close(x["joint"].float(), want, **(BF16 if dtype is torch.bfloat16 else {}))
    assert (x["joint"].as_strided((B - 1, 4), (D + U + 4, 1), D + U) == 7).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_step_input_backward(native, dtype):
    x = step_inputs(native.device, torch.float32)
    djoint, direct, carry = draw(native.device, (B, D + U), (B, D), (B, D))
    pre, scale, bias = (x[k].clone().requires_grad_() for k in ("pre", "scale", "bias"))
    dpre, dscale, dbias = torch.autograd.grad(reference.norm_act(pre, scale, bias), (pre, scale, bias), djoint[:, D:])
    scan_step.step_norm(x["pre"], x["scale"], x["bias"], torch.empty_like(pre), x["stats"])
    got = [torch.full_like(pre, 9.0, dtype=dtype, requires_grad=False) for _ in range(2)]
    dbefore, partial, before = torch.empty_like(direct), torch.empty(B, 2, U, device=native.device), carry.clone()
    scan_step.step_input_bwd(djoint, direct, x["reset"], x["pre"], x["stats"], x["scale"], x["bias"], *got, dbefore,
                             carry, partial)
    close = BF16 if dtype is torch.bfloat16 else dict(rtol=1e-5, atol=1e-5)
    keep = (~x["reset"])[:, None]
    torch.testing.assert_close(got[0].float(), dpre, **close)
    assert torch.equal(got[1], got[0] * keep)
    torch.testing.assert_close(dbefore, djoint[:, :D] + direct)
    torch.testing.assert_close(carry, before + dbefore * keep)
    torch.testing.assert_close(partial.sum(0), torch.stack([dscale, dbias]), rtol=1e-5, atol=1e-5)


def test_operands_in_bfloat16(native):
    x, deter, scale, bias, dnext, logit, donehot = draw(native.device, (B, 3 * D), (B, D), 3 * D, 3 * D, (B, D),
                                                        (B, S, K), (B, S, K))
    following, stats = torch.empty_like(deter), torch.empty(2, B, device=native.device)
    feat = torch.zeros(B, D + S * K, dtype=torch.bfloat16, device=native.device)
    scan_step.step_gates(x, deter, scale, bias, following, feat[:, :D], stats)
    u, index = torch.rand(B, S, device=native.device), torch.empty(B, S, dtype=torch.int64, device=native.device)
    shift, = draw(native.device, S * K)
    scan_step.step_sample(scan_step.Draw(logit, shift, u, 0.01, None, feat[:, D:], index))
    assert torch.equal(feat[:, :D], following.bfloat16())
    assert torch.equal(feat[:, D:].view(B, S, K), torch.nn.functional.one_hot(index, K).bfloat16())

    exact, rounded = ([torch.empty_like(x, dtype=t), torch.empty_like(logit, dtype=t)]
                      for t in (torch.float32, torch.bfloat16))
    for dx, dlogit in (exact, rounded):
        ddeter, partial = torch.empty_like(deter), torch.empty(B, 2, 3 * D, device=native.device)
        scan_step.step_gates_bwd(dnext, x, deter, stats, scale, bias, dx, ddeter, partial)
        scan_step.step_sample_bwd(logit, shift, donehot, None, 0.01, dlogit)
    assert all(torch.equal(a.bfloat16(), b) for a, b in zip(exact, rounded, strict=True))


def test_traces(native):
    x = step_inputs(native.device, torch.float32)
    x["joint"] = torch.empty(B, D + U, device=native.device)
    taken = x.pop("draw")
    torch.library.opcheck(native.ops.scan_input_fwd.default, (*x.values(), True, *taken))
    logit, index = draw(native.device, (B, S, K))[0], torch.empty(B, S, dtype=torch.int64, device=native.device)
    u = torch.full((B, S), 0.5, device=native.device)
    torch.library.opcheck(native.ops.scan_sample_fwd.default, (logit, None, u, 0.01, None, None, index))


def test_biases_and_gradients_of_a_draw(native):
    logit, donehot, dlogp = draw(native.device, (B, S, K), (B, S, K), (B, S, K))
    bias = draw(native.device, S * K)[0].view(S, K)
    leaf = logit.double().requires_grad_()
    want = reference.unimix(leaf + bias.double(), 0.01)
    logp, got = torch.empty_like(logit), torch.empty_like(logit)
    scan_step.log_probs(logit, bias.flatten(), 0.01, logp)
    torch.testing.assert_close(logp.double(), want.detach(), rtol=1e-5, atol=1e-6)
    for of_sample, of_logp in ((None, dlogp), (donehot, None), (donehot, dlogp)):
        total = sum((p * g.double()).sum() for p, g in ((want.exp(), of_sample), (want, of_logp)) if g is not None)
        scan_step.step_sample_bwd(logit, bias.flatten(), of_sample, of_logp, 0.01, got)
        exact, = torch.autograd.grad(total, leaf, retain_graph=True)
        torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("what", ["index", "action"])
@pytest.mark.parametrize("classes", [5, 33, 200], ids=lambda k: f"{k} classes")
def test_a_draw_before_the_step_is_that_draw_and_the_step(native, what, classes):
    x, groups = step_inputs(native.device, torch.float32), S if what == "index" else 1
    kernel = "kernel" if what == "index" else "action_kernel"
    logit, x[kernel], bias, u = draw(native.device, (B, groups, classes), (groups * classes, U), groups * classes,
                                     (B, groups))
    x |= {"index": None, "action_kernel": None} if what == "index" else {}
    results = []
    for apart in (True, False):
        own = x | {name: x[name].clone() for name in ("pre", "before", "stats")}
        logp, onehot = torch.empty_like(logit), torch.empty(B, groups * classes, device=native.device)
        drawn = torch.empty(B, groups, dtype=torch.int64, device=native.device)
        own["draw"] = scan_step.Draw(logit, bias, u.sigmoid(), 0.01, logp, onehot, drawn)
        if apart:
            scan_step.step_sample(own["draw"])
            own["draw"] = scan_step.NOTHING
            if what == "index":
                own["index"] = drawn
            else:
                own["pre"] += own["action_kernel"][drawn[:, 0]]
                own["action_kernel"] = None
        scan_step.step_input(**own, accumulate=True)
        results.append([logp, onehot, drawn, *(own[name].clone() for name in ("pre", "before", "joint", "stats"))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(("name", "wrong", "message"), [
    ("logit", lambda x: x[:, :, 1:], "logit must have shape"),
    ("logit", torch.Tensor.double, "logit must be float32"),
    ("bias", lambda x: x[1:], "bias must have shape"),
    ("u", lambda x: None, "u must be given with index or onehot"),
    ("index", lambda x: None, "logit and drawn must be given together"),
    ("onehot", lambda x: x.t().contiguous().t(), "onehot must have rows that are contiguous")])
def test_what_guards_memory_of_a_draw(native, name, wrong, message):
    x = step_inputs(native.device, torch.float32)
    x["draw"] = x["draw"]._replace(**{name: wrong(getattr(x["draw"], name))})
    with pytest.raises(RuntimeError, match=message):
        scan_step.step_input(**x, accumulate=True)


@pytest.mark.parametrize(("name", "wrong", "message"), [
    ("deter", torch.Tensor.double, "deter must be float32, got float64"),
    ("scale", lambda x: x[:-1], "scale must have shape"),
    ("joint", lambda x: x.t().contiguous().t(), "joint must have rows that are contiguous"),
    ("kernel", lambda x: None, "must have groups, and a kernel"),
    ("index", torch.Tensor.int, "index must be int64, got int32"),
    ("action_kernel", lambda x: None, "index must be left out where it is drawn"),
    ("start", lambda x: None, "start and start_index must be given")])
def test_what_guards_memory(native, name, wrong, message):
    x = step_inputs(native.device, torch.float32)
    with pytest.raises(RuntimeError, match=message):
        scan_step.step_input(**(x | {name: wrong(x[name])}), accumulate=True)
