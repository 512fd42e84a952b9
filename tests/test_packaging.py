"""Installation: what the wheel holds, what it declares, and the order in which make installs."""

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import hdfast
from programs import ROOT, python

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = {r.name: r for r in map(Requirement, PROJECT["dependencies"])}
# Import names that differ from the name of their distribution.
DISTRIBUTION = {"PIL": "pillow", "mlflow": "mlflow-skinny", "ale_py": "ale-py", "imageio_ffmpeg": "imageio-ffmpeg",
                "dm_control": "dm-control"}


# What pip calls, with the installed setuptools and no network.
BACKEND = "import sys; sys.path.insert(0, 'cmake'); import backend; backend.build_{}(sys.argv[1])"
# Tracked, but read by git alone.
FOR_GIT = {".gitignore", ".git-blame-ignore-revs"}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> tarfile.TarFile:
    """The source package of a copy of the tree, with what lies around in a used one."""
    tree = tmp_path_factory.mktemp("tree") / "hdfast"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv*", "build", "dist", "runs", "*.egg-info"))
    (tree / "hdfast" / "_ops.abi3.so").write_bytes(b"of another machine")
    subprocess.run([sys.executable, "-c", BACKEND.format("sdist"), "dist"], cwd=tree, check=True, capture_output=True)
    return tarfile.open(tree / "dist" / f"hdfast-{PROJECT['version']}.tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> zipfile.ZipFile:
    """The wheel of the source package, without the native files: `make wheel` and every installation build them."""
    folder = tmp_path_factory.mktemp("unpacked")
    sdist.extractall(folder, filter="data")
    tree = next(folder.iterdir())
    subprocess.run([sys.executable, "-c", BACKEND.format("wheel"), str(folder)], cwd=tree, check=True,
                   capture_output=True, env=os.environ | {"HDFAST_NATIVE": "0"})
    return zipfile.ZipFile(folder / f"hdfast-{PROJECT['version']}-py3-none-any.whl")


def test_the_source_package_holds_every_tracked_file(sdist):
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: nothing says which files belong to it")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = {name for name in listed.split("\0") if name and (ROOT / name).exists()} - FOR_GIT
    packed = {member.name.partition("/")[2]: member for member in sdist.getmembers() if member.isfile()}
    assert tracked <= packed.keys()
    assert not [name for name in packed if name.endswith((".so", ".pyc"))]
    assert all(bool(packed[name].mode & 0o100) == os.access(ROOT / name, os.X_OK) for name in tracked)


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
    wanted = {Requirement(r).name for r in build_requirements(without, PATH="/nowhere", CXX=sys.executable)}
    assert wanted == {"cmake", "ninja", "torch"}


@pytest.mark.parametrize("name", ["libtorch_cpu.so", "libtorch_cpu.dylib"])
def test_torch_is_found_by_its_header_and_the_library_of_linux_or_macos(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "cmake")
    import find_torch
    monkeypatch.delenv("HDFAST_TORCH_DIR", raising=False)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path / "nothing"), str(tmp_path)])
    for module in (find_torch.sysconfig, find_torch.site):
        for function in ("get_path", "getsitepackages", "getusersitepackages"):
            monkeypatch.setattr(module, function, lambda *_: "", raising=False)
    header, library = tmp_path / "torch/include/torch/csrc/stable/library.h", tmp_path / "torch/lib" / name
    for file, found in ((header, None), (library, tmp_path / "torch")):
        file.parent.mkdir(parents=True)
        file.touch()
        assert find_torch.find_torch() == found


def setup_py(arguments: str, code: str = "", cwd: Path = ROOT, **environment) -> subprocess.CompletedProcess:
    """Run setup.py in a process that has no terminal."""
    program = (f"import sys; sys.argv = ['setup.py', *{arguments.split()}]; sys.path.insert(0, 'cmake')\n{code}\n"
               "import runpy; runpy.run_path('setup.py')")
    return subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True,
                          start_new_session=True, env=os.environ | environment)


NO_COMPILER = {"PATH": "/nowhere", "CXX": ""}
MISSING = "no C++ compiler works here (CXX, c++, g++ or clang++ on PATH), so the native library is left out"


def test_a_build_without_a_compiler_says_so_and_goes_on(tmp_path):
    done = setup_py(f"bdist_wheel -q -d {tmp_path}", cwd=without_building(tmp_path), HDFAST_NATIVE="", **NO_COMPILER)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(MISSING) == 1 and "apt install g++" in done.stderr
    assert [wheel.name for wheel in tmp_path.glob("*.whl")] == [f"hdfast-{PROJECT['version']}-py3-none-any.whl"]
    assert build_requirements(HDFAST_NATIVE="", **NO_COMPILER) == []


def without_building(folder: Path) -> Path:
    """A tree whose setup.py may write beside itself."""
    tree = folder / "tree"
    for name in ("hdfast", "cmake"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    return tree


def test_a_build_insists_on_a_compiler():
    done = setup_py("build_ext", HDFAST_NATIVE="1", **NO_COMPILER)
    assert done.returncode == 1 and MISSING in done.stderr and "HDFAST_NATIVE=1 insists" in done.stderr
    done = setup_py("build_ext", HDFAST_NATIVE="yes")
    assert done.returncode == 1 and "HDFAST_NATIVE is 'yes'; it must be auto, 0 or 1" in done.stderr


def test_a_compiler_that_only_tells_how_to_get_one_is_none(tmp_path):
    """As /usr/bin/c++ of macOS without Apple's command line tools."""
    for name in ("c++", "g++", "clang++"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'xcode-select: no developer tools were found' >&2; exit 1\n")
        (tmp_path / name).chmod(0o755)
    assert build_requirements(HDFAST_NATIVE="", CXX="", PATH=str(tmp_path)) == []


def test_a_build_without_torch_says_what_to_do():
    done = setup_py("build_ext", "import find_torch; find_torch.find_torch = lambda: None", HDFAST_NATIVE="1")
    assert done.returncode == 1
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
    optional = {Requirement(line).name for name in ("dmc", "metaworld", "video", "sweep", "wandb", "mlflow")
                for line in extras[name]}
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


def test_ci_tests_the_libraries_of_the_wheel():
    """Built once, from the source package; an installation of the tree would build them again."""
    script = (ROOT / ".ci" / "run").read_text()
    steps = ["make wheel", "pip install --quiet dist/hdfast-*.whl", "check_installed.sh .venv/bin", "/*.so hdfast/",
             "HDFAST_NATIVE=0 make .venv/.installed-dev", "make test"]
    found = [script.index(f"{step}\n") for step in steps]
    assert found == sorted(found)


@pytest.mark.parametrize("script", [".ci/run", "cmake/wheel.sh", "cmake/check_installed.sh"])
def test_scripts_pass_shellcheck(script):
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([program, ROOT / script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_module_runs_as_the_command():
    assert "hdfast train" in python("-m", "hdfast", "--help").stdout
