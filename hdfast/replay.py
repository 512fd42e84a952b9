"""Sequence replay: a ring per environment in host memory, uniform over all windows, mirrored to disk.

Follows the official Atari 100K protocol: a window starts at every stored step (stride 1), runs across episode
ends, is drawn with replacement, and begins with is_first = True in the copy that is handed out.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hdfast.errors import RunError
from hdfast.replay_store import CHUNK_BYTES, ChunkStore, Index

if TYPE_CHECKING:
    from hdfast.envs import Step

IS_FIRST, IS_LAST, IS_TERMINAL = 1, 2, 4  # bits of a stored flag byte


@dataclass
class Batch:
    """Time-major, contiguous copies of B windows of T steps."""

    obs: np.ndarray  # (T, B, *obs_shape) uint8 or float32
    action: np.ndarray  # (T, B) int64, the action chosen after obs; -1 where is_last
    reward: np.ndarray  # (T, B) float32, received on arriving at obs
    is_first: np.ndarray  # (T, B) bool
    is_last: np.ndarray  # (T, B) bool
    is_terminal: np.ndarray  # (T, B) bool


class Replay:
    """The last `capacity // num_envs` steps of each of `num_envs` environments; the oldest go first.

    Memory is reserved at once but only used as steps come in. `directory` keeps the steps on disk as well
    (None: memory only); there, call `restore` before the first `add`. `seed` starts the sampling generator.
    """

    def __init__(self, capacity: int, num_envs: int, obs_shape: tuple[int, ...], obs_dtype: str, *,
                 directory: Path | None, seed: int, chunk_bytes: int = CHUNK_BYTES):
        if num_envs < 1 or capacity < num_envs:
            raise ValueError("replay: capacity must be at least one step per environment, got capacity "
                             f"{capacity} for {num_envs} environments; raise --replay.capacity")
        if obs_dtype not in ("uint8", "float32"):
            raise ValueError(f"replay: obs_dtype must be 'uint8' or 'float32', got {obs_dtype!r}")
        self.num_envs = num_envs
        self.capacity = capacity // num_envs  # steps per environment
        self._shape, self._dtype = tuple(obs_shape), np.dtype(obs_dtype)
        rows = num_envs * self.capacity  # row = env * capacity + index % capacity
        try:
            self._obs = np.empty((rows, *self._shape), self._dtype)
            self._action = np.empty(rows, np.int32)
            self._reward = np.empty(rows, np.float32)
            self._flags = np.empty(rows, np.uint8)
        except (MemoryError, ValueError) as error:
            size = rows * int(np.prod(self._shape)) * self._dtype.itemsize / 1e9
            raise RunError(f"the replay of {rows} steps needs {size:.1f} GB of memory, more than this "
                           "machine gives. Lower --replay.capacity (--run.steps is enough).") from error
        self._ring_starts = np.arange(num_envs) * self.capacity
        self._steps = 0  # per environment, evicted ones included
        self._floor = 0  # index of the first step that ever was in these rings
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._store = None if directory is None else \
            ChunkStore(directory, num_envs, self._shape, obs_dtype, chunk_bytes=chunk_bytes)

    def __len__(self) -> int:
        """Stored steps over all environments."""
        return self.num_envs * (self._steps - self._oldest)

    @property
    def _oldest(self) -> int:
        return max(self._floor, self._steps - self.capacity)

    def windows(self, length: int) -> int:
        """Number of different windows of `length` steps over all environments."""
        return self.num_envs * max(0, self._steps - self._oldest - length + 1)

    def add(self, step: "Step", action: np.ndarray) -> None:
        """Store one record per environment: the step and the action (N,) int chosen after seeing it.

        Stores action -1 where is_last. Raises ValueError for a wrong shape, dtype or action, RunError if the
        disk fails; the replay is then as before.
        """
        obs, action, reward = np.asarray(step.obs), np.asarray(action), np.asarray(step.reward, np.float32)
        if obs.shape != (self.num_envs, *self._shape) or obs.dtype != self._dtype:
            raise ValueError(f"replay: obs must be {(self.num_envs, *self._shape)} {self._dtype}, "
                             f"got {obs.shape} {obs.dtype}; build it from the environment's obs_space")
        is_first, is_last = np.asarray(step.is_first, bool), np.asarray(step.is_last, bool)
        is_terminal = np.asarray(step.is_terminal, bool)
        vectors = dict(action=action, reward=reward, is_first=is_first, is_last=is_last,
                       is_terminal=is_terminal)
        for name, array in vectors.items():
            if array.shape != (self.num_envs,):
                raise ValueError(f"replay: {name} must be ({self.num_envs},), got {array.shape}; "
                                 "give one value per environment")
        chosen = np.where(is_last, 0, action)
        if action.dtype.kind not in "iu" or chosen.min() < 0 or chosen.max() >= 2**31:
            raise ValueError("replay: action must be integer indices, 0 or more where is_last is False, "
                             f"got {action.dtype} {action}; give the index, not the one-hot")
        action = np.where(is_last, -1, chosen).astype(np.int32)
        flags = (is_first * IS_FIRST + is_last * IS_LAST + is_terminal * IS_TERMINAL).astype(np.uint8)
        if self._store:
            self._store.append(obs, action, reward, flags)
        rows = self._ring_starts + self._steps % self.capacity
        self._obs[rows], self._action[rows] = obs, action
        self._reward[rows], self._flags[rows] = reward, flags
        self._steps += 1

    def sample(self, batch_size: int, length: int) -> Batch:
        """Draw `batch_size` windows of `length` steps, uniformly and with replacement.

        Raises ValueError if a window of that length can never fit, RuntimeError if too few steps are stored.
        """
        if batch_size < 1 or not 1 <= length <= self.capacity:
            raise ValueError(f"replay: needs batch_size >= 1 and 1 <= length <= {self.capacity} (steps kept "
                             f"per environment), got {batch_size} and {length}; raise --replay.capacity")
        per_env = self.windows(length) // self.num_envs
        if not per_env:
            held = len(self) // self.num_envs
            raise RuntimeError(f"replay: a window needs {length} steps per environment, but only {held} are "
                               f"stored; add at least {length - held} more before sampling")
        env, start = np.divmod(self._rng.integers(0, self.num_envs * per_env, batch_size), per_env)  # (B,)
        index = self._oldest + start + np.arange(length)[:, None]  # (T, B)
        rows = env * self.capacity + index % self.capacity
        flags = self._flags[rows]
        is_first = (flags & IS_FIRST) != 0
        is_first[0] = True
        return Batch(obs=np.take(self._obs, rows, axis=0), action=self._action[rows].astype(np.int64),
                     reward=self._reward[rows], is_first=is_first, is_last=(flags & IS_LAST) != 0,
                     is_terminal=(flags & IS_TERMINAL) != 0)

    def flush(self) -> dict[str, Any]:
        """Make every stored step durable and return the JSON-able manifest that `restore` takes.

        Call it once per checkpoint: chunks that none of the last three manifests needs are deleted. Raises
        RunError if the disk fails.
        """
        if self._store:
            return self._store.flush(self._oldest)
        return {"steps": self._steps, "chunks": None}

    def restore(self, manifest: dict[str, Any] | None) -> None:
        """Make memory and disk what they were when `flush` returned `manifest`; None: empty, old chunks go.

        Steps appended after that flush are cut off. Everything is verified first: on a RunError (a chunk
        missing, damaged or of another shape; a damaged manifest) the files are as before, memory is empty.
        """
        self._steps = self._floor = 0
        if self._store is None:
            if manifest is not None:
                raise RunError("this replay lives in memory only and cannot be restored. Give it the run's "
                               "replay directory, or start anew with another --logdir.")
            return
        index = Index(0, 0, []) if manifest is None else self._store.parse(manifest)
        oldest = max(index.oldest, index.steps - self.capacity)
        for records in self._store.read(index):
            self._fill(records[max(0, oldest - int(records["index"][0])):])
        self._store.rewind(index)
        self._steps, self._floor = index.steps, index.oldest

    def rng_state(self) -> dict[str, Any]:
        """JSON-able state of the sampling generator."""
        return self._rng.bit_generator.state

    def set_rng_state(self, state: dict[str, Any]) -> None:
        """Go on sampling from a state that `rng_state` gave; raises RunError for anything else."""
        generator = np.random.PCG64(0)
        try:
            generator.state = state
            if generator.state != state:
                raise ValueError("values out of range")
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise RunError(f"the checkpoint's replay generator state is damaged ({type(error).__name__}: "
                           f"{error}). Delete that checkpoint to go on from the one before.") from error
        self._rng = np.random.Generator(generator)

    def checksum(self) -> str:
        """Digest of every stored step in order, wherever in the ring it lies; reads the whole replay."""
        digest = hashlib.blake2b(f"{self._oldest} {self._steps}".encode(), digest_size=16)
        for env in range(self.num_envs):
            for array in (self._obs, self._action, self._reward, self._flags):
                for ring, _ in self._spans(env, self._oldest, self._steps - self._oldest):
                    digest.update(np.ravel(array[ring]).view(np.uint8))
        return digest.hexdigest()

    def close(self) -> None:
        """Close the chunk file; steps added since the last flush are not durable."""
        if self._store:
            self._store.close()

    def _spans(self, env: int, first: int, count: int) -> Iterator[tuple[slice, slice]]:
        """(rows, places in the sequence) of `count` steps from index `first`: two pairs if the ring wraps."""
        done = 0
        while done < count:
            start = (first + done) % self.capacity
            size = min(count - done, self.capacity - start)
            row = env * self.capacity + start
            yield slice(row, row + size), slice(done, done + size)
            done += size

    def _fill(self, records: np.ndarray) -> None:
        """Copy records of consecutive steps to their rows."""
        arrays = dict(obs=self._obs, action=self._action, reward=self._reward, flags=self._flags)
        for env in range(self.num_envs if len(records) else 0):
            for rows, part in self._spans(env, int(records["index"][0]), len(records)):
                for name, array in arrays.items():
                    array[rows] = records[name][part, env]
