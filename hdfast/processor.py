"""HDFAST_CPU_ARCH: the instruction set that code on the CPU is limited to, for a fair comparison and for tests.

The kernels read the variable themselves (csrc/cpu/vec.h). What PyTorch has of its own it reads once, when it is
loaded: `limit_torch`, at the first import of hdfast, comes before that if nobody imported torch earlier.
"""

import os
import platform
import sys

from hdfast.errors import ConfigError, nearest

VARIABLE = "HDFAST_CPU_ARCH"
LEVELS = {"x86-64": 4, "x86-64-v3": 8, "x86-64-v4": 16}
"""The levels of x86-64 that the kernels are compiled for, with the floats of their vectors."""
OF_TORCH = {"x86-64": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41",
                       "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
            "x86-64-v3": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
                          "MKL_ENABLE_INSTRUCTIONS": "AVX2"}}


def kind(width: int) -> str:
    """The kind of processor that runs kernels with vectors of `width` floats: a level, elsewhere the architecture."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return platform.machine()
    return next(level for level, floats in LEVELS.items() if floats == width)


def wanted() -> str:
    """What HDFAST_CPU_ARCH names, or '' if it is empty or not set."""
    return os.environ.get(VARIABLE, "")


def limit_torch() -> None:
    """Give PyTorch and its libraries the same limit, unless they are loaded or have one of their own."""
    if "torch" not in sys.modules:
        for name, value in OF_TORCH.get(wanted(), {}).items():
            os.environ.setdefault(name, value)


def check(width: int) -> None:
    """ConfigError if kernels with vectors of `width` floats are not what HDFAST_CPU_ARCH asks for."""
    name = wanted()
    if name and name not in LEVELS:
        raise ConfigError(f"{VARIABLE} must be one of {', '.join(LEVELS)}, got {name!r}{nearest(name, LEVELS)}; unset "
                          "it for all that the processor has")
    if name and LEVELS[name] != width:
        raise ConfigError(f"{VARIABLE}={name} asks for instructions that this processor lacks: it has those of "
                          f"{kind(width)}; unset it, or name a level that it has")
