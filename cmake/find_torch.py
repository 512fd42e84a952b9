"""Where torch is installed, found by path: importing it takes seconds, and an isolated build cannot do so at all."""

import os
import site
import sys
import sysconfig
from pathlib import Path


def find_torch() -> Path | None:
    """Folder of a torch package with the stable ABI's headers, or None.

    HDFAST_TORCH_DIR names one. Else: the module path (a build without isolation, or an isolated one that installed
    torch), then the interpreter's own site-packages, which an isolated build does not have on its module path.
    """
    if named := os.environ.get("HDFAST_TORCH_DIR"):
        return Path(named)
    folders = [*sys.path, sysconfig.get_path("platlib"), sysconfig.get_path("purelib"), *site.getsitepackages(),
               site.getusersitepackages()]
    for folder in filter(None, folders):
        torch = Path(folder) / "torch"
        if (torch / "include/torch/csrc/stable/library.h").exists() and (torch / "lib/libtorch_cpu.so").exists():
            return torch
    return None
