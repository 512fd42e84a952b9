"""Out of memory in a native op: an error with a message, never a dead process, and the next call works."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from raw_cases import CASES

from hdfast.ops import library

HERE = Path(__file__).parent


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


@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="ASan brings an operator new of its own")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ for an operator new that fails")
def test_every_allocation_of_every_op_may_fail(tmp_path):
    failing = tmp_path / "failing_new.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-O1", "-o", failing, HERE / "failing_new.cpp"], check=True)
    failures = json.loads(run([str(HERE / "out_of_memory.py")], LD_PRELOAD=str(failing), OMP_NUM_THREADS="2"))
    assert failures.keys() == CASES.keys() and min(failures.values()) > 0
    assert failures["observe_scan_bwd"] > 100


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
from hdfast.replay import Replay
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY))
try:
    Replay(100_000, 1, (64, 64, 3), "uint8", directory=None, seed=0)
except RunError as error:
    print(error)
assert len(Replay(1000, 1, (64, 64, 3), "uint8", directory=None, seed=0)) == 0
"""


@pytest.mark.skipif(sys.platform != "linux" or "libasan" in os.environ.get("LD_PRELOAD", ""),
                    reason="limits of address space are Linux's, and ASan reserves terabytes")
@pytest.mark.parametrize("code, said", [(LIMITED, "out of memory: an op asked for a tensor of 10000000 elements"),
                                        (REPLAY, "Lower --replay.capacity")], ids=["op", "replay"])
def test_an_address_space_that_is_full(code, said):
    assert said in run(["-c", code], OMP_NUM_THREADS="1")
