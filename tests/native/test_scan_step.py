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


def inputs(device, dtype, classes=K, actions=A):
    """What the inputs of a step take, by name; joint is a part of a wider buffer."""
    rng = torch.Generator().manual_seed(1)
    pre, deter, start, kernel, action_kernel, scale, bias = draw(
        device, (B, U), (B, D), D, (S * classes, U), (actions, U), U, U)
    return dict(
        pre=pre, deter=deter, index=torch.randint(classes, (B, S), generator=rng).to(device),
        reset=torch.tensor([False, True, False], device=device), start=start,
        start_index=torch.tensor([1, 3], device=device), kernel=kernel.to(dtype), action_kernel=action_kernel.to(dtype),
        scale=scale, bias=bias, before=torch.zeros_like(deter),
        joint=torch.full((B, D + U + 4), 7.0, dtype=dtype, device=device)[:, :D + U],
        stats=torch.zeros(2, B, device=device))


def taken(device, groups, classes, whole=False):
    """A draw of `groups` groups a row; `whole`: its log-probabilities and one-hot rows, too."""
    logit, bias, u, logp, onehot = draw(device, (B, groups, classes), groups * classes, (B, groups),
                                        (B, groups, classes), (B, groups * classes))
    index = torch.empty(B, groups, dtype=torch.int64, device=device)
    return scan_step.Draw(logit, bias, u.sigmoid(), 0.01, *((logp, onehot) if whole else (None, None)), index)


def step(which, x, sample):
    """The input `which` of a step, from the arguments of `inputs`."""
    state = x["deter"], x["start"], x["start_index"]
    norm, joint = (x["scale"], x["bias"]), (x["joint"], x["stats"])
    if which == "start":
        scan_step.step_start(x["pre"], *state[1:], x["kernel"], *norm, x["before"], *joint)
    elif which == "next":
        scan_step.step_next(x["pre"], state, x["reset"], sample, x["kernel"], *norm, x["before"], *joint)
    elif which == "joint":
        scan_step.step_joint(x["pre"], x["deter"], *norm, *joint)
    elif which == "gather":
        scan_step.step_gather(x["pre"], x["deter"], x["index"], sample, x["kernel"], x["action_kernel"], *norm, *joint)
    else:
        scan_step.step_act(x["pre"], x["deter"], sample, x["action_kernel"], *norm, *joint)


def rows_of(kernel, index):
    groups, classes = index.shape[1], len(kernel) // index.shape[1]
    return kernel.float()[index + torch.arange(groups, device=index.device) * classes].sum(1)


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
# Classes of a draw: in the step's launch up to 32, a launch of its own beyond.
WHICH = [("start", 5), ("joint", 5),
         *((which, classes) for which in ("next", "gather", "act") for classes in (5, 33, 200))]


@DTYPES
@pytest.mark.parametrize(("which", "classes"), WHICH)
def test_step_input(native, dtype, which, classes):
    """Each input against its definition; what it draws first is what a draw alone takes."""
    latent = which == "next"
    sizes = dict(classes=classes) if latent else dict(actions=classes)
    x, groups = inputs(native.device, dtype, **sizes), S if latent else 1
    held = x["pre"].clone()
    sample, alone = (taken(native.device, groups, classes, whole=latent) for _ in range(2))
    step(which, x, sample)
    if which not in ("start", "joint"):
        scan_step.step_sample(alone)
        assert all(torch.equal(a, b) for a, b in zip(sample[4:], alone[4:], strict=True) if a is not None)

    h = {"start": x["start"].expand(B, D), "next": torch.where(x["reset"][:, None], x["start"], x["deter"])}.get(
        which, x["deter"])
    start = x["start_index"].expand(B, S)
    action = x["action_kernel"].float()[sample.index[:, 0]] if which in ("gather", "act") else None
    pre = {"joint": lambda: held, "start": lambda: held + rows_of(x["kernel"], start),
           "next": lambda: held + rows_of(x["kernel"], torch.where(x["reset"][:, None], start, sample.index)),
           "gather": lambda: rows_of(x["kernel"], x["index"]) + action, "act": lambda: held + action}[which]()
    torch.testing.assert_close(x["pre"], pre)
    assert torch.equal(x["before"], h if which in ("start", "next") else torch.zeros_like(h))
    want = torch.cat([h, reference.norm_act(pre, x["scale"], x["bias"])], 1)
    torch.testing.assert_close(x["joint"].float(), want, **(BF16 if dtype is torch.bfloat16 else {}))
    assert (x["joint"].as_strided((B - 1, 4), (D + U + 4, 1), D + U) == 7).all()


