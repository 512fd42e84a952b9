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
from hdfast.spaces import ActSpace, ObsSpace

Arrays = dict[str, np.ndarray]  # of one step: (N, *shape) of each part of the observation

FLAG_BITS = {"is_first": 1, "is_last": 2, "is_terminal": 4}
WORDS = 2  # of a record's metadata before the encoded action: the reward's bits and the flags
DTYPES = {"uint8": torch.uint8, "float32": torch.float32}


@dataclass(frozen=True)
class Batch:
    """Time-major: B windows of T steps on one device. Observations are rows of a larger tensor, not gathered yet."""

    frames: dict[str, Tensor]  # (R, *shape) uint8 or float32 of each part
    rows: Tensor  # (T, B) int64 into frames
    action: Tensor  # (T, B, A) float32, the encoded action chosen after obs; zeros where is_last
    reward: Tensor  # (T, B) float32, received on arriving at obs
    is_first: Tensor  # (T, B) bool
    is_last: Tensor  # (T, B) bool
    is_terminal: Tensor  # (T, B) bool

    @property
    def obs(self) -> dict[str, Tensor]:
        """The observations as stored, gathered: (T, B, *shape) of each part."""
        return {name: x.index_select(0, self.rows.flatten()).unflatten(0, self.rows.shape)
                for name, x in self.frames.items()}

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What an update reads: the parts' frames, rows, action, reward, is_first, is_terminal."""
        return (*self.frames.values(), self.rows, self.action, self.reward, self.is_first, self.is_terminal)


class Ring:
    """The last `capacity` steps of `num_envs` environments: row = step % capacity * num_envs + environment.

    On CUDA sampling uses the current stream, and `stage` copies on a second one. RunError if the device has too little
    memory.
    """

    def __init__(self, capacity: int, num_envs: int, obs_space: ObsSpace, act_space: ActSpace,
                 device: torch.device | str = "cpu"):
        self.capacity, self.num_envs, self.device = capacity, num_envs, torch.device(device)
        rows = capacity, num_envs
        try:
            self.obs = {part.name: torch.empty(*rows, *part.shape, dtype=DTYPES[part.dtype], device=device)
                        for part in obs_space.parts}
            self.meta = torch.empty(*rows, WORDS + act_space.width, dtype=torch.int32, device=device)
        except RuntimeError as error:
            size = ring_bytes(capacity * num_envs, obs_space, act_space) / 1e9
            hosted = self.device.type == "cpu"
            raise RunError(f"the replay of {capacity * num_envs} steps needs {size:.1f} GB of memory, more than "
                           f"{'this machine' if hosted else device} gives. Lower --replay.capacity (--run.steps is "
                           f"enough){'' if hosted else ', or use host memory: --replay.device cpu'}.") from error
        # Those of every batch: the same tensors, which a graph never copies.
        self.frames = {name: x.flatten(0, 1) for name, x in self.obs.items()}
        # Per environment: steps so far, evicted ones included; and the number of the first ever in this ring.
        self.steps, self.floor = torch.zeros(2, dtype=torch.int64, device=device).unbind()
        self._side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._staged: tuple[int, Arrays] | None = None
        self._await_current()

    def stage(self, step: int, obs: Arrays) -> None:
        """Copy the frames of step number `step` to their place while the device computes; a `write` of the same arrays
        then skips them. Only on CUDA, and only until the ring is full: later the place holds a stored step.
        """
        if self._side is not None and step < self.capacity:
            with torch.cuda.stream(self._side):
                for name, ring in self.obs.items():
                    self._copy(ring, step, obs[name], 1)
            self._staged = step, obs

    def write(self, step: int, obs: Arrays, action: np.ndarray, reward: np.ndarray, flags: np.ndarray) -> None:
        """Store step number `step`, or with one more axis in front, steps from there on that do not wrap.

        obs (N, *shape) of each part, action (N, A) float32, encoded, flags (N,) int, reward (N,) float32. CUDA: queued
        on the current stream.
        """
        meta = np.concatenate([reward.view(np.int32)[..., None], flags.astype(np.int32)[..., None],
                               action.view(np.int32)], -1)
        count = len(flags) if flags.ndim == 2 else 1
        there, self._staged = self._staged, None
        if there:  # no later copy may overtake them, even of other frames
            torch.cuda.current_stream(self.device).wait_stream(self._side)
        if not there or there[0] != step or any(obs[name] is not x for name, x in there[1].items()):
            for name, ring in self.obs.items():
                self._copy(ring, step, obs[name], count)
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
        reward, flags = (x.contiguous() for x in meta[..., :WORDS].unbind(-1))
        is_first, is_last, is_terminal = ((flags & bit) != 0 for bit in FLAG_BITS.values())
        is_first[0].fill_(True)
        action = meta[..., WORDS:].contiguous().view(torch.float32)
        return Batch(self.frames, rows, action, reward.view(torch.float32), is_first, is_last, is_terminal)

    def spans(self, first: int, count: int) -> Iterator[tuple[slice, slice]]:
        """(places in the ring, places in the sequence) of `count` steps from number `first`: two pairs if it wraps."""
        done = 0
        while done < count:
            start = (first + done) % self.capacity
            size = min(count - done, self.capacity - start)
            yield slice(start, start + size), slice(done, done + size)
            done += size


