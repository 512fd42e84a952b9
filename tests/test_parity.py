"""hdfast against the official HarmonyDream code, number for number.

With HDFAST_GOLDEN_DIR set, every .npz in that directory is walked: each figure in it is computed by us and compared,
and one that we do not compute fails the test. Without the variable the committed digest of official figures is used
instead (tests/golden/official_digest.json).
"""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import golden_digest
from as_cuda import as_cuda
from golden_case import Runner, load_case
from golden_unit import unit_figures
from hdfast import ops
from hdfast.ops import library

GOLDEN = os.environ.get("HDFAST_GOLDEN_DIR")
FILES = sorted(Path(GOLDEN).glob("*.npz")) if GOLDEN else []
LEARNING_RATE = {"agent/wm/": 1e-4, "agent/task_behavior/": 3e-5}

# Largest allowed |ours - official| / max|official| of a tensor; the first matching part of a name decides. Where they
# come from stands in docs/parity.md: forward and losses 1e-5, values and returns 5e-5, gradients 2e-4; sixteen entries
# have no tensor maximum to be measured by, and figures of updates 2 and 3 carry Adam's rounding of the ones before.
RELATIVE = (
    ("upd2/", 2e-4), ("upd3/", 2e-4), ("grad_entries", 5e-4), ("grad_norm", 5e-5), ("gradnorm", 5e-5), ("grad", 2e-4),
    ("reward_mean", 5e-5), ("reward_max_pred", 5e-5),
    ("imag/deter", 1e-5), ("imag/logit", 1e-5), ("imag/", 5e-5), ("ac/", 5e-5), ("actor/", 5e-5), ("critic/", 5e-5),
    ("upd", 5e-5), ("", 1e-5))
EXACT = ("in/", "u/", "param/", "is_first", "index", "policy0/action", "policy1/action", "grad_steps", "stoch_index")


def tolerance(key: str, want: np.ndarray, official: dict) -> float:
    """Largest absolute difference allowed for a figure.

    Means and extremes of signed values are measured against the largest magnitude that went into them (`_mag`; for the
    actor loss, a mean of advantages, their spread): what cancels in a mean has no digits left to compare.
    """
    if key.startswith("margin/"):
        return float(1e-4 + 1e-5 * np.abs(want).max())  # a distance of logits or probabilities from a threshold
    relative = next(value for part, value in RELATIVE if part in key)
    scale = np.abs(want).max()
    for end in ("_mean", "_min", "_max", "_std"):
        if key.endswith(end) and (mag := key.removesuffix(end) + "_mag") in official:
            scale = max(scale, np.abs(official[mag]))
    if key.endswith("reward_pred"):
        scale = max(scale, official[key.replace("reward_pred", "reward_max_pred")])
    if key.endswith("actor_opt_loss") or key == "actor/loss":
        phase = "ac/metric/" if key == "actor/loss" else key.removesuffix("actor_opt_loss")
        scale = max(scale, np.abs(official[f"{phase}adv_mean"]) + official[f"{phase}adv_std"])
    return float(relative * scale)


def check_params(key: str, got: np.ndarray, want: np.ndarray, official: dict) -> str | None:
    """Parameters after update k: 1e-5 for 99.9 % of the entries, 2 lr k for all (Adam amplifies the rounding of
    gradients that are almost zero); for the change since the start its norm and four projections."""
    update = int(key[3])
    name = key[key.index("agent/"):]
    rate = next(value for prefix, value in LEARNING_RATE.items() if name.startswith(prefix))
    error = np.abs(got - want)
    if "param_delta" in key:
        length = float(official[f"upd{update}/param_delta_norm/{name}"])
        limit = 1e-2 * length
        return None if error.max() <= limit else f"{key}: differs by {error.max():.3g}, allowed {limit:.3g}"
    few = (error > 1e-5).mean()
    if error.max() > 2 * rate * update or few > 1e-3 and (error > 1e-5).sum() > 1:
        return f"{key}: worst {error.max():.3g} (allowed {2 * rate * update:.3g}), {100 * few:.3f} % over 1e-5"
    return None