@DTYPES
def test_norm(native, dtype):
    x = inputs(native.device, torch.float32)
    held, y = x["pre"].clone(), torch.full((B, U + 4), 7.0, dtype=dtype, device=native.device)
    scan_step.step_norm(x["pre"], x["scale"], x["bias"], y[:, :U], x["stats"])
    assert torch.equal(x["pre"], held) and (y[:, U:] == 7).all()
    torch.testing.assert_close(y[:, :U].float(), reference.norm_act(held, x["scale"], x["bias"]),
                               **(BF16 if dtype is torch.bfloat16 else {}))


@DTYPES
@pytest.mark.parametrize("which", ["norm", "joint", "start", "next"])
def test_step_input_backward(native, dtype, which):
    x = inputs(native.device, torch.float32)
    djoint, direct, carry = draw(native.device, (B, D + U), (B, D), (B, D))
    pre, scale, bias = (x[k].clone().requires_grad_() for k in ("pre", "scale", "bias"))
    dpre, dscale, dbias = torch.autograd.grad(reference.norm_act(pre, scale, bias), (pre, scale, bias), djoint[:, D:])
    scan_step.step_norm(x["pre"], x["scale"], x["bias"], torch.empty_like(pre), x["stats"])
    norm = x["pre"], x["stats"], x["scale"], x["bias"]
    got, masked = (torch.full_like(pre, 9.0, dtype=dtype, requires_grad=False) for _ in range(2))
    dbefore, partial, before = torch.empty_like(direct), torch.empty(B, 2, U, device=native.device), carry.clone()
    if which == "norm":
        scan_step.step_norm_bwd(djoint[:, D:].contiguous(), *norm, got, partial)
    elif which == "joint":
        scan_step.step_joint_bwd(djoint, direct, *norm, torch.empty_like(got), None, partial.clone())
        scan_step.step_joint_bwd(djoint, direct, *norm, got, carry, partial)
        dbefore = carry - before
    elif which == "start":
        scan_step.step_start_bwd(djoint, direct, *norm, got, dbefore, partial)
    else:
        scan_step.step_next_bwd(djoint, direct, x["reset"], *norm, got, masked, dbefore, carry, partial)
        keep = (~x["reset"])[:, None]
        assert torch.equal(masked, got * keep)
        torch.testing.assert_close(carry, before + dbefore * keep)
    torch.testing.assert_close(got.float(), dpre, **(BF16 if dtype is torch.bfloat16 else dict(rtol=1e-5, atol=1e-5)))
    if which != "norm":
        torch.testing.assert_close(dbefore, djoint[:, :D] + direct)
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


def test_opcheck_of_a_draw_alone(native):
    sample = taken(native.device, 1, A)
    torch.library.opcheck(native.ops.scan_sample_fwd.default, (sample.inputs, 0.01, None, None, sample.index))


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


@pytest.mark.parametrize(("name", "wrong", "message"), [
    ("logit", lambda x: x[:, :, 1:], "logit must be contiguous"),
    ("logit", torch.Tensor.double, "logit must be float32"),
    ("bias", lambda x: x[1:], "bias must have shape"),
    ("onehot", lambda x: x.t().contiguous().t(), "onehot must have rows that are contiguous")])
def test_what_guards_memory_of_a_draw(native, name, wrong, message):
    x = inputs(native.device, torch.float32)
    sample = taken(native.device, S, K, whole=True)
    with pytest.raises(RuntimeError, match=message):
        step("next", x, sample._replace(**{name: wrong(getattr(sample, name))}))


@pytest.mark.parametrize(("which", "groups", "classes"), [("next", S, K + 1), ("next", S + 1, K), ("gather", 2, A),
                                                          ("act", 2, A)])
def test_a_draw_must_fit_the_step(native, which, groups, classes):
    with pytest.raises(RuntimeError, match="logit must have shape"):
        step(which, inputs(native.device, torch.float32), taken(native.device, groups, classes, whole=True))


@pytest.mark.parametrize(("name", "wrong", "message"), [
    ("deter", torch.Tensor.double, "deter must be float32, got float64"),
    ("scale", lambda x: x[:-1], "scale must have shape"),
    ("joint", lambda x: x.t().contiguous().t(), "joint must have rows that are contiguous"),
    ("kernel", lambda x: x[:1], "kernel must have as many rows as groups times classes"),
    ("index", torch.Tensor.int, "index must be int64, got int32"),
    ("action_kernel", lambda x: x[1:], "action_kernel must have shape")])
def test_what_guards_memory(native, name, wrong, message):
    x = inputs(native.device, torch.float32)
    with pytest.raises(RuntimeError, match=message):
        step("gather", x | {name: wrong(x[name])}, taken(native.device, 1, A))
