"""Sequence replay: uniform over all windows of the last steps, in memory of a chosen device, mirrored to disk.

Follows the official Atari 100K protocol: a window starts at every stored step (stride 1), runs across episode
ends, is drawn with replacement, and begins with is_first = True in the batch.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hdfast.errors import RunError
from hdfast.replay.ring import FLAG_BITS, Batch, Ring, Staging
from hdfast.replay.store import CHUNK_BYTES, ChunkStore, Index
from hdfast.spaces import ActSpace, ObsSpace

if TYPE_CHECKING:
    from hdfast.envs import Step


class Replay:
    """The last `capacity // num_envs` steps of each of `num_envs` environments; the oldest go first.

    Memory is reserved at once on `device`; batches are on `learner`, by default the same. `directory` keeps the
    steps on disk as well (None: memory only); with one, call `restore` before the first `add`. `seed` starts the
    sampling generator. `threads` gather a batch if it has to change devices.
    """

    def __init__(self, capacity: int, num_envs: int, obs_space: ObsSpace, act_space: ActSpace, *,
                 directory: Path | None, seed: int, device: torch.device | str = "cpu",
                 learner: torch.device | None = None, threads: int = 1, chunk_bytes: int = CHUNK_BYTES):
        if num_envs < 1 or capacity < num_envs:
            raise ValueError("replay: capacity must be at least one step per environment, got capacity "
                             f"{capacity} for {num_envs} environments; raise --replay.capacity")
        self.num_envs = num_envs
        self.capacity = capacity // num_envs  # steps per environment
        self._obs_space, self._act_space = obs_space, act_space
        self.ring = Ring(self.capacity, num_envs, obs_space, act_space, device)
        self.rng = torch.Generator(self.ring.device).manual_seed(seed)
        learner = self.ring.device if learner is None else learner
        self._staging = None if learner.type == self.ring.device.type else Staging(learner, threads)
        self._steps = 0  # per environment, evicted ones included
        self._floor = 0  # number of the first step ever in these rings
        self._store = None if directory is None else \
            ChunkStore(directory, num_envs, obs_space, act_space, chunk_bytes=chunk_bytes)

    @property
    def capturable(self) -> bool:
        """Whether `sample` may be part of a CUDA graph, with `rng` registered; else call it before each replay."""
        return self._staging is None

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
        """Store one record per environment: the step and the action (N, ...) chosen after seeing it, which is stored
        encoded, as zeros where is_last.

        Raises ValueError for a wrong shape, dtype or action, RunError if the disk fails; the replay is then as before.
        """
        if said := self._misfit(step.obs):
            raise ValueError(f"replay: {said}; build it from the environment's obs_space")
        obs = {part.name: np.ascontiguousarray(step.obs[part.name]) for part in self._obs_space.parts}
        space = self._act_space
        reward = np.asarray(step.reward, np.float32)
        marks = {name: np.asarray(getattr(step, name), bool) for name in FLAG_BITS}
        for name, array in {"reward": reward, **marks}.items():
            if array.shape != (self.num_envs,):
                raise ValueError(f"replay: {name} must be ({self.num_envs},), got {array.shape}; "
                                 "give one value per environment")
        action, goes_on = np.asarray(action), ~marks["is_last"]
        if (action.shape != (self.num_envs, *space.shape) or action.dtype.kind not in ("iu" if space.sizes else "f")
                or space.wrong(action[goes_on]).any()):
            raise ValueError(f"replay: action must be {(self.num_envs, *space.shape)} {space.dtype} of {space}, got "
                             f"{action.shape} {action.dtype} {action}; give it as the environments take it")
        code = space.encode(action)
        code[~goes_on] = 0
        flags = sum(marks[name] * bit for name, bit in FLAG_BITS.items()).astype(np.uint8)
        if self._store:
            self._store.append(obs, code, reward, flags)
        self.ring.write(self._steps, obs, code, reward, flags)
        self._steps += 1

    def _misfit(self, obs: Mapping[str, np.ndarray]) -> str:
        """How observations differ from those of the space, in words; empty if they do not."""
        want = {part.name: ((self.num_envs, *part.shape), np.dtype(part.dtype)) for part in self._obs_space.parts}
        have = {name: (x.shape, x.dtype) for name, x in obs.items()}
        return "" if have == want else "obs must be " + ", got ".join(
            ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in one.items()) for one in (want, have))

    def expect(self, step: "Step") -> None:
        """Announce the next step of `add`: its frames go to the device while that computes.

        Do not sample before adding it.
        """
        if not self._misfit(step.obs) and all(x.flags.c_contiguous for x in step.obs.values()):
            self.ring.stage(self._steps, step.obs)

    def sample(self, batch_size: int, length: int, generator: torch.Generator | None = None) -> Batch:
        """Draw `batch_size` windows of `length` steps, uniformly and with replacement, by `rng` or `generator`.

        Reads nothing back from the device. Raises ValueError if a window of that length can never fit, RuntimeError
        if too few steps are stored.
        """
        if batch_size < 1 or not 1 <= length <= self.capacity:
            raise ValueError(f"replay: needs batch_size >= 1 and 1 <= length <= {self.capacity} (steps kept "
                             f"per environment), got {batch_size} and {length}; raise --replay.capacity")
        if not self.windows(length):
            held = len(self) // self.num_envs
            raise RuntimeError(f"replay: a window needs {length} steps per environment, but only {held} are "
                               f"stored; add at least {length - held} more before sampling")
        u = torch.rand(batch_size, dtype=torch.float64, generator=generator or self.rng, device=self.ring.device)
        batch = self.ring.windows(u, length)
        return batch if self._staging is None else self._staging.bring(batch)

    def flush(self) -> dict[str, Any]:
        """Make every stored step durable and return the JSON-able manifest that `restore` takes.

        Call it once per checkpoint: chunks that none of the last three manifests needs are deleted. Raises
        RunError if the disk fails.
        """
        if self._store:
            return self._store.flush(self._oldest)
        return {"steps": self._steps, "chunks": None}

    def restore(self, manifest: dict[str, Any] | None) -> None:
        """Make memory and disk what they were when `flush` returned `manifest`; None empties both.

        Steps appended after that flush are cut off. It verifies everything first: on a RunError (a chunk
        missing, damaged or of another shape; a damaged manifest) the files are as before, memory is empty.
        """
        self._steps = self._floor = 0
        self.ring.clear(0)
        if self._store is None:
            if manifest is not None:
                raise RunError("this replay is in memory only and cannot be restored. Give it the run's "
                               "replay directory, or start a new run with another --logdir.")
            return
        index = Index(0, 0, []) if manifest is None else self._store.parse(manifest)
        oldest = max(index.oldest, index.steps - self.capacity)
        for first, *columns in self._store.read(index):
            self._fill(first, *columns, skip=max(0, oldest - first))
        self._store.rewind(index)
        self._steps, self._floor = index.steps, index.oldest
        self.ring.floor.fill_(index.oldest)

    def checksum(self) -> str:
        """Digest of every stored step in order, independent of its place in the ring; reads the whole replay."""
        digest = hashlib.blake2b(f"{self._oldest} {self._steps}".encode(), digest_size=16)
        for part in (*self.ring.obs.values(), self.ring.meta):
            for places, _ in self.ring.spans(self._oldest, self._steps - self._oldest):
                digest.update(part[places].cpu().numpy())
        return digest.hexdigest()

    def close(self) -> None:
        """Close the chunk file; steps added since the last flush are not durable."""
        if self._store:
            self._store.close()

    def _fill(self, first: int, obs: Mapping[str, np.ndarray], *columns: np.ndarray, skip: int) -> None:
        """Copy consecutive steps, number `first` and so on, to their places, without the first `skip`."""
        count = len(columns[0]) - skip
        for _, part in self.ring.spans(first + skip, max(0, count)):
            here = slice(part.start + skip, part.stop + skip)
            self.ring.write(first + here.start, {name: x[here].copy() for name, x in obs.items()},
                            *(x[here].copy() for x in columns))
