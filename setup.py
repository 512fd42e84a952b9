"""Builds the two native files of the package with CMake and Ninja; everything else is in pyproject.toml.

hdfast/_ops.abi3.so   the ops, on the stable ABI of libtorch: one file for every torch >= 2.11 and every Python
hdfast/_host.abi3.so  host-side code without torch: plain C functions

Neither has a Python ABI: a wheel serves every Python, py3-none-PLATFORM with them and py3-none-any without.

HDFAST_CUDA=auto|0|1    CUDA kernels where nvcc is found (the default), never, or required
HDFAST_ARCHS            GPU architectures as in TORCH_CUDA_ARCH_LIST, "8.0;9.0+PTX" by default
HDFAST_NATIVE=auto|0|1  native files where a C++ compiler works (the default), never: plain PyTorch only, or required
HDFAST_MANYLINUX=1      only symbols of glibc 2.28 and GCC 8, for a wheel that runs on older systems (`make wheel`)
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
sys.path.insert(0, str(ROOT / "cmake"))
from compiler import LOST, builds_native, say  # noqa: E402
from find_torch import find_torch  # noqa: E402


class CMakeBuild(build_ext):
    """Both extensions are targets of one CMake build, whose folder is kept: a rebuild compiles only what changed."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".abi3.so"

    def run(self):
        self.folder = ROOT / "build" / f"native-{sysconfig.get_platform()}"
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
        settings = {
            # The tools of an isolated build are gone at the next one: say where they are every time.
            "CMAKE_MAKE_PROGRAM": shutil.which("ninja"),
            "HDFAST_PYTHON": sys.executable,
            "HDFAST_TORCH_DIR": torch,
            "HDFAST_VERSION": self.distribution.get_version(),
            "HDFAST_CUDA": os.environ.get("HDFAST_CUDA") or "auto",
            "HDFAST_ARCHS": os.environ.get("HDFAST_ARCHS", ""),
            "HDFAST_MANYLINUX": os.environ.get("HDFAST_MANYLINUX") or "0",
        }
        cmake = shutil.which("cmake")
        configure = [cmake, "-S", ROOT, "-B", self.folder, "-G", "Ninja",
                     *(f"-D{key}={value}" for key, value in settings.items())]
        jobs = self.parallel or len(os.sched_getaffinity(0))
        for command in (configure, [cmake, "--build", self.folder, "-j", str(jobs)]):
            subprocess.run([str(part) for part in command], check=True)


class Wheel(bdist_wheel):
    """Native or not, it is for every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


extensions = []
if not {"sdist", "egg_info", "dist_info"} & set(sys.argv):  # a build, then
    if builds_native():
        extensions = [Extension("hdfast._ops", []), Extension("hdfast._host", [])]
    elif os.environ.get("HDFAST_NATIVE") != "0":
        say(LOST)
setup(ext_modules=extensions, cmdclass={"build_ext": CMakeBuild, "bdist_wheel": Wheel})
