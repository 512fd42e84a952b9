"""Rows of a numpy ring, gathered by the library `_host`: plain C functions without torch, one file for every Python."""

import ctypes
import functools
import json
import math
import os
from pathlib import Path

import numpy as np

FILE = "_host.abi3.so"


def path() -> Path:
    """Where the library is expected: the folder HDFAST_LIBRARY_DIR names, else the installed package."""
    folder = os.environ.get("HDFAST_LIBRARY_DIR")
    if folder and (Path(folder) / FILE).exists():
        return Path(folder) / FILE
    return Path(__file__).resolve().parents[1] / FILE


@functools.cache
def library() -> ctypes.CDLL:
    """The library, loaded; OSError if it was not built."""
    found = ctypes.CDLL(str(path()))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    found.hdfast_gather.argtypes = pointer, number, pointer, number, pointer, number
    found.hdfast_gather.restype = None
    found.hdfast_build_info.restype = ctypes.c_char_p
    return found


def build_info() -> dict[str, str]:
    """How the library was built: version, torch, compiler, cuda ('' without CUDA kernels), archs."""
    return json.loads(library().hdfast_build_info())


def gather(ring: np.ndarray, index: np.ndarray, out: np.ndarray, *, threads: int = 1) -> None:
    """out[i] = ring[index[i]]: ring (capacity, ...) uint8, index (*I) int64, out (*I, ...) uint8, all contiguous.

    Runs without the interpreter's lock on up to `threads` threads; nobody may write the arrays meanwhile. TypeError for
    other types, ValueError for shapes that do not fit, rows that are not there, and an `out` that cannot be written.
    """
    for name, array, dtype in (("ring", ring, np.uint8), ("index", index, np.int64), ("out", out, np.uint8)):
        if not (isinstance(array, np.ndarray) and array.dtype == dtype and array.flags.c_contiguous):
            got = f"{array.dtype}, strides {array.strides}" if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"gather: {name} must be a contiguous array of {np.dtype(dtype)}, got {got}; convert it")
    if not ring.ndim:
        raise ValueError("gather: ring must have shape (capacity, ...), got (); add an axis")
    if out.shape != index.shape + ring.shape[1:]:
        raise ValueError(f"gather: out must have index's shape and then a row's, index {index.shape} and ring "
                         f"{ring.shape}, got {out.shape}; allocate it so")
    if not out.flags.writeable:
        raise ValueError("gather: out must be writeable, got a read-only array; copy it")
    if threads < 1:
        raise ValueError(f"gather: threads must be at least 1, got {threads}; give 1")
    if not index.size:
        return
    if index.min() < 0 or index.max() >= len(ring):
        wrong = index[(index < 0) | (index >= len(ring))].flat[0]
        raise ValueError(f"gather: index must be rows 0 to {len(ring) - 1}, got {wrong}; wrap it into the ring first")
    if np.may_share_memory(ring, out):
        raise ValueError("gather: out must not overlap ring, got a view of it; allocate it apart")
    library().hdfast_gather(ring.ctypes.data, math.prod(ring.shape[1:]), index.ctypes.data, index.size,
                            out.ctypes.data, threads)
