"""Public ops under torch's own modes: autocast leaves them alone, and torch.compile takes them whole, with inductor."""

import shutil

import pytest
import torch
from raw_cases import ACTIONS, BATCH, CLASSES, DETER, STOCH, imagine_arguments, integers, latents, n, scan_arguments

from hdfast import ops
from hdfast.ops import dense, library
from hdfast.ops.adam import adam_step
from hdfast.ops.conv import conv, deconv
from hdfast.ops.harmony import NAMES
from hdfast.ops.imagine import imagine
from hdfast.ops.observe_scan import observe_scan
from hdfast.ops.replay_gather import replay_gather
from hdfast.ops.state import Parameters
from hdfast.ops.state_mm import state_mm


def actor(*args):
    return ops.actor_loss(*args, entropy=0.1)


def harmonize(*args):
    return ops.harmony_loss(dict(zip(NAMES, args[:5], strict=True)), args[5])


def adam(param, grad, mean, var, step):
    state = [x.clone() for x in (param, grad, mean, var, step)]
    adam_step(*state, lr=1e-3, eps=1e-8, clip=1.0, beta1=0.9, beta2=0.999)
    return tuple(state)


def scan(embed, action, is_first, u, *params):
    return observe_scan(embed, action, is_first, u, Parameters(*params), classes=CLASSES, mix=0.01)


def stepwise_scan(embed, action, is_first, u, *params):
    return torch.ops.hdfast.observe_launches_fwd(embed, action, is_first, u, list(params), CLASSES, 0.01, [])[:5]


def rounded(x, kernel):
    return dense.matmul(x, kernel, kernel.detach().bfloat16())


def rollout(deter, index, u, u_action, *weights):
    out = imagine(deter, index, u, u_action, Parameters(*weights[:17]), list(weights[17:]), classes=CLASSES, mix=0.01,
                  keep_prior=True)
    return tuple(x for x in out if x is not None)


def gathered(deter, stoch, index, kernel):
    return state_mm(deter, stoch, index, kernel, classes=CLASSES)


def scan_tensors():
    *data, params, _, _ = scan_arguments()
    data[2][0] = True
    return *data, *params


def rollout_tensors():
    *data, params, actor, _, _, _ = imagine_arguments()
    return *data, *params, *actor


WITHOUT_GRADIENT = (adam, rollout)
# family -> calls: function, tensors
CALLS = {
    "actor_loss": [(actor, lambda: (n(BATCH, ACTIONS), integers(ACTIONS, BATCH), n(BATCH), n(BATCH)))],
    "adam": [(adam, lambda: (n(9), n(9), n(9), torch.rand(9), torch.zeros((), dtype=torch.int64)))],
    "bf16": [(rounded, lambda: (n(BATCH, 5), n(5, 7)))],
    "cont_loss": [(ops.cont_loss, lambda: (n(4), torch.ones(4)))],
    "conv": [(conv, lambda: (n(BATCH, 4, 4, 8), n(5, 8, 4, 4))),
             (deconv, lambda: (n(BATCH, 2, 2, 5), n(5, 8, 4, 4)))],
    "gru_gates": [(ops.gru_gates, lambda: (n(BATCH, 3 * DETER), n(BATCH, DETER), n(3 * DETER), n(3 * DETER)))],
    "harmony": [(harmonize, lambda: (n(4), n(4), n(4), n(4), n(4), n(3)))],
    "image_loss": [(ops.image_loss, lambda: (n(BATCH, 2, 2, 3), n(BATCH, 2, 2, 3)))],
    "imagine": [(rollout, rollout_tensors),
                (gathered, lambda: (n(BATCH, DETER), n(BATCH, STOCH, CLASSES), integers(CLASSES, BATCH, STOCH),
                                    n(DETER + STOCH * CLASSES, 7)))],
    "kl": [(ops.balanced_kl, lambda: (latents(), latents())), (ops.kl_divergence, lambda: (latents(), latents()))],
    "latent": [(lambda x: ops.unimix(x, 0.01), lambda: (latents(),)),
               (ops.sample_index, lambda: (latents(), torch.rand(BATCH, STOCH))),
               (ops.sample_latent, lambda: (latents(), torch.rand(BATCH, STOCH)))],
    "norm_act": [(ops.norm_act, lambda: (n(BATCH, DETER), n(DETER), n(DETER)))],
    "observe_scan": [(scan, scan_tensors)],
    "replay_gather": [(replay_gather, lambda: (integers(256, 4, 12).to(torch.uint8), integers(4, 3)))],
    "return_range": [(ops.return_range, lambda: (n(9), n(), n()))],
    "returns": [(lambda r, v, c: ops.lambda_return(r, v, c, gamma=0.99, lam=0.95),
                 lambda: (n(2, BATCH), n(3, BATCH), torch.rand(3, BATCH))),
                (lambda c: ops.return_weight(c, gamma=0.99), lambda: (torch.rand(3, BATCH),))],
    "scan_step": [(stepwise_scan, scan_tensors)],
    "twohot": [(ops.symlog, lambda: (n(4),)), (ops.symexp, lambda: (n(4),)),
               (ops.twohot_loss, lambda: (n(BATCH, 7), n(BATCH))), (ops.twohot_mean, lambda: (n(BATCH, 7),))],
}


