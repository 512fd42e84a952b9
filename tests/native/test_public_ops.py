"""Every public op with native code by the same rules, over every library; what only one family has is in its file."""

import pytest
import torch
from op_cases import ABSOLUTE, CASES, FLOAT32, SAMPLES, STORED, VARIANTS, compare, on_device, op_of, results  # noqa: F401
from raw_cases import SHAPES, TYPES

from hdfast import ops
from hdfast.ops import library

EVERYTHING = CASES | VARIANTS
EVERY = pytest.mark.parametrize("name", CASES)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
WAYS = {"every second": lambda t: torch.stack([t, t], -1)[..., 0], "expanded": lambda t: t[:1].expand_as(t),
        "turned": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1)}


def test_every_public_op_with_native_code_is_here():
    native = {name for family in library.families_here() for name in family.PUBLIC}
    apart = {"adam_step", "conv", "deconv", "imagine", "imagine_states", "observe_scan"}  # have tests of their own
    assert native == set(CASES) | apart


def check(name, tensors, dtype, **rule):
    """In bfloat16 are the activations: what has the first tensor's shape."""
    op = name.split()[0]
    if tensors[0].is_floating_point():
        tensors = [x.to(dtype) if x.shape == tensors[0].shape else x for x in tensors]
    if op in FLOAT32 and dtype is torch.bfloat16:
        with pytest.raises(TypeError, match=f"{op}: .* must be float32, got bfloat16; convert it"):
            op_of(name)(*tensors)
        return
    out, *_ = compare(op_of(name), *tensors, samples=SAMPLES.get(op, 0), **rule)
    assert out.dtype is {"sample_index": torch.int64}.get(op, dtype if op in STORED else torch.float32)


@DTYPES
@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name, case in EVERYTHING.items()
                                             for shape in case.shapes], ids=str)
def test_values_and_gradients(native, name, shape, dtype):
    check(name, EVERYTHING[name].make(*shape), dtype, least=float(name.split()[0] in ABSOLUTE))


@DTYPES
@pytest.mark.parametrize("sizes", [(1, 5), (37, 33), (1031, 257)], ids=str)  # none a multiple of a warp
@EVERY
def test_sizes_that_fill_a_gpu_unevenly(native, name, sizes, dtype):
    if native.schedule:
        pytest.skip("the emulator would take minutes")
    case = CASES[name]
    check(name, case.make(*case.large(*sizes)), dtype, floor=2e-6, least=1.0)