def ring_bytes(steps: int, obs_space: ObsSpace, act_space: ActSpace) -> int:
    """Memory that a ring of `steps` steps takes."""
    words = (WORDS + act_space.width) * torch.int32.itemsize
    return steps * (words + sum(math.prod(part.shape) * DTYPES[part.dtype].itemsize for part in obs_space.parts))


class Staging:
    """Brings batches of a ring in host memory to another device; it gathers frames into pinned memory on the way.

    Every call returns the same tensors, overwritten; their shape is fixed.
    """

    def __init__(self, device: torch.device, threads: int):
        self.device, self.threads = device, threads
        self._batch: Batch | None = None

    def bring(self, batch: Batch) -> Batch:
        """The batch on the device, its frames in the order of its rows; queued on the current stream."""
        count, rows = batch.rows.numel(), batch.rows.flatten()
        frames = {name: torch.empty((count, *x.shape[1:]), dtype=x.dtype, pin_memory=self._pins)
                  for name, x in batch.frames.items()}
        for name, x in batch.frames.items():
            gather(x, rows, frames[name], threads=self.threads)
        new = dataclasses.replace(batch, frames=frames, rows=torch.arange(count).view(batch.rows.shape))
        if self._batch is None:
            there = {name: x.to(self.device, copy=True) for name, x in vars(new).items() if name != "frames"}
            self._batch = Batch({name: x.to(self.device, copy=True) for name, x in frames.items()}, **there)
            return self._batch
        for there, here in zip(_changing(self._batch), _changing(new), strict=True):
            there.copy_(here.pin_memory() if self._pins else here, non_blocking=True)
        return self._batch

    @property
    def _pins(self) -> bool:
        return self.device.type == "cuda"


def _changing(batch: Batch) -> list[Tensor]:
    """The tensors of a staged batch, without its rows, which stay the same."""
    return [*batch.frames.values(), batch.action, batch.reward, batch.is_first, batch.is_last, batch.is_terminal]


def gather(ring: Tensor, rows: Tensor, out: Tensor, *, threads: int) -> None:
    """out[i] = ring[rows[i]] in host memory, without the interpreter's lock: ring (R, ...), rows (n,), out (n, ...).

    Native code on `threads` threads, or torch's if the library _host was not built.
    """
    if host.path().exists():
        source, target = (x.flatten(1).view(torch.uint8).numpy() for x in (ring, out))
        host.gather(source, rows.numpy(), target, threads=threads)
    else:
        torch.index_select(ring, 0, rows, out=out)
