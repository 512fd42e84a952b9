"""Every raw op against spoiled arguments: refused with a message, never a read of foreign memory.

One argument of an accepted call (raw_cases.py) is spoiled at a time. What stays a valid call is listed: everything else
must raise and name the op. A new op needs a row in raw_cases.CASES.
"""

import re

import pytest
import torch
from raw_cases import CASES, SHAPES, TYPES

from hdfast.ops import library

# Shapes that fit all the same: free sizes, and numbers per row whose count alone matters.
FREE = {
    "actor_loss_fwd.logit": "wider narrower", "actor_loss_bwd.logit": "wider narrower", "adam_step.step": "deeper",
    "balanced_kl_bwd.ddyn": "deeper", "balanced_kl_bwd.drep": "deeper", "gru_gates_bwd.mean": "deeper",
    "conv_down.x": "longer shorter", "conv_down.kernel": "longer shorter", "conv_up.y": "longer shorter",
    "conv_kernel.x": "wider narrower", "conv_kernel.y": "wider narrower",
    "gru_gates_bwd.rstd": "deeper", "imagine.u": "shorter", "imagine.u_action": "longer", "mm.a": "longer shorter",
    "mm.b": "wider narrower",
    "mm_bf16.a": "longer shorter", "mm_bf16.b": "wider narrower",
    "norm_act_bwd.mean": "deeper", "norm_act_bwd.rstd": "deeper",
    "norm_act_fwd.x": "longer shorter deeper", "replay_gather.index": "longer shorter empty",
    "replay_gather.ring": "longer shorter wider narrower", "return_range.low": "deeper", "return_range.high": "deeper",
    "return_range.ret": "longer shorter", "return_weight_fwd.cont": "longer shorter wider narrower",
    **{f"scan_{name}_bwd.partial": "longer shorter" for name in ("gates", "norm", "joint", "start", "next")},
    "scan_start_fwd.start_index": "longer shorter", "scan_gather.index": "wider narrower",  # as many rows, other groups
    "sample_index.logp": "wider narrower", "sample_latent_fwd.logp": "wider narrower",
    "state_mm_fwd.kernel": "wider narrower", "state_mm_bf16_fwd.kernel": "wider narrower",
    "symexp_fwd.x": "longer shorter number deeper empty",
    "symlog_fwd.x": "longer shorter number deeper empty", "twohot_loss_fwd.target": "longer shorter",
    "twohot_mean_fwd.logit": "longer shorter", "unimix_fwd.logit": "longer shorter wider narrower deeper flat",
}
# Arguments that are not read: a gradient's path, and the posterior's parameters where there is no posterior.
UNREAD = {"state_mm_fwd.stoch", "state_mm_bf16_fwd.stoch", *(f"imagine.params[{i}]" for i in range(12, 17))}
ANY_STRIDES = ("strided", "expanded", "overlapping")
STRIDES = {"mm.a", "mm.b", "mm_bf16.a", "mm_bf16.b"}  # matrices of any strides
WITHOUT_DERIVATIVE = ("_bwd", "adam_step", "imagine", "mm_bf16", "normal_sample", "return_range")
SENTENCE = re.compile(r": .*must .*, got .*; ")  # what was expected, what came, what to do


@pytest.fixture
def ops(native):
    if native.schedule not in (None, ("fwd", "rr")):
        pytest.skip("checks do not depend on the schedule")
    with torch.device(native.device):
        yield native.ops


def raw(native, name: str):
    """The op, where the library has code for it and for the device."""
    op = getattr(getattr(native.ops, name, None), "default", None)
    if op is None or not torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), native.device.upper()):
        pytest.skip(f"{native.namespace} has no {name} on {native.device}")
    return op


def tensors(arguments: tuple):
    """(position, index in a list or None, tensor) of each tensor."""
    for position, value in enumerate(arguments):
        if isinstance(value, torch.Tensor):
            yield position, None, value
        elif isinstance(value, list):
            yield from ((position, i, t) for i, t in enumerate(value) if isinstance(t, torch.Tensor))


def replaced(arguments: tuple, position: int, index: int | None, tensor: torch.Tensor) -> list:
    """The arguments with another tensor in one place."""
    changed = list(arguments)
    changed[position] = tensor if index is None else [*changed[position][:index], tensor,
                                                      *changed[position][index + 1:]]
    return changed


def test_every_op_has_a_case(ops, native):
    assert {name for family in library.families(native.namespace) for name in family.OPS} <= set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_spoiled_arguments_are_refused(ops, native, name):
    op = raw(native, name)
    torch.manual_seed(0)
    good = CASES[name]()
    op(*good)
    wrong, tried = [], 0
    for position, index, tensor in tensors(good):
        where = f"{name}.{op._schema.arguments[position].name}" + ("" if index is None else f"[{index}]")
        changes = TYPES | {k: v for k, v in SHAPES.items() if k.split()[-1] not in FREE.get(where, "").split()}
        for change, spoil in changes.items():
            bad = spoil(tensor)
            if bad is None or (where in UNREAD and change != "no data") or (where in STRIDES and change in ANY_STRIDES):
                continue
            if change in ("no data", "another device") and sum(1 for _ in tensors(good)) == 1:
                continue  # alone, it settles where the op runs
            tried += 1
            try:
                op(*replaced(good, position, index, bad))
                wrong.append(f"{where} {change}: accepted")
            except (RuntimeError, ValueError) as error:
                spoken = "" if change == "no data" else name
                if spoken not in str(error) or not SENTENCE.search(str(error)):
                    wrong.append(f"{where} {change}: {error}")
    assert tried and not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", CASES)
