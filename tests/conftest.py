"""What holds for every test: one thread, fixed seeds, a time limit; no GPU tests without a GPU; emulated kernels.

Markers and --strict-markers are in pyproject.toml.
"""

import faulthandler
import os
import random

# Before torch is imported, and for the programs that tests start: two workers on two cores must not fight for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
import torch

import emulated
from as_cuda import as_cuda
from hdfast import ops
from hdfast.ops import library

STDERR = pytest.StashKey[int]()
LONGEST = 1200  # seconds; a test that takes longer hangs, also the first one, which may build the emulated library


def pytest_configure(config):
    torch.set_num_threads(1)
    config.stash[STDERR] = os.dup(2)  # while tests run, 2 is a file


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """A test that hangs shows where, and ends its process: xdist replaces the worker, and the others continue."""
    faulthandler.dump_traceback_later(LONGEST, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Every test starts from the same global random state, independent of the tests before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def emulated_library() -> str | None:
    """Loads the emulated library; the reason if that is impossible."""
    return emulated.build() or library.problem() or library.problem("hdfast_emu")


@pytest.fixture
def emulated_gpu(emulated_library):
    """As much of a GPU as a CPU can be: emulated kernels, and every choice as on CUDA."""
    if emulated_library:
        pytest.skip(emulated_library)
    with ops.use("native"), library.namespace("hdfast_emu"), as_cuda():
        yield


@pytest.fixture(params=["native", "reference"])
def backend(request):
    """Each implementation of the ops in turn, by name; if a test asks for it, also `emulated`: see emulated_gpu."""
    if request.param == "emulated":
        request.getfixturevalue("emulated_gpu")
        yield request.param
        return
    if request.param == "native" and (reason := library.problem()):
        pytest.skip(f"the native library is not there: {reason}")
    with ops.use(request.param):
        yield request.param