@pytest.mark.parametrize("name", [name for name in CASES if name != "sample_latent"])  # whose one-hot rows are finite
def test_a_nan_shows_where_the_definition_has_it(native, name):
    """In its row and in no other."""
    case = CASES[name]
    tensors = case.make(*case.shapes[0])
    for i, x in enumerate(tensors):
        if x.is_floating_point():
            spoiled = x.clone()
            spoiled.view(-1)[x.numel() // 2] = torch.nan
            given = [*tensors[:i], spoiled, *tensors[i + 1:]]
            got = op_of(name)(*given)
            with ops.use("reference"):
                torch.testing.assert_close(got, op_of(name)(*given), rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("way", WAYS)
@EVERY
def test_strided_tensors(native, name, way):
    """Views give what their copies give, gradients of views included."""
    def view(x):
        return WAYS[way](x) if x.dim() and x.dtype is not torch.uint8 else x  # a ring must be contiguous

    case = CASES[name]
    views = [view(x) for x in case.make(*case.shapes[0])]
    got = results(op_of(name), views, weigh=view)
    want = results(op_of(name), [x.contiguous() for x in views], weigh=lambda weight: view(weight).contiguous())
    torch.testing.assert_close(got, want, rtol=0, atol=0)


@EVERY
def test_repeats_are_bit_equal_whatever_the_number_of_threads(native, name):
    case = CASES[name]
    tensors = case.make(*case.large(70 if native.schedule else 4000, 40))
    runs = [results(op_of(name), tensors) for _ in range(2)]
    torch.set_num_threads(2)
    for other in (runs[1], results(op_of(name), tensors)):
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


LOGIT, PAIR = ("sample_index", "sample_latent", "unimix"), ("balanced_kl", "kl_divergence")
SPOILS = TYPES | SHAPES | {"no columns": lambda t: t[..., :0],
                           "many columns": lambda t: t[..., :1].expand(*t.shape[:-1], 1032)}
META = "must be on .* got meta; move it there"
# Op, number of the tensor that is spoiled, how, and what is said of it.
REFUSED = [
    ("actor_loss", 1, "another type", TypeError, "action must be int64"),
    ("actor_loss", 3, "shorter", ValueError, "weight must have shape"),
    ("gru_gates", 0, "another type", TypeError, "x must be float32 or bfloat16, got float64; .*use.'reference'"),
    ("gru_gates", 1, "half", TypeError, "deter must be float32 or bfloat16, got float16; convert"),
    ("gru_gates", 0, "narrower", ValueError, r"x must have shape \(..., 3D\), got \(3, 23\); its last"),
    ("gru_gates", 1, "shorter", ValueError, r"deter must have shape \(3, 8\) = .*got \(2, 8\); reshape"),
    ("gru_gates", 2, "shorter", ValueError, r"scale must have shape \(24,\) = .*got \(23,\); reshape"),
    ("gru_gates", 3, "deeper", ValueError, r"bias must have shape \(24,\) = .*got \(1, 24\); reshape"),
    ("gru_gates", 1, "no data", ValueError, f"deter {META}"),
    ("gru_gates", 0, "a number", ValueError, r"x must have shape \(..., 3D\), got \(\); its last axis"),
    ("image_loss", 1, "wider", ValueError, "image must have shape"),
    ("lambda_return", 1, "shorter", ValueError, "value must have shape"),
    ("lambda_return", 0, "empty", ValueError, "reward must have shape .* H at least 1"),
    ("normal_log_prob", 0, "a number", ValueError, r"mean must have shape \(..., A\), got \(\); the actions are"),
    ("normal_log_prob", 2, "shorter", ValueError, "action must have shape"),
    ("normal_policy", 0, "half", TypeError, "mean_raw must be float32 or bfloat16, got float16"),
    ("normal_policy", 1, "shorter", ValueError, "std_raw must have shape"),
    ("norm_act", 0, "half", TypeError, "x must be float32 or bfloat16, got float16; .*use.'reference'"),
    ("norm_act", 1, "shorter", ValueError, r"scale must have shape \(8,\) = .*got \(7,\); reshape"),
    ("norm_act", 2, "deeper", ValueError, r"bias must have shape \(8,\) = .*got \(1, 8\); reshape"),
    ("norm_act", 1, "no data", ValueError, f"scale {META}"),
    ("norm_act", 0, "a number", ValueError, r"x must have shape .*got a tensor without axes; add one"),
    ("replay_gather", 0, "strided", ValueError, "ring must be contiguous"),
    ("return_range", 0, "empty", ValueError, "ret must not be empty"),
    ("return_range", 1, "another type", TypeError, "low must be float32"),
    ("return_weight", 0, "another type", TypeError, "cont must be float32"),
    ("twohot_loss", 0, "another type", TypeError, "logit must be float32 or bfloat16"),
    ("twohot_loss", 1, "shorter", ValueError, "x must have shape"),
    ("vector_loss", 0, "another type", TypeError, "recon must be float32 or bfloat16"),
    ("vector_loss", 1, "wider", ValueError, "vector must have shape"),
    *((op, 0, *row) for op in LOGIT for row in (
        ("another type", TypeError, "logit must be float32 or bfloat16, got float64; .*use.'reference'"),
        ("a number", ValueError, r"logit must have shape \(..., K\) .*got \(\); the classes are"),
        ("no columns", ValueError, r"logit must have shape \(..., K\) .*got \(3, 0\); the classes are"),
        ("many columns", ValueError, "logit must have at most 1024 classes, got 1032; take fewer"))),
    *((op, 1, *row) for op in LOGIT[:2] for row in (
        ("half", TypeError, "u must be float32, got float16; convert it"),
        ("shorter", ValueError, r"u must have shape \(3,\) = .*got \(2,\); reshape"),
        ("no data", ValueError, f"u {META}"))),
    *((op, *row) for op in PAIR for row in (
        (0, "another type", TypeError, "p(ost)? must be float32 or bfloat16, got float64; .*use.'reference'"),
        (0, "flat", ValueError, r"p(ost)? must have shape \(..., S, K\), got \(96,\); the last axes"),
        (0, "many columns", ValueError, "p(ost)? must have at most 512 classes, got 1032; take fewer"),
        (1, "half", TypeError, "(prior|q) must be float32 or bfloat16, got float16; convert it"),
        (1, "shorter", ValueError, r"(prior|q) must have shape \(3, 4, 8\) = .*got \(2, 4, 8\); reshape"),
        (1, "no data", ValueError, f"(prior|q) {META}"))),
]


@pytest.mark.parametrize(("name", "place", "change", "error", "message"), REFUSED)
def test_bad_input_is_explained(native, name, place, change, error, message):
    """By the native function itself: the public op takes its definition for float64."""
    family = next(family for family in library.families_here() if name in family.PUBLIC)
    tensors = list(CASES[name].make(*CASES[name].shapes[0]))
    tensors[place] = SPOILS[change](tensors[place])
    with pytest.raises(error, match=f"{name}: {message}"):
        op_of(name, family)(*tensors)
