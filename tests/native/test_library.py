"""The library itself: which backend runs, what is refused, what it links, the register gate, and the host library."""

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hdfast import ops, processor
from hdfast.commands import doctor
from hdfast.errors import ConfigError
from hdfast.ops import library, reference
from hdfast.replay import host as host_library

ROOT = Path(__file__).resolve().parents[2]
BUILT = library.problem() is None
needs_library = pytest.mark.skipif(not BUILT, reason="the native library is not built")


@pytest.fixture
def same_backend_after(monkeypatch):
    before = ops.backend()
    yield
    monkeypatch.undo()  # before the backend is set again: the library must be seen as it is
    ops.set_backend(before)


# ---- choice of the backend

def test_the_reference_can_always_be_chosen():
    with ops.use("reference"):
        assert ops.backend() == "reference"
        x = torch.randn(3, 8, dtype=torch.float64)  # no native op takes float64
        assert ops.norm_act(x, x[0], x[1]).dtype == torch.float64


@needs_library
def test_native_is_the_default_and_comes_back():
    assert ops.backend() == "native"
    x = torch.randn(3, 8, dtype=torch.float64)  # takes the definition: no native op is for float64
    assert ops.norm_act(x, x[0], x[1]).dtype == torch.float64
    with pytest.raises(TypeError), ops.use("native"):
        ops.norm_act(torch.randn(3, 8, dtype=torch.float16), torch.ones(8), torch.ones(8))
    with ops.use("reference"):
        pass
    assert ops.backend() == "native"


@needs_library
def test_native_families_replace_their_ops_and_no_others(same_backend_after):
    native = {name for names in ops.native_families().values() for name in names}
    assert "norm_act" in native
    assert ops.set_backend("native") == "native"
    for name in ops.NAMES:
        assert (ops._implementation[name] is getattr(reference, name)) == (name not in native)


def test_signatures_are_those_of_the_definition():
    import inspect
    for name in ops.NAMES:
        assert inspect.signature(getattr(ops, name)) == inspect.signature(getattr(reference, name))
    for family in library.families_here():
        for name in set(family.PUBLIC) & set(ops.NAMES):
            expected = inspect.signature(getattr(reference, name)).parameters
            got = inspect.signature(getattr(family, name)).parameters
            # Defaults may be spelled differently, names and their order may not.
            assert list(got)[:len(expected)] == list(expected), name


def test_a_launch_that_fails_raises(emulated_library, monkeypatch):
    """In the emulator, whose launches fail on a schedule that there is not; on CUDA the same macro asks the runtime."""
    if emulated_library:
        pytest.skip(emulated_library)
    with library.namespace("hdfast_emu"):
        x = torch.ones(4, 8)
        assert library.op("norm_act_fwd")(x, x[0], x[0])[0].shape == x.shape
        monkeypatch.setenv("HD_EMU_ORDER", "nonsense")
        with pytest.raises(RuntimeError, match="HD_EMU_ORDER is nonsense"):
            library.op("norm_act_fwd")(x, x[0], x[0])


def test_native_that_is_not_built_is_refused(monkeypatch, same_backend_after):
    monkeypatch.setattr(library, "problem", lambda: "/somewhere/_ops.abi3.so was not built")
    with pytest.raises(ConfigError, match=r"native needs .* but /somewhere/.* was not built; .* --backend auto"):
        ops.set_backend("native")
    assert ops.set_backend("auto") == "reference"


@needs_library
def test_a_device_without_code_is_refused(monkeypatch, same_backend_after):
    monkeypatch.setattr(library, "build_info", lambda: {"cuda": ""})
    with pytest.raises(ConfigError, match="built without code for cuda"):
        ops.set_backend("native", "cuda:0")
    assert ops.set_backend("auto", "cuda:0") == "reference"
    assert ops.set_backend("auto", "cpu") == "native"


def test_an_unknown_backend_names_the_known_ones():
    with pytest.raises(ConfigError, match="one of auto, reference, native, got 'nativ', did you mean 'native'"):
        ops.set_backend("nativ")


