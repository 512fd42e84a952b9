"""The native libraries that the suite runs over.

`native` takes in turn: the shipped library on the CPU; the emulated one (the CUDA sources, compiled for the CPU) under
each schedule; the shipped library on CUDA where there is a device. The emulated library is built here once, by CMake
into build/emu, unless HDFAST_LIBRARY_DIR names a folder that has it.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from hdfast import ops
from hdfast.ops import library
from hdfast.ops.observe_scan import stepwise

ROOT = Path(__file__).resolve().parents[2]
SCHEDULES = (("fwd", "rr"), ("rev", "rr"), ("rand", "greedy"))


@dataclass(frozen=True)
class Native:
    """One way to run the native ops: a namespace, a device, and a schedule of the emulator."""

    namespace: str
    device: str = "cpu"
    schedule: tuple[str, str] | None = None

    @property
    def ops(self):
        return getattr(torch.ops, self.namespace)

    def holds(self, family: str) -> bool:
        return any(module.__name__.rpartition(".")[2] == family for module in library.families(self.namespace))


PARAMS = [
    pytest.param(Native("hdfast"), id="cpu"),
    *(pytest.param(Native("hdfast_emu", schedule=s), id=f"emu-{'-'.join(s)}") for s in SCHEDULES),
    pytest.param(Native("hdfast", "cuda"), id="cuda", marks=pytest.mark.gpu),
]
SEQUENCES = {"call": Native("hdfast"), "steps": Native("hdfast"),
             **{f"steps-emu-{'-'.join(s)}": Native("hdfast_emu", schedule=s) for s in SCHEDULES}}


def build_emulated() -> str | None:
    """Build the emulated library into build/emu; the reason where that is impossible."""
    if os.environ.get("HDFAST_LIBRARY_DIR") and library.path("hdfast_emu").exists():
        return None
    if missing := [tool for tool in ("cmake", "ninja", "g++") if shutil.which(tool) is None]:
        return f"the emulated library needs {', '.join(missing)}"
    folder = ROOT / "build" / "emu"
    folder.mkdir(parents=True, exist_ok=True)
    torch_folder = Path(torch.__file__).parent
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes build it once
        for command in (["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DHDFAST_CUDA=0", "-DHDFAST_BUILD_EMU=ON",
                         f"-DHDFAST_TORCH_DIR={torch_folder}", f"-DHDFAST_PYTHON={sys.executable}",
                         f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}"],
                        ["cmake", "--build", folder, "--target", "_emu", "-j", "2"]):
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
            if done.returncode:
                pytest.fail(f"the emulated library does not build:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    library.FILES["hdfast_emu"] = str(folder / "_emu.abi3.so")  # an absolute name wins over any folder
    return None


@pytest.fixture(scope="session")
def emulated_library() -> str | None:
    return build_emulated()


@contextlib.contextmanager
def in_force(which: Native, request, monkeypatch):
    """A library in force; skips where it cannot be."""
    if which.device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if which.namespace == "hdfast_emu":
        if reason := request.getfixturevalue("emulated_library"):
            pytest.skip(reason)
        monkeypatch.setenv("HD_EMU_ORDER", which.schedule[0])
        monkeypatch.setenv("HD_EMU_POLICY", which.schedule[1])
    if reason := library.problem(which.namespace):
        pytest.skip(f"the native library is not there: {reason}")
    if which.device == "cuda" and not library.runs_on(torch.device("cuda")):
        pytest.skip("the native library was built without CUDA kernels")
    with ops.use("native"), library.namespace(which.namespace), one_thread():
        yield which


@pytest.fixture(params=PARAMS)
def native(request, monkeypatch):
    """Runs the test with each library in force; `native.device` is where its tensors live."""
    with in_force(request.param, request, monkeypatch):
        yield request.param


@pytest.fixture(params=[*SEQUENCES, pytest.param("cuda", marks=pytest.mark.gpu)])
def sequences(request, monkeypatch):
    """The sequence ops as one C++ call, and as steps over each library in force."""
    which = SEQUENCES.get(request.param, Native("hdfast", "cuda"))
    steps = contextlib.nullcontext() if request.param == "call" else stepwise()
    with in_force(which, request, monkeypatch), steps:
        yield which


@contextlib.contextmanager
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def one_thread_of_native_code():
    """The native library as the backend, in one thread, for tests of what only the CPU has."""
    if reason := library.problem():
        pytest.skip(f"the native library is not there: {reason}")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with ops.use("native"):
        yield
    torch.set_num_threads(before)
