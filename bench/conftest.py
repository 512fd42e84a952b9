"""`pytest bench`: the files bench_*.py are collected here only; options, and what every benchmark says about itself."""

import platform

import pytest
import torch

from hdfast.bench import ours, serve, workload
from hdfast.machine import cpu_name, git_revision

ROOF_BYTES = 256 * 2**20  # far beyond any cache


def pytest_addoption(parser):
    group = parser.getgroup("hdfast")
    group.addoption("--preset", default="reduced", choices=list(workload.SIZES), help="sizes to measure")
    group.addoption("--threads", type=int, default=1, help="torch CPU threads")
    group.addoption("--backends", default=",".join(ours.BACKENDS), help="rungs of the ladder, with commas between")


def pytest_collect_file(file_path, parent):
    if file_path.name.startswith("bench_") and file_path.suffix == ".py" and not parent.session.isinitpath(file_path):
        return pytest.Module.from_parent(parent, path=file_path)
    return None


def pytest_configure(config):
    torch.set_num_threads(config.getoption("--threads"))


def pytest_generate_tests(metafunc):
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", metafunc.config.getoption("--backends").split(","), indirect=True)


@pytest.fixture
def backend(request):
    """The backend of the ladder that is measured, in force while the benchmark runs."""
    from hdfast import ops
    name = request.param
    if name == "native" and not ours.native_is_there():
        pytest.skip("the native library is not here; `hdfast doctor` says why")
    with ops.use("native" if name == "native" else "reference"):
        yield name


@pytest.fixture
def preset(request) -> str:
    return request.config.getoption("--preset")


@pytest.fixture
def sizes(preset):
    return workload.sized(preset)


@pytest.fixture(scope="session")
def roof_gbs() -> float:
    """GB/s that adding two large tensors moves here: the roof of a memory-bound op whose data is in no cache."""
    a, b, out = torch.ones(3, ROOF_BYTES // 4).unbind()
    best = min(serve.timed(lambda: torch.add(a, b, out=out), 7)["seconds"])
    return 3 * ROOF_BYTES / best / 1e9


@pytest.fixture
def describe(benchmark, preset, backend):
    """Call with group, name, mode and shape before measuring; more keywords become extra_info."""
    def say(group: str, name: str, mode: str, shape, **more) -> None:
        benchmark.group = group
        benchmark.extra_info.update(
            name=name, backend=backend, mode=mode, dtype="float32", shape="x".join(map(str, shape)) or "scalar",
            preset=preset, torch=torch.__version__, python=platform.python_version(), cpu=cpu_name(),
            threads=torch.get_num_threads(), sha=git_revision(), **more)
    return say