def test_a_broken_library_is_told(tmp_path):
    (tmp_path / "_ops.abi3.so").write_bytes(b"no library")
    program = "from hdfast import ops; from hdfast.ops import library; print(ops.backend(), library.problem())"
    done = subprocess.run([sys.executable, "-c", program], env={"HDFAST_LIBRARY_DIR": str(tmp_path)}, cwd=ROOT,
                          capture_output=True, text=True, check=True)
    assert done.stdout.startswith("reference ") and "does not load" in done.stdout


# ---- HDFAST_CPU_ARCH

def limited(program: str, **variables: str) -> subprocess.CompletedProcess:
    """A program in a process of its own, with only these variables beside the search paths and sanitizers."""
    kept = "PATH", "HDFAST_LIBRARY_DIR", "LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS"  # the last three: tests/sanitize
    env = {name: os.environ[name] for name in kept if name in os.environ}
    return subprocess.run([sys.executable, "-c", program], env=env | variables, cwd=ROOT, capture_output=True,
                          text=True)


OPS_OF_LEVEL = """
from hdfast import ops
from hdfast.ops import library
import torch
torch.manual_seed(0)
x = torch.randn(70, 40)
results = [ops.norm_act(x, x[0], x[1]), ops.symlog(x), ops.symexp(x), *ops.unimix(x.view(70, 5, 8), 0.01)[:1]]
print(library.vector_width(), torch.backends.cpu.get_cpu_capability(), [y.double().abs().sum().item() for y in results],
      [y.double().square().sum().item() for y in results], sep=";")
"""


@needs_library
@pytest.mark.skipif(platform.machine() != "x86_64", reason="levels are those of x86-64")
@pytest.mark.parametrize("level", processor.LEVELS)
def test_a_level_limits_kernels_and_torch_and_gives_the_same(level):
    width = processor.LEVELS[level]
    if width > library.vector_width():
        pytest.skip(f"this processor has vectors of {library.vector_width()} floats")
    done, free = limited(OPS_OF_LEVEL, HDFAST_CPU_ARCH=level), limited(OPS_OF_LEVEL)
    assert done.returncode == free.returncode == 0, done.stderr + free.stderr
    (got, capability, *values), (best, _, *wanted) = done.stdout.split(";"), free.stdout.split(";")
    assert int(got) == width and int(best) == library.vector_width()
    assert capability == {4: "DEFAULT", 8: "AVX2"}.get(width, capability)
    for some, others in zip(values, wanted, strict=True):
        assert json.loads(some) == pytest.approx(json.loads(others), rel=1e-5)


@needs_library
def test_a_level_that_there_is_not_is_refused():
    done = limited("import hdfast.ops", HDFAST_CPU_ARCH="avx2")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].endswith(
        "ConfigError: HDFAST_CPU_ARCH must be one of x86-64, x86-64-v3, x86-64-v4, got 'avx2'; unset it for all that "
        "the processor has")
    done = limited("from hdfast.cli import main; raise SystemExit(main(['doctor']))", HDFAST_CPU_ARCH="x86-64-v33")
    assert done.returncode == 2 and "did you mean 'x86-64-v3'" in done.stderr and done.stderr.count("\n") == 1
    assert limited("import hdfast.ops", HDFAST_CPU_ARCH="").returncode == 0


