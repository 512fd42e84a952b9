"""The emulated library: the CUDA sources compiled for the CPU; kernels run thread by thread.

Built once, by CMake into build/emu, unless HDFAST_LIBRARY_DIR names a folder that has it.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hdfast.ops import library
from programs import ROOT

SCHEDULES = (("fwd", "rr"), ("rev", "rr"), ("rand", "greedy"))  # order of blocks and threads, who runs next


def build() -> str | None:
    """Build the emulated library into build/emu; the reason if that is impossible."""
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


def scheduled(monkeypatch, schedule: tuple[str, str]) -> None:
    """Run the threads of every later kernel in this order."""
    monkeypatch.setenv("HD_EMU_ORDER", schedule[0])
    monkeypatch.setenv("HD_EMU_POLICY", schedule[1])
