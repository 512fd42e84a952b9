"""Installation: what the wheel holds, what it declares, and the order in which make installs."""

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement

import hdfast
from programs import ROOT, python

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = {r.name: r for r in map(Requirement, PROJECT["dependencies"])}
# Import names that differ from the name of their distribution.
DISTRIBUTION = {"PIL": "pillow", "ale_py": "ale-py", "imageio_ffmpeg": "imageio-ffmpeg"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel of a copy of the tree, built as pip builds it but with the installed setuptools (no network).

    Without the native files: tests/native and every installation exercise their build.
    """
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "hdfast", tree / "hdfast", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copytree(ROOT / "tests", tree / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("cmake", "csrc"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "CMakeLists.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    build = "import sys; sys.path.insert(0, 'cmake'); import backend; backend.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tree)], cwd=tree, check=True, capture_output=True,
                   env=os.environ | {"HDFAST_NATIVE": "0"})
    return zipfile.ZipFile(next(tree.glob("hdfast-*.whl")))


def test_wheel_holds_the_package_and_nothing_else(wheel):
    sources = {p.relative_to(ROOT).as_posix() for pattern in ("*.py", "*.pyi", "py.typed", "data/*.json")
               for p in (ROOT / "hdfast").rglob(pattern)}
    info = f"hdfast-{PROJECT['version']}.dist-info"
    packed = set(wheel.namelist())
    assert {name for name in packed if not name.startswith(info)} == sources
    assert f"{info}/licenses/LICENSE" in packed
    assert "hdfast = hdfast.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert "Requires-Dist: torch>=2.11" in wheel.read(f"{info}/METADATA").decode()


BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]


def build_requirements(code: str = "", **environment) -> list[str]:
    """The requirements of cmake/backend.py, from a separate process."""
    program = f"import sys; sys.path.insert(0, 'cmake'); {code}\nimport backend; print(*backend.requirements())"
    return python("-c", program, **environment).stdout.split()


def test_the_build_takes_the_installed_torch():
    """Build isolation must not install a second torch next to the installed one."""
    assert BUILD == {"requires": ["setuptools>=77"], "build-backend": "backend", "backend-path": ["cmake"]}
    assert not [r for r in build_requirements() if r.startswith("torch")]


def test_the_build_asks_for_what_is_missing():
    without = "import find_torch; find_torch.find_torch = lambda: None"
    assert "torch==2.13.0" in build_requirements(without)
    wanted = {Requirement(r).name for r in build_requirements(without, PATH="/nowhere")}
    assert wanted == {"pybind11", "cmake", "ninja", "torch"}


def test_a_build_without_torch_says_what_to_do(tmp_path):
    """Its folder is no torch, so CMake leaves the op library out; a find_torch that finds none is refused before."""
    program = ("import sys; sys.argv = ['setup.py', 'build_ext']; sys.path.insert(0, 'cmake')\n"
               "import find_torch; find_torch.find_torch = lambda: None\nimport runpy; runpy.run_path('setup.py')")
    done = python("-c", program, code=1)
    assert "pip install torch==2.13.0 first" in done.stderr and "HDFAST_NATIVE=0" in done.stderr


def test_there_is_one_version():
    assert hdfast.__version__ == PROJECT["version"]


@pytest.mark.parametrize("name", hdfast.__all__)
def test_public_names_exist(name):
    assert getattr(hdfast, name)


def test_an_unknown_public_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="no attribute 'Learner'; it has Agent, Config"):
        _ = hdfast.Learner


def test_every_import_is_declared_and_every_dependency_is_imported():
    imported = set()
    for path in (ROOT / "hdfast").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = ([a.name for a in node.names] if isinstance(node, ast.Import)
                     else [node.module] if isinstance(node, ast.ImportFrom) and not node.level else [])
            imported |= {name.split(".")[0] for name in names}
    used = {DISTRIBUTION.get(name, name) for name in imported - sys.stdlib_module_names - {"hdfast"}}
    extras = PROJECT["optional-dependencies"]
    optional = {Requirement(line).name for line in extras["video"] + extras["sweep"]}
    assert set(DEPENDENCIES) <= used
    assert used - optional <= set(DEPENDENCIES)


@pytest.mark.parametrize("requirement", DEPENDENCIES.values(), ids=str)
def test_installed_versions_satisfy_the_metadata(requirement):
    """With these versions in place, `pip install .` has nothing to fetch; above all, no other torch."""
    if requirement.marker and not requirement.marker.evaluate():
        pytest.skip(f"{requirement} is not for this platform")
    assert requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)


@pytest.mark.parametrize("version", ["2.11.0", "2.13.0+cpu", "2.13.0+cu130", "2.14.1"])
def test_any_supported_torch_build_is_kept(version):
    assert DEPENDENCIES["torch"].specifier.contains(version)


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_installs_the_chosen_torch_before_the_package(target, tmp_path):
    """Left to the resolver, torch would be the newest one with its whole CUDA stack."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    plan = subprocess.run(["make", "-n", target, f"VENV={tmp_path}/venv", "TORCH=torch==9.9"], cwd=ROOT, text=True,
                          env=environment, capture_output=True, check=True).stdout
    assert 0 < plan.index("-m venv") < plan.index("install 'torch==9.9'") < plan.index("install -e")
    assert plan.index("install -e") < plan.index({"demo": "hdfast train", "test": "-m pytest"}[target])


def test_ci_runs_the_documented_command():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("\nmake test")


def test_module_runs_as_the_command():
    assert "hdfast train" in python("-m", "hdfast", "--help").stdout
