"""Where torch is installed, found by path: importing it takes seconds, and an isolated build cannot do so at all."""

import os
import site
import sys
import sysconfig
from pathlib import Path

# The library that the ops are linked with: Linux's name, then that of macOS.
LIBRARIES = ("libtorch_cpu.so", "libtorch_cpu.dylib")


def find_torch() -> Path | None:
    """Folder of a torch package with the stable ABI's headers, or None.

    HDFAST_TORCH_DIR names one. Else: the module path (a build without isolation, or an isolated one that installed
    torch), then the interpreter's own site-packages, which an isolated build does not have on its module path.
    """
    if named := os.environ.get("HDFAST_TORCH_DIR"):
        return Path(named)
    folders = [*sys.path, sysconfig.get_path("platlib"), sysconfig.get_path("purelib"), *site.getsitepackages(),
               site.getusersitepackages()]
    return next((Path(folder) / "torch" for folder in folders if folder and is_torch(Path(folder) / "torch")), None)


def is_torch(folder: Path) -> bool:
    """Whether a folder holds what the op library is built with."""
    return ((folder / "include/torch/csrc/stable/library.h").exists()
            and any((folder / "lib" / name).exists() for name in LIBRARIES))
