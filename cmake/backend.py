"""PEP 517 backend of the project: setuptools, with build requirements that depend on the machine.

The op library needs torch's headers and libtorch_cpu at build time. Naming torch as a build requirement would make pip
install a second one into the isolated environment; but the isolated build runs the target's interpreter, so the torch
that is installed there is found by path. Only where there is none is one asked for.
"""

import shutil
import sys
from pathlib import Path

from setuptools.build_meta import (  # noqa: F401
    build_editable,
    build_sdist,
    build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

sys.path.insert(0, str(Path(__file__).parent))
from compiler import builds_native
from find_torch import find_torch

TORCH = "torch==2.13.0"


def requirements() -> list[str]:
    if not builds_native():
        return []
    wanted = [tool for tool in ("cmake>=3.24", "ninja") if shutil.which(tool.partition(">")[0]) is None]
    return wanted if find_torch() else [*wanted, TORCH]


def get_requires_for_build_wheel(config_settings=None) -> list[str]:
    return requirements()


def get_requires_for_build_editable(config_settings=None) -> list[str]:
    return requirements()


def get_requires_for_build_sdist(config_settings=None) -> list[str]:
    return []