def test_free_shapes_are_accepted(ops, native, name):
    """The other half of the table: what is listed as valid does run, so that no entry hides a check."""
    op = raw(native, name)
    good = CASES[name]()
    for position, index, tensor in tensors(good):
        where = f"{name}.{op._schema.arguments[position].name}"
        for change in FREE.get(where, "").split():
            arguments = list(good)
            arguments[position] = SHAPES["a number" if change == "number" else change](tensor)
            op(*arguments)
        assert index is None or where not in FREE


@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith(WITHOUT_DERIVATIVE)])
def test_calls_and_traces_have_one_derivative(ops, native, name):
    """What `library.op` calls outside of traces, against the op as torch calls it: every number and every gradient."""
    plain = raw(native, name)
    call = library.raw(native.namespace)[name]
    if call is plain:
        pytest.skip(f"{name} has no derivative")
    torch.manual_seed(0)
    good = CASES[name]()
    with torch.no_grad():
        for got, want in zip(results(call(*good)), results(plain(*good)), strict=True):
            assert torch.equal(got, want) and not got.requires_grad
    found = []
    for op in (call, plain):
        arguments = good
        for position, index, tensor in tensors(good):
            if tensor.is_floating_point():
                arguments = replaced(arguments, position, index, tensor.clone().requires_grad_())
        out = [y for y in results(op(*arguments)) if y.requires_grad]
        inputs = [x for _, _, x in tensors(arguments) if x.requires_grad]
        ones = [torch.ones_like(y) for y in out]
        found.append([out, torch.autograd.grad(out, inputs, ones, allow_unused=True)])
    for ours, torchs in zip(*found, strict=True):
        assert len(ours) == len(torchs) > 0
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(ours, torchs, strict=True))
    assert any(grad is not None for grad in found[0][1])


def results(output) -> list[torch.Tensor]:
    return [output] if isinstance(output, torch.Tensor) else [*output]


@pytest.mark.parametrize("value", [-1, 1 << 40])
@pytest.mark.parametrize("name", ["imagine", "state_mm_fwd", "state_mm_bwd", "state_mm_bf16_fwd",
                                  "state_mm_bf16_bwd", "observe_scan_bwd"])
def test_indices_outside_are_refused(ops, native, name, value):
    op = raw(native, name)
    good = CASES[name]()
    for position, index, tensor in tensors(good):
        if tensor.dtype == torch.int64:
            bad = tensor.clone()
            bad.view(-1)[-1] = value
            with pytest.raises(RuntimeError, match="out of range"):
                op(*replaced(good, position, index, bad))


@pytest.mark.parametrize(("name", "change"), [
    ("balanced_kl_fwd", lambda p, q, nats: (p, q.bfloat16(), nats)),
    ("balanced_kl_fwd", lambda p, q, nats: (p.half(), q.half(), nats)),
    ("balanced_kl_fwd", lambda p, q, nats: (p[0, 0], q[0, 0], nats)),
    ("balanced_kl_fwd", lambda p, q, nats: (p.repeat(1, 1, 171), q.repeat(1, 1, 171), nats)),
    ("conv_down", lambda x, kernel: (x[..., :0], kernel)), ("conv_down", lambda x, kernel: (x, kernel[:, :0])),
    ("conv_down", lambda x, kernel: (x[:, :3], kernel)), ("conv_down", lambda x, kernel: (x[0], kernel)),
    ("conv_down", lambda x, kernel: (x, kernel[:, :, :3])),
    ("conv_up", lambda y, kernel: (y[..., :0], kernel)), ("conv_up", lambda y, kernel: (y, kernel[:, :0])),
    ("conv_up", lambda y, kernel: (y[0, 0], kernel)), ("conv_up", lambda y, kernel: (y, kernel[:, :, 0, 0])),
    ("conv_kernel", lambda x, y: (x[..., :0], y)), ("conv_kernel", lambda x, y: (x, y[..., :0])),
    ("conv_kernel", lambda x, y: (x, y[:, :, :1])), ("conv_kernel", lambda x, y: (x, y[0, 0, 0])),
    ("gru_gates_fwd", lambda x, deter, scale, bias: (x, deter.bfloat16(), scale, bias)),
    ("gru_gates_fwd", lambda x, deter, scale, bias: (x[0, 0], deter[0, 0], scale, bias)),
    ("gru_gates_fwd", lambda x, deter, scale, bias: (x[:, :-1], deter, scale[:-1], bias[:-1])),
    *((name, change) for name in ("sample_index", "sample_latent_fwd") for change in (
        lambda logp, u: (logp[..., :0], u), lambda logp, u: (logp.repeat(1, 1, 342), u)))])
