"""Public ops under torch's own modes: autocast leaves them alone, and torch.compile takes them whole, with inductor."""

import shutil

import pytest
import torch
from op_cases import CASES, op_of, results
from raw_cases import ACTIONS, BATCH, CLASSES, DETER, STOCH, UNITS, imagine_arguments, integers, n, scan_arguments

from hdfast.ops import dense, library
from hdfast.ops.adam import adam_step
from hdfast.ops.conv import conv, deconv
from hdfast.ops.imagine import imagine, imagine_states
from hdfast.ops.observe_scan import observe_scan
from hdfast.ops.state import Parameters
from hdfast.ops.state_mm import state_mm


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


def several(deter, index, u, noise, *weights):
    return tuple(imagine(deter, index, u, noise, Parameters(*weights[:17]), list(weights[17:]), classes=CLASSES,
                         mix=0.01, groups=(1, 3))[:5])


def continuous(deter, index, u, noise, *weights):
    return tuple(imagine(deter, index, u, noise, Parameters(*weights[:17]), list(weights[17:]), classes=CLASSES,
                         mix=0.01, groups=())[:5])


def states(action, deter, index, *params):
    return imagine_states(action, deter.detach(), index, Parameters(*(x.detach() for x in params)), classes=CLASSES,
                          mix=0.01)


def gathered(deter, stoch, index, kernel):
    return state_mm(deter, stoch, index, kernel, classes=CLASSES)


def scan_tensors():
    *data, params, _, _ = scan_arguments()
    data[2][0] = True
    return *data, *params


def rollout_tensors():
    *data, params, actor, _, _, _ = imagine_arguments()
    return *data, *params, *actor


def policy_tensors(*shape):
    deter, index, u, _, params, actor, *_ = imagine_arguments()
    heads = [n(UNITS, ACTIONS), n(ACTIONS)] if shape[-1] == ACTIONS else []
    return deter, index, u, torch.rand(shape), *params, *actor, *heads


def states_tensors():
    return n(2, BATCH, ACTIONS), n(3, BATCH, DETER), integers(CLASSES, 3, BATCH, STOCH), *imagine_arguments()[4]


WITHOUT_GRADIENT = (adam, rollout, several, continuous)
# family -> calls: function, tensors
CALLS = {family.__name__.rpartition(".")[2]: [(op_of(name), lambda case=case: case.make(*case.shapes[0]))
                                              for name, case in CASES.items() if name in family.PUBLIC]
         for family in library.families_here()} | {
    "adam": [(adam, lambda: (n(9), n(9), n(9), torch.rand(9), torch.zeros((), dtype=torch.int64)))],
    "bf16": [(rounded, lambda: (n(BATCH, 5), n(5, 7)))],
    "conv": [(conv, lambda: (n(BATCH, 4, 4, 8), n(5, 8, 4, 4))),
             (deconv, lambda: (n(BATCH, 2, 2, 5), n(5, 8, 4, 4)))],
    "imagine": [(rollout, rollout_tensors), (several, lambda: policy_tensors(2, BATCH, 2)),
                (continuous, lambda: policy_tensors(2, BATCH, ACTIONS)), (states, states_tensors),
                (gathered, lambda: (n(BATCH, DETER), n(BATCH, STOCH, CLASSES), integers(CLASSES, BATCH, STOCH),
                                    n(DETER + STOCH * CLASSES, 7)))],
    "observe_scan": [(scan, scan_tensors)],
    "scan_step": [(stepwise_scan, scan_tensors)],
}


def run(call, data: tuple, leaves: bool) -> list:
    """Outputs and, of those that have one, the gradients; or the refusal's words."""
    try:
        return results(call, data, leaves=leaves)
    except (TypeError, ValueError, RuntimeError) as refusal:
        return [str(refusal)]


def assert_same(got: list, want: list) -> None:
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        if isinstance(b, torch.Tensor):
            assert a.dtype == b.dtype and torch.equal(a, b)
        else:
            assert a == b


@pytest.fixture
def traced(native):
    if native.schedule not in (None, ("fwd", "rr")):
        pytest.skip("torch's modes do not see the schedule")
    return native


@pytest.fixture
def there(traced):
    with torch.device(traced.device):
        yield traced


def test_every_family_has_a_call():
    assert [family for family, calls in CALLS.items() if not calls] == []


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


@pytest.mark.parametrize("family", [family for family in CALLS if family != "imagine"])  # has others: test_scan_steps
def test_meta_tensors_have_shapes(there, family):
    """And types, those of gradients too."""
    if not there.holds(family):
        pytest.skip(f"{there.namespace} has no {family}")
    for call, make in CALLS[family]:
        data = make()
        got, want = (run(call, tuple(x.to(device) for x in data), call not in WITHOUT_GRADIENT)
                     for device in ("meta", there.device))
        assert all(x.is_meta for x in got)
        assert [(x.shape, x.dtype) for x in got] == [(x.shape, x.dtype) for x in want]


def surrounded(call):
    """A function with neighbors for an op to be fused with."""
    def f(*data):
        first = 1.5 * data[0] if data[0].is_floating_point() else data[0]
        out = call(first, *data[1:])
        out = out if isinstance(out, tuple) else (out,)
        return tuple(2 * x if x.is_floating_point() else x for x in out)
    return f


@pytest.mark.slow
@pytest.mark.parametrize("family", CALLS)
def test_compiles_without_graph_breaks(traced, family):
    """The op is called as it is, and gradients flow through; on the CPU by inductor, which needs g++."""
    if not traced.holds(family):
        pytest.skip(f"{traced.namespace} has no {family}")
    on_cpu = traced.namespace == library.NAMESPACE and traced.device == "cpu"
    backend = "inductor" if on_cpu and shutil.which("g++") else "aot_eager"
    for call, make in CALLS[family]:
        with torch.device(traced.device):  # not when traced: it is a mode that dynamo does not see through everywhere
            data = make()
        f, leaves = surrounded(call), call not in WITHOUT_GRADIENT
        torch._dynamo.reset()
        got = run(torch.compile(f, fullgraph=True, backend=backend), data, leaves)
        want = run(f, data, leaves)
        assert not isinstance(want[0], str), want
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b)
