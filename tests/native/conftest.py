"""The native libraries that the suite runs over.

`native` takes in turn: the shipped library on the CPU; the emulated one (the CUDA sources, compiled for the CPU) under
each schedule; the shipped library on CUDA where there is a device.
"""

import contextlib
from dataclasses import dataclass

import pytest
import torch

from as_cuda import as_cuda
from emulated import SCHEDULES, scheduled
from hdfast import ops
from hdfast.ops import library


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


@contextlib.contextmanager
def in_force(which: Native, request, monkeypatch):
    """A library in force; skips where it cannot be."""
    if which.device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if which.namespace == "hdfast_emu":
        if reason := request.getfixturevalue("emulated_library"):
            pytest.skip(reason)
        scheduled(monkeypatch, which.schedule)
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
    steps = contextlib.nullcontext() if request.param == "call" else as_cuda()
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
