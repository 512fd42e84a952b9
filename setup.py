"""Builds the two native files of the package with CMake and Ninja; everything else is in pyproject.toml.

hdfast/_ops.abi3.so   the ops, on the stable ABI of libtorch: one file for every torch >= 2.11 and every Python
hdfast/_host.*.so     host-side code without torch, a pybind11 module

HDFAST_CUDA=auto|0|1   CUDA kernels where nvcc is found (the default), never, or required
HDFAST_ARCHS           GPU architectures as in TORCH_CUDA_ARCH_LIST, "8.0;9.0+PTX" by default
HDFAST_NATIVE=0        leave the native files out: plain PyTorch operations only
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
sys.path.insert(0, str(ROOT / "cmake"))
from find_torch import find_torch  # noqa: E402

ABI3 = ".abi3.so"


class CMakeBuild(build_ext):
    """Both extensions are targets of one CMake build, whose folder is kept: a rebuild compiles only what changed."""

    def get_ext_filename(self, fullname: str) -> str:
        name = fullname.replace(".", os.sep)
        return name + (ABI3 if fullname.endswith("_ops") else sysconfig.get_config_var("EXT_SUFFIX"))

    def run(self):
        self.folder = ROOT / "build" / f"native-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        self.cmake()
        super().run()

    def build_extension(self, ext: Extension):
        name = Path(self.get_ext_filename(ext.name)).name
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # A new file in place of the old one: overwriting a library that a process has mapped would crash it.
        target.unlink(missing_ok=True)
        shutil.copy2(self.folder / name, target)

    def cmake(self):
        torch = find_torch()
        if torch is None:
            raise SystemExit("hdfast: torch >= 2.11 was not found: pip install torch==2.13.0 first, or name its folder "
                             "in HDFAST_TORCH_DIR, or set HDFAST_NATIVE=0 for plain PyTorch operations only")
        import pybind11  # a build requirement

        includes = [sysconfig.get_path("include"), sysconfig.get_path("platinclude"), pybind11.get_include()]
        settings = {
            # The tools of an isolated build are gone at the next one: say where they are every time.
            "CMAKE_MAKE_PROGRAM": shutil.which("ninja"),
            "HDFAST_PYTHON": sys.executable,
            "HDFAST_TORCH_DIR": torch,
            "HDFAST_VERSION": self.distribution.get_version(),
            "HDFAST_CUDA": os.environ.get("HDFAST_CUDA") or "auto",
            "HDFAST_ARCHS": os.environ.get("HDFAST_ARCHS", ""),
            "HDFAST_PYTHON_INCLUDE": ";".join(dict.fromkeys(includes)),
            "HDFAST_PYTHON_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
        }
        cmake = shutil.which("cmake")
        configure = [cmake, "-S", ROOT, "-B", self.folder, "-G", "Ninja",
                     *(f"-D{key}={value}" for key, value in settings.items())]
        jobs = self.parallel or len(os.sched_getaffinity(0))
        for command in (configure, [cmake, "--build", self.folder, "-j", str(jobs)]):
            subprocess.run([str(part) for part in command], check=True)


native = os.environ.get("HDFAST_NATIVE", "1") != "0"
setup(ext_modules=[Extension("hdfast._ops", []), Extension("hdfast._host", [])] if native else [],
      cmdclass={"build_ext": CMakeBuild})