def run(call, data: tuple, leaves: bool) -> list:
    """Outputs and, of those that have one, the gradients of a fixed weighting; or the refusal's words."""
    if leaves:
        data = tuple(x.clone().requires_grad_(x.is_floating_point()) for x in data)
    try:
        out = call(*data)
    except (TypeError, ValueError, RuntimeError) as refusal:
        return [str(refusal)]
    out = list(out) if isinstance(out, tuple) else [out]
    graded = [x for x in out if x.requires_grad]
    if not graded:
        return out
    loss = sum((x.float() * torch.linspace(-1, 2, x.numel(), device=x.device).view(x.shape)).sum() for x in graded)
    return [*out, *torch.autograd.grad(loss, [x for x in data if x.requires_grad], allow_unused=True)]


def assert_same(got: list, want: list) -> None:
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        if isinstance(b, torch.Tensor):
            assert a.dtype == b.dtype and torch.equal(a, b)
        else:
            assert a == b


@pytest.fixture
def there(native):
    if native.schedule not in (None, ("fwd", "rr")):
        pytest.skip("torch's modes do not see the schedule")
    with torch.device(native.device):
        yield native


def test_every_family_has_a_call():
    assert {family.__name__.rpartition(".")[2] for family in library.families()} <= set(CALLS)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", CALLS)
def test_autocast_changes_nothing(there, family, half):
    """Same bits, same types and same refusals inside a bfloat16 autocast as outside: the input's type decides."""
    if not there.holds(family):
        pytest.skip(f"{there.namespace} has no {family}")
    if family == "conv" and (half or there.device == "cuda"):
        pytest.skip("bfloat16 images, and all on CUDA, take torch's own convolution, which autocast does convert")
    torch.manual_seed(0)
    for call, make in CALLS[family]:
        if call is gathered and there.device == "cuda":
            continue  # torch's own product there, which autocast does convert
        data = make()
        if half:  # the activations, that is the first argument
            data = (data[0].bfloat16() if data[0].is_floating_point() else data[0], *data[1:])
        want = run(call, data, call not in WITHOUT_GRADIENT)
        with torch.autocast(there.device, torch.bfloat16):
            got = run(call, data, call not in WITHOUT_GRADIENT)
        assert_same(got, want)
        assert half or not isinstance(want[0], str), want
        if not half:
            assert {x.dtype for x in got if isinstance(x, torch.Tensor)} <= {torch.float32, torch.int64, torch.uint8}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs g++")
@pytest.mark.parametrize("family", CALLS)
def test_inductor_compiles_it_whole(family):
    """fullgraph: no break; neighbors are fused by inductor, the op is called as it is, and gradients flow through."""
    if reason := library.problem():
        pytest.skip(f"the native library is not there: {reason}")
    torch.manual_seed(0)

    def surrounded(call):
        def f(*data):
            first = 1.5 * data[0] if data[0].is_floating_point() else data[0]
            out = call(first, *data[1:])
            out = out if isinstance(out, tuple) else (out,)
            return tuple(2 * x if x.is_floating_point() else x for x in out)
        return f

    with ops.use("native"):
        for call, make in CALLS[family]:
            data, f, leaves = make(), surrounded(call), call not in WITHOUT_GRADIENT
            torch._dynamo.reset()
            got = run(torch.compile(f, fullgraph=True, backend="inductor"), data, leaves)
            want = run(f, data, leaves)
            assert not isinstance(want[0], str), want
            for a, b in zip(got, want, strict=True):
                torch.testing.assert_close(a, b)