def test_kinds_of_processors(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert [processor.kind(width) for width in (4, 8, 16)] == ["x86-64", "x86-64-v3", "x86-64-v4"]
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert processor.kind(4) == "aarch64"


def test_a_level_that_the_processor_lacks_is_refused(monkeypatch):
    monkeypatch.setenv(processor.VARIABLE, "x86-64-v4")
    with pytest.raises(ConfigError, match="x86-64-v4 asks for .* lacks: it has those of x86-64-v3; unset it"):
        processor.check(8)
    processor.check(16)


def test_torch_keeps_a_limit_of_its_own():
    program = "import {}hdfast, os; print(*(os.environ.get(x) for x in hdfast.processor.OF_TORCH['x86-64-v3']))"
    own = limited(program.format(""), HDFAST_CPU_ARCH="x86-64-v3", ATEN_CPU_CAPABILITY="default")
    assert own.stdout.split() == ["default", "AVX2", "AVX2"]
    late = limited(program.format("torch, "), HDFAST_CPU_ARCH="x86-64-v3")
    assert late.stdout.split() == ["None"] * 3


# ---- what the file links

@needs_library
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_the_library_depends_on_the_stable_abi_alone():
    """No C++ symbol of torch, nothing of Python, no libcuda or libcudart: one file for every torch and machine."""
    done = subprocess.run(["nm", "-D", "--undefined-only", str(library.path())], capture_output=True, text=True,
                          check=True)
    names = [line.split()[-1] for line in done.stdout.splitlines()]
    foreign = [n for n in names if ("torch" in n or "c10" in n or "at6" in n) and not n.startswith(("aoti_", "torch_"))]
    assert not foreign
    assert not [n for n in names if n.startswith(("Py", "_Py", "cuda", "cu", "__cuda"))]
    assert any(n.startswith("aoti_torch_") for n in names)


@needs_library
def test_the_library_says_how_it_was_built():
    info = library.build_info()
    assert set(info) == {"version", "torch", "compiler", "cuda", "archs"}
    assert info["torch"].startswith("2.") and bool(info["cuda"]) == bool(info["archs"])
    assert library.runs_on(torch.device("cpu")) and library.runs_on(torch.device("meta"))
    assert library.runs_on(torch.device("cuda")) == bool(info["cuda"])
    assert not library.runs_on(torch.device("xpu"))


def test_doctor_tells_the_library():
    lines = "\n".join(doctor.build())
    assert ops.backend() in lines
    if BUILT:
        assert str(library.path()) in lines and "norm_act" in lines
        assert ("sm_" in lines) == bool(library.build_info()["cuda"])
    else:
        assert "not built" in lines


# ---- the gate on registers

REPORT = """\
ptxas info    : Compiling entry function '_ZN2hd4goodEPf' for 'sm_80'
ptxas info    : Function properties for _ZN2hd4goodEPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, 360 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN2hd3badEPf' for 'sm_90'
ptxas info    : Function properties for _ZN2hd3badEPf
    {stack} bytes stack frame, {spill} bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, 360 bytes cmem[0]
"""


@pytest.mark.parametrize(("stack", "spill", "allowed", "status"), [
    (0, 0, {}, 0), (800, 0, {}, 1), (0, 4, {}, 1), (800, 8, {"*bad*": {"stack": 800, "spill": 8}}, 0),
    (801, 8, {"*bad*": {"stack": 800, "spill": 8}}, 1), (800, 0, {"*good*": {"stack": 800}}, 1)])
def test_the_gate(tmp_path, stack, spill, allowed, status):
    table, report = tmp_path / "table.json", tmp_path / "report.txt"
    table.write_text(json.dumps({"allowed": allowed}))
    report.write_text(REPORT.format(stack=stack, spill=spill))
    done = subprocess.run([sys.executable, ROOT / "cmake/check_ptxas.py", table, "--report", report],
                          capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert ("bad" in done.stderr and "255 registers" in done.stderr) == bool(status)
    assert "good" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_the_gate_stops_a_real_compilation(tmp_path):
    """A local array indexed at run time: no spill, but a stack frame."""
    source, target = tmp_path / "k.cu", tmp_path / "k.o"
    source.write_text("__global__ void k(float* p, const int* i) {\n"
                      "  float a[64];\n  for (int j = 0; j < 64; ++j) a[j] = p[j];\n"
                      "  for (int j = 0; j < 64; ++j) a[i[j]] += 1;\n  for (int j = 0; j < 64; ++j) p[j] = a[j];\n}\n")
    command = [sys.executable, ROOT / "cmake/check_ptxas.py", ROOT / "cmake/ptxas.json", "nvcc", "-arch=sm_80",
               "-Xptxas", "-v", "-c", source, "-o", target]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "k(float*, int const*) for sm_80: 256 bytes of stack" in done.stderr
    assert not target.exists()


# ---- the host library

@pytest.fixture
def host():
    if not host_library.path().exists():
        pytest.skip("the native part is not installed")
    return host_library


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("shape", [(), (3,), (16, 16, 3)], ids=str)
def test_gather_equals_indexing(host, shape, threads):
    rng = np.random.default_rng(0)
    ring = rng.integers(0, 256, (50, *shape), np.uint8)
    for index in (rng.integers(0, 50, (7, 4)), np.zeros((0,), np.int64), np.array(3), np.arange(50)[::-1].copy()):
        out = np.full((*index.shape, *shape), 7, np.uint8)
        host.gather(ring, index, out, threads=threads)
        np.testing.assert_array_equal(out, ring[index])


def test_gather_of_many_threads(host):
    rng = np.random.default_rng(0)
    ring, index = rng.integers(0, 256, (64, 64 * 64 * 3), np.uint8), rng.integers(0, 64, 1000)
    out = np.empty((1000, ring.shape[1]), np.uint8)
    host.gather(ring, index, out, threads=4)
    np.testing.assert_array_equal(out, ring[index])


def test_gather_lets_other_threads_run(host):
    """Again and again during one call, some time: no Python code of this thread makes way for the other one."""
    ring, index = np.zeros((8, 1 << 20), np.uint8), np.zeros(400, np.int64)
    out, ticks, done = np.empty((400, 1 << 20), np.uint8), [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(1)
            time.sleep(1e-3)
    other = threading.Thread(target=tick)
    switch, deadline, inside = sys.getswitchinterval(), time.monotonic() + 60, 0
    sys.setswitchinterval(3600)
    try:
        other.start()
        while inside <= 3 and time.monotonic() < deadline:
            before = len(ticks)
            host.gather(ring, index, out, threads=1)
            inside = len(ticks) - before
    finally:
        sys.setswitchinterval(switch)
        done.set()
        other.join()
    assert inside > 3


@pytest.mark.parametrize(("change", "error", "message"), [
    (dict(index=np.array([50])), ValueError, "index must be rows 0 to 49, got 50; wrap it"),
    (dict(index=np.array([-1])), ValueError, "got -1; wrap it"),
    (dict(out=np.empty((2, 3), np.uint8)), ValueError, r"out must have index's shape .*got \(2, 3\); allocate it so"),
    (dict(threads=0), ValueError, "threads must be at least 1, got 0"),
    (dict(ring=np.zeros((), np.uint8)), ValueError, r"ring must have shape \(capacity, ...\), got \(\); add an axis"),
    (dict(index=[0]), TypeError, "index must be a contiguous array of int64, got list; convert it"),
    (dict(index=np.array([1], np.int32)), TypeError, "index must be a contiguous array of int64, got int32"),
    (dict(out=np.empty((1, 3), np.float32)), TypeError, "out must be a contiguous array of uint8, got float32"),
    (dict(out=np.empty((1, 6), np.uint8)[:, ::2]), TypeError, r"contiguous array of uint8, got uint8, strides \(6,")])
def test_gather_refuses_what_it_cannot_do(host, change, error, message):
    args = dict(ring=np.zeros((50, 3), np.uint8), index=np.array([0]), out=np.empty((1, 3), np.uint8), threads=1)
    with pytest.raises(error, match=message):
        host.gather(**args | change)


def test_gather_refuses_a_read_only_or_overlapping_target(host):
    ring, out = np.zeros((4, 3), np.uint8), np.zeros((1, 3), np.uint8)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writeable"):
        host.gather(ring, np.array([0]), out)
    with pytest.raises(ValueError, match="must not overlap"):
        host.gather(ring, np.array([0]), ring[1:2])


def test_both_files_come_from_one_build(host):
    if BUILT and library.path().parent == ROOT / "hdfast":
        assert host.build_info() == library.build_info()