def test_tensors_that_fit_no_kernel_are_refused(ops, native, name, change):
    """Several spoiled at once, or what no entry of SHAPES and TYPES is."""
    op = raw(native, name)
    with pytest.raises(RuntimeError, match=f"{name}{SENTENCE.pattern}"):
        op(*(x.contiguous() if isinstance(x, torch.Tensor) else x for x in change(*CASES[name]())))


@pytest.mark.parametrize("value", [-1, 4, 1 << 40, (1 << 63) - 1])
def test_actions_and_rows_outside_give_nan(ops, value):
    logit, action, advantage, weight, entropy = CASES["actor_loss_fwd"]()
    action[1] = value
    _, logp, _ = ops.actor_loss_fwd(logit, action, advantage, weight, entropy)
    assert logp.isnan().tolist() == [False, True, False]
    ring, index = CASES["replay_gather"]()
    index[1] = value
    assert ops.replay_gather(ring, index).isnan().all(1).tolist() == [False, True, False]


@pytest.mark.parametrize(("name", "argument", "value"), [
    ("imagine", "classes", 0), ("imagine", "classes", -3), ("imagine", "classes", 4), ("imagine", "actor", []),
    ("imagine", "params", []), ("state_mm_fwd", "classes", 0), ("state_mm_fwd", "classes", 4),
    ("state_mm_bwd", "classes", 4), ("observe_scan_fwd", "classes", 0), ("observe_scan_fwd", "classes", 4),
    ("observe_scan_fwd", "params", []), ("observe_scan_fwd", "mix", 1.0), ("harmony_fwd", "losses", []),
    ("harmony_fwd", "place", [2, -1, 1]), ("harmony_fwd", "place", [0, -2, 1]), ("harmony_fwd", "place", [0, 1]),
    ("harmony_fwd", "share", [1.0, 1.0]), ("harmony_fwd", "reg", [1.0] * 17), ("harmony_bwd", "place", []),
    ("harmony_bwd", "size", 0),
    ("return_range", "low_percentile", -1.0), ("return_range", "high_percentile", 101.0),
    ("return_range", "high_percentile", float("nan"))])
def test_numbers_outside_are_refused(ops, native, name, argument, value):
    op = raw(native, name)
    arguments = list(CASES[name]())
    arguments[[a.name for a in op._schema.arguments].index(argument)] = value
    with pytest.raises(RuntimeError, match=f"{name}: "):
        op(*arguments)


@pytest.mark.parametrize("classes", [1 << 62, 1 << 61, (1 << 63) - 1, 15, 0, -1])
@pytest.mark.parametrize("name", ["state_mm_fwd", "state_mm_bf16_fwd", "state_mm_bwd", "state_mm_bf16_bwd"])
def test_products_beyond_64_bits_are_refused(ops, native, name, classes):
    """Four groups of 2^62 classes are 2^64 rows, which wrap to none: a kernel without rows for them would seem to fit,
    and the index would be read as a place in foreign memory."""
    op = raw(native, name)
    deter, index, kernel = torch.zeros(3, 8), torch.full((3, 4), 1 << 20), torch.zeros(8, 7)
    arguments = {"deter": deter, "stoch": None, "index": index, "kernel": kernel, "classes": classes, "half": False,
                 "dy": torch.zeros(3, 7), "need_deter": True, "need_stoch": True, "need_kernel": True}
    with pytest.raises(RuntimeError, match=r"must .*, got "):
        op(*(arguments[a.name] for a in op._schema.arguments))


@pytest.mark.parametrize("name", CASES)
def test_empty_tensors_of_enormous_sizes_are_refused(ops, native, name):
    """An empty tensor may have any other sizes, and three times 6e18 wraps to 2."""
    op = raw(native, name)
    good = CASES[name]()
    for position, index, tensor in tensors(good):
        for size in ((1 << 40) + 1, 6148914691236517206):
            bad = tensor.new_empty((0,) * max(1, tensor.dim() - 1) + (size,))
            where = f"{name}.{op._schema.arguments[position].name}" + ("" if index is None else f"[{index}]")
            if where not in UNREAD:
                with pytest.raises((RuntimeError, ValueError)):
                    op(*replaced(good, position, index, bad))


@pytest.mark.parametrize("name", CASES)
def test_opcheck(ops, native, name):
    """The schema, shapes for tracing, and derivatives. A backward op is traced together with its forward op."""
    op, arguments = raw(native, name), CASES[name]()
    for _, _, tensor in tensors(arguments):
        tensor.requires_grad_(tensor.is_floating_point() and not name.endswith(WITHOUT_DERIVATIVE))
    utils = ("test_schema", "test_faketensor") if name.endswith("_bwd") else "ALL"
    torch.library.opcheck(op, arguments, test_utils=utils)
