"""Samples of what a process holds over its life, and whether that grows."""

import ctypes
import gc
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch


@dataclass(frozen=True)
class Sample:
    """What this process holds after `count` updates or evaluations, garbage collected and free pages given back.

    resident and heap (allocated by malloc) in bytes, objects that the garbage collector follows, open
    descriptors, threads, bytes that torch has reserved on the CUDA device.
    """

    count: int
    resident: int
    heap: int
    objects: int
    descriptors: int
    threads: int
    gpu: int

    @classmethod
    def now(cls, count: int, before: "Sample | None" = None) -> "Sample":
        """A thread more than in the sample before has half a second to end: a joined one stays listed for a while."""
        gc.collect()
        objects = len(gc.get_objects())
        libc.malloc_trim(0)
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        end = time.monotonic() + 0.5
        while before and tasks() > before.threads and time.monotonic() < end:
            time.sleep(0.01)
        gpu = torch.cuda.memory_reserved() if torch.cuda.is_available() else 0
        return cls(count, resident, libc.mallinfo2().used, objects, len(os.listdir("/proc/self/fd")),
                   tasks(), gpu)


def tasks() -> int:
    """Threads of this process, native ones too."""
    return len(os.listdir("/proc/self/task"))


class MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [(name, ctypes.c_size_t) for name in
                ("arena", "chunks", "fast", "mapped", "mapped_bytes", "max", "fast_bytes", "used", "free", "top")]


libc = ctypes.CDLL(None)
libc.mallinfo2.restype = MallInfo


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Median of the slopes through all pairs of points (Theil-Sen): a few outliers do not move it."""
    a, b = np.triu_indices(len(x), 1)
    x, y = np.asarray(x, float), np.asarray(y, float)
    return float(np.median((y[b] - y[a]) / (x[b] - x[a])))


def growth(samples: Sequence[Sample]) -> dict[str, float]:
    """Growth per update or evaluation of every field of `samples` over their second half."""
    half = samples[len(samples) // 2:]
    return {f.name: slope([s.count for s in half], [getattr(s, f.name) for s in half])
            for f in fields(Sample) if f.name != "count"}


def complaints(samples: Sequence[Sample], limit: float) -> list[str]:
    """What grows: memory by more than `limit` bytes per count, or descriptors or threads at all in the second half."""
    if len(samples) < 4:
        return [f"{len(samples)} samples show no growth, needs 4; run for longer"]
    found, rates, start = [], growth(samples), samples[len(samples) // 2]
    for name in ("resident", "gpu"):
        if rates[name] >= limit:
            found.append(f"{name} memory grows by {rates[name]:.0f} bytes each, limit {limit:.0f}")
    for name in ("descriptors", "threads"):
        before, after = getattr(start, name), min(getattr(s, name) for s in samples[-2:])
        if after > before:
            found.append(f"{name} grow from {before} to {after}")
    return found


class Twin:
    """A process that does a period of work and reports its cost on request; until then it waits."""

    def __init__(self, command: Sequence[str]):
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Twin":
        return self

    def __exit__(self, *error: object) -> None:
        self._child.communicate()

    def cost(self) -> float:
        """CPU seconds, as the process reports them."""
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        return float(self._child.stdout.readline())
