"""hdfast against the official HarmonyDream code, number for number.

With HDFAST_GOLDEN_DIR set, we compute and compare each figure of every .npz in that directory and below; one that we do
not compute fails the test. Without the variable the tests use the committed digest of official figures
(tests/golden/official_digest.json).
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
from parity_case import assert_official, compare

GOLDEN = os.environ.get("HDFAST_GOLDEN_DIR")
FILES = sorted(Path(GOLDEN).rglob("*.npz")) if GOLDEN else []


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
    assert_official(got, official)


@pytest.mark.parametrize("name", golden_digest.names())
def test_official_digest(name: str, backend: str):
    """The committed digest: a few hundred official figures of each case."""
    golden_digest.assert_digest(name)


def test_golden_directory_has_files():
    """A given directory without figures is a mistake, not a pass."""
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