def compare(got: dict, official: dict) -> list[str]:
    """One sentence per figure that is missing or differs."""
    problems = []
    for key, want in official.items():
        if key not in got:
            problems.append(f"{key}: not computed here")
            continue
        ours, want = np.asarray(got[key]), np.asarray(want)
        if ours.shape != want.shape:
            problems.append(f"{key}: shape {ours.shape}, official {want.shape}")
        elif key.startswith("upd") and "/param" in key:
            problem = check_params(key, ours.astype(np.float64), want.astype(np.float64), official)
            problems += [problem] if problem else []
        elif key.startswith(EXACT) or any(part in key for part in EXACT[3:]):
            if not np.array_equal(ours, want):
                problems.append(f"{key}: not equal, {np.mean(ours != want):.1%} of the entries differ")
        else:
            error, limit = np.abs(ours.astype(np.float64) - want).max(initial=0), tolerance(key, want, official)
            if not error <= limit:
                problems.append(f"{key}: differs by {error:.3g}, allowed {limit:.3g}")
    return problems


def show(problems: list[str]) -> str:
    return "\n".join([f"{len(problems)} figures differ from the official code:", *problems[:40]])


@pytest.fixture(params=["reference", "native", "steps"])
def backend(request):
    """Each implementation of the ops in turn; steps: native, with the sequence ops as they run on CUDA."""
    if request.param != "reference" and (reason := library.problem()):
        pytest.skip(f"the native library is not there: {reason}")
    steps = request.param == "steps"
    with ops.use("native" if steps else request.param), as_cuda() if steps else contextlib.nullcontext():
        yield request.param


WITHOUT = pytest.param(None, id="none", marks=pytest.mark.skip(
    reason="HDFAST_GOLDEN_DIR is not set: parity is checked on the committed digest of official figures only"))


@pytest.mark.parametrize("path", FILES if GOLDEN else [WITHOUT], ids=lambda path: path.stem)
def test_official_figures(path: Path, backend: str):
    """Every figure of a golden file: unit vectors, or forward, losses, gradients, imagination, updates, acting."""
    if path.with_name(f"{path.stem}.params.json").exists():
        case, official = load_case(path)
        got = Runner(case).all()
    else:
        with np.load(path) as data:
            official = {key: data[key] for key in data.files}
        got = unit_figures(official)
    problems = compare(got, official)
    assert not problems, show(problems)


@pytest.mark.parametrize("name", golden_digest.names())
def test_official_digest(name: str, backend: str):
    """The committed digest: a few hundred official figures of each case."""
    case, official = golden_digest.load(name)
    problems = compare(golden_digest.reduce(Runner(case).all(), official), official)
    assert not problems, show(problems)


def test_golden_directory_has_files():
    """A directory that was asked for but holds nothing is a mistake, not a pass."""
    assert FILES or GOLDEN is None, f"HDFAST_GOLDEN_DIR={GOLDEN} has no .npz file; point it at official figures"


def test_comparison_can_fail():
    """A figure off by more than its tolerance, a missing one and a flipped sample are all reported."""
    official = {"wm/loss": np.float32(100.0), "wm/kl": np.ones(3), "upd1/post_index": np.arange(4)}
    got = {"wm/loss": np.float32(100.01), "upd1/post_index": np.array([0, 1, 2, 2])}
    assert len(compare(got, official)) == 3
    assert compare(official, official) == []


def test_two_ways_to_a_parameter_are_one_bit_for_bit_or_on_cuda_nearly():
    runner, before, after = object.__new__(Runner), np.zeros(3), np.array([1.0, -2.0, 3.0])
    near, far = after * (1 + 1e-6), after * 1.1
    runner.device = torch.device("cpu")
    assert runner.same(after, after, before) and not runner.same(near, after, before)
    runner.device = torch.device("cuda")
    assert runner.same(near, after, before) and not runner.same(far, after, before)
