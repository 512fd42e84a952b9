"""Out of memory in an op or the gather: an error with a message, never a dead process, and the next call works."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from raw_cases import CASES

from hdfast.ops import library

HERE = Path(__file__).parent


LIMITS = pytest.mark.skipif(sys.platform != "linux" or "libasan" in os.environ.get("LD_PRELOAD", ""),
                            reason="limits of address space are Linux's, and ASan reserves terabytes")


def run(code: list[str], **environment: str) -> str:
    """Standard output of a Python process of its own."""
    paths = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    done = subprocess.run([sys.executable, *code], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": paths} | environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(autouse=True)
def native_library():
    if reason := library.problem():
        pytest.skip(f"the native library is not there: {reason}")


@pytest.fixture(scope="module")
def failing(tmp_path_factory) -> str:
    """A library to preload, whose operator new fails when it is told to."""
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("ASan brings an operator new of its own")
    if shutil.which("g++") is None:
        pytest.skip("needs g++ for an operator new that fails")
    path = tmp_path_factory.mktemp("failing") / "failing_new.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-O1", "-o", path, HERE / "failing_new.cpp"], check=True)
    return str(path)


def test_every_allocation_of_every_op_may_fail(failing):
    failures = json.loads(run([str(HERE / "out_of_memory.py")], LD_PRELOAD=failing, HD_FAILING="_ops.abi3.so",
                              OMP_NUM_THREADS="2"))
    assert failures.keys() == CASES.keys() and min(failures.values()) > 0
    assert failures["observe_scan_bwd"] > 100


GATHER = """
import ctypes, numpy
from hdfast.replay.host import gather, library
library()
fail_after = ctypes.CDLL(None).hd_fail_after
fail_after.argtypes, fail_after.restype = [ctypes.c_long], ctypes.c_long
ring, index = numpy.random.default_rng(0).integers(0, 255, (5, 1 << 20), numpy.uint8), numpy.arange(16) % 5
for n in range(1000):
    out = numpy.zeros((16, 1 << 20), numpy.uint8)
    fail_after(n)
    gather(ring, index, out, threads=4)
    over = fail_after(-1) >= 0
    assert (out == ring[index]).all()
    if over:
        break
print(n)
"""


def test_every_allocation_of_the_gather_may_fail(failing):
    """It starts fewer threads then, and copies all the same."""
    assert int(run(["-c", GATHER], LD_PRELOAD=failing, HD_FAILING="_host.")) > 3


THREADS = """
import numpy, resource
from hdfast.replay.host import gather, library
library()
ring, index, out = numpy.ones((5, 1 << 20), numpy.uint8), numpy.arange(16) % 5, numpy.zeros((16, 1 << 20), numpy.uint8)
resource.setrlimit(resource.RLIMIT_AS, (1 << 20, resource.RLIM_INFINITY))
gather(ring, index, out, threads=8)
assert out.all()
"""


@LIMITS
def test_a_gather_needs_no_other_thread():
    """Where no thread can be started, for want of memory for its stack say, this one copies all."""
    run(["-c", THREADS])


LIMITED = """
import resource, sys, torch
from hdfast.ops import library
torch.set_num_threads(1)
assert library.problem() is None
ops, x = torch.ops.hdfast, torch.zeros(10_000_000)
ops.symlog_fwd(x[:10])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, resource.RLIM_INFINITY))
try:
    ops.symlog_fwd(x)
except RuntimeError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert ops.symlog_fwd(x).shape == x.shape
"""

REPLAY = """
import resource, torch
from hdfast.errors import RunError
from hdfast.replay.sequences import Replay
from hdfast.spaces import Discrete, ObsSpace
spaces = ObsSpace.single((64, 64, 3), "uint8"), Discrete(4)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY))
try:
    Replay(100_000, 1, *spaces, directory=None, seed=0)
except RunError as error:
    print(error)
assert len(Replay(1000, 1, *spaces, directory=None, seed=0)) == 0
"""


@LIMITS
@pytest.mark.parametrize("code, said", [(LIMITED, "symlog_fwd: out of memory: asked for 40000000 bytes on cpu"),
                                        (REPLAY, "Lower --replay.capacity")], ids=["op", "replay"])
def test_an_address_space_that_is_full(code, said):
    assert said in run(["-c", code], OMP_NUM_THREADS="1")


KEPT = """
import torch
from pathlib import Path
from hdfast import ops
from hdfast.machine import keep_memory
keep_memory()
torch.set_num_threads(1)

def resident():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024

x, scale, bias, small = torch.randn(65_536, 32), torch.ones(32), torch.zeros(32), []
for i in range(40):
    y = ops.norm_act(x, scale, bias)  # 8 MiB
    assert y.data_ptr() % 64 == 0
    small += [torch.empty(n) for n in (2, 8, 12, 18, 24, 32) for _ in range(4)]
    del y
    first = first if i else resident()
print(resident() - first)
"""


@LIMITS
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is kept is glibc's")
def test_large_results_find_the_memory_of_those_before():
    """Small objects must not settle at the ends of freed blocks: these 40 results took 300 MiB once."""
    assert float(run(["-c", KEPT])) < 80
