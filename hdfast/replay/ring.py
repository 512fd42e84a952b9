"""The replay's memory: rings of frames and records as tensors on one device, and uniform windows of them.

`Ring.windows` works on tensors of known shapes without reading on the host, so a CUDA graph can capture it; the CPU
runs the same code.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hdfast.errors import RunError
from hdfast.replay import host

FLAG_BITS = {"is_first": 1, "is_last": 2, "is_terminal": 4}
ACTION, REWARD, FLAGS, META = range(4)  # words of a record's metadata and their number; the reward by its bits
DTYPES = {"uint8": torch.uint8, "float32": torch.float32}


@dataclass(frozen=True)
class Batch:
    """Time-major: B windows of T steps on one device. Observations are rows of a larger tensor, not gathered yet."""

    frames: Tensor  # (R, *obs_shape) uint8 or float32
    rows: Tensor  # (T, B) int64 into frames
    action: Tensor  # (T, B) int64, the action chosen after obs; -1 where is_last
    reward: Tensor  # (T, B) float32, received on arriving at obs
    is_first: Tensor  # (T, B) bool
    is_last: Tensor  # (T, B) bool
    is_terminal: Tensor  # (T, B) bool

    @property
    def obs(self) -> Tensor:
        """The observations as stored, gathered: (T, B, *obs_shape)."""
        return self.frames.index_select(0, self.rows.flatten()).unflatten(0, self.rows.shape)


class Ring:
    """The last `capacity` steps of `num_envs` environments: row = step % capacity * num_envs + environment.

    On CUDA sampling uses the current stream, and `stage` copies on a second one. RunError if the device has too little
    memory.
    """

    def __init__(self, capacity: int, num_envs: int, obs_shape: tuple[int, ...], obs_dtype: str,
                 device: torch.device | str = "cpu"):
        self.capacity, self.num_envs, self.device = capacity, num_envs, torch.device(device)
        rows, words = (capacity, num_envs, *obs_shape), (capacity, num_envs, META)
        try:
            self.obs = torch.empty(rows, dtype=DTYPES[obs_dtype], device=device)
            self.meta = torch.empty(words, dtype=torch.int32, device=device)
        except RuntimeError as error:
            size = ring_bytes(capacity * num_envs, obs_shape, obs_dtype) / 1e9
            hosted = self.device.type == "cpu"
            raise RunError(f"the replay of {capacity * num_envs} steps needs {size:.1f} GB of memory, more than "
                           f"{'this machine' if hosted else device} gives. Lower --replay.capacity (--run.steps is "
                           f"enough){'' if hosted else ', or use host memory: --replay.device cpu'}.") from error
        self.frames = self.obs.flatten(0, 1)  # those of every batch: one tensor, which a graph never copies
        # Per environment: steps so far, evicted ones included; and the number of the first ever in this ring.
        self.steps, self.floor = torch.zeros(2, dtype=torch.int64, device=device).unbind()
        self._side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._staged: tuple[int, np.ndarray] | None = None
        self._await_current()

    def stage(self, step: int, obs: np.ndarray) -> None:
        """Copy the frames of step number `step` to their place while the device computes; a `write` of the same array
        then skips them. Only on CUDA, and only until the ring is full: later the place holds a stored step.
        """
        if self._side is not None and step < self.capacity:
            with torch.cuda.stream(self._side):
                self._copy(self.obs, step, obs, 1)
            self._staged = step, obs

    def write(self, step: int, obs: np.ndarray, action: np.ndarray, reward: np.ndarray, flags: np.ndarray) -> None:
        """Store step number `step`, or with one more axis in front, steps from there on that do not wrap.

        obs (N, *obs_shape), action, flags (N,) int, reward (N,) float32. CUDA: queued on the current stream.
        """
        meta = np.empty((*action.shape, META), np.int32)
        meta[..., ACTION], meta[..., FLAGS] = action, flags
        meta[..., REWARD] = reward.view(np.int32)
        count = len(action) if action.ndim == 2 else 1
        there, self._staged = self._staged, None
        if there:  # no later copy may overtake them, even of other frames
            torch.cuda.current_stream(self.device).wait_stream(self._side)
        if not there or there[0] != step or there[1] is not obs:
            self._copy(self.obs, step, obs, count)
        self._copy(self.meta, step, meta, count)
        self.steps.fill_(step + count)

    def _copy(self, ring: Tensor, step: int, new: np.ndarray, count: int) -> None:
        """Queue a copy of `count` steps to their places in a ring."""
        start, values = step % self.capacity, torch.from_numpy(new)
        if self.device.type == "cuda":
            values = values.pin_memory()  # from torch's cache of pinned memory, which waits for the copy before reuse
        ring[start:start + count].copy_(values.view(count, *ring.shape[1:]), non_blocking=True)

    def _await_current(self) -> None:
        """Later copies of `stage` wait for the work that is queued on the current stream."""
        if self._side is not None:
            self._side.wait_stream(torch.cuda.current_stream(self.device))

    def clear(self, floor: int) -> None:
        """Forget everything; the next step written is number `floor` or later."""
        self._await_current()
        self.steps.fill_(floor)
        self.floor.fill_(floor)

    def windows(self, u: Tensor, length: int) -> Batch:
        """The windows that uniforms u (B,) float64 in [0, 1) choose among all windows of `length` stored steps.

        They cross episode ends; the batch has is_first[0] set. There must be such a window.
        """
        oldest = torch.maximum(self.floor, self.steps - self.capacity)
        per_env = self.steps - oldest - (length - 1)
        count = per_env * self.num_envs
        choice = (u * count).long()  # below count: the product of the largest u is rounded down
        index = oldest + choice % per_env + torch.arange(length, device=u.device)[:, None]
        rows = index % self.capacity * self.num_envs + choice // per_env
        meta = self.meta.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)
        action, reward, flags = meta.unbind(-1)
        is_first, is_last, is_terminal = ((flags & bit) != 0 for bit in FLAG_BITS.values())
        is_first[0].fill_(True)
        return Batch(self.frames, rows, action.long(), reward.contiguous().view(torch.float32), is_first,
                     is_last, is_terminal)

    def spans(self, first: int, count: int) -> Iterator[tuple[slice, slice]]:
        """(places in the ring, places in the sequence) of `count` steps from number `first`: two pairs if it wraps."""
        done = 0
        while done < count:
            start = (first + done) % self.capacity
            size = min(count - done, self.capacity - start)
            yield slice(start, start + size), slice(done, done + size)
            done += size


def ring_bytes(steps: int, obs_shape: tuple[int, ...], obs_dtype: str) -> int:
    """Memory that a ring of `steps` steps takes."""
    return steps * (math.prod(obs_shape) * DTYPES[obs_dtype].itemsize + META * torch.int32.itemsize)


class Staging:
    """Brings batches of a ring in host memory to another device; it gathers frames into pinned memory on the way.

    Every call returns the same tensors, overwritten; their shape is fixed.
    """

    def __init__(self, device: torch.device, threads: int):
        self.device, self.threads = device, threads
        self._batch: Batch | None = None

    def bring(self, batch: Batch) -> Batch:
        """The batch on the device, its frames in the order of its rows; queued on the current stream."""
        count = batch.rows.numel()
        frames = torch.empty((count, *batch.frames.shape[1:]), dtype=batch.frames.dtype, pin_memory=self._pins)
        gather(batch.frames, batch.rows.flatten(), frames, threads=self.threads)
        rows = torch.arange(count).view(batch.rows.shape)
        new = dataclasses.replace(batch, frames=frames, rows=rows)
        if self._batch is None:
            self._batch = Batch(*(x.to(self.device, copy=True) for x in vars(new).values()))
            return self._batch
        for name, there in vars(self._batch).items():
            if name != "rows":
                here = getattr(new, name)
                there.copy_(here.pin_memory() if self._pins else here, non_blocking=True)
        return self._batch

    @property
    def _pins(self) -> bool:
        return self.device.type == "cuda"


def gather(ring: Tensor, rows: Tensor, out: Tensor, *, threads: int) -> None:
    """out[i] = ring[rows[i]] in host memory, without the interpreter's lock: ring (R, ...), rows (n,), out (n, ...).

    Native code on `threads` threads, or torch's if the library _host was not built.
    """
    if host.path().exists():
        source, target = (x.flatten(1).view(torch.uint8).numpy() for x in (ring, out))
        host.gather(source, rows.numpy(), target, threads=threads)
    else:
        torch.index_select(ring, 0, rows, out=out)
