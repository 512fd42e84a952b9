"""What the backends of the libraries share: a vector environment of theirs behind the protocol of `stream`."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from hdfast.envs.stream import Parts, Record
from hdfast.spaces import ActSpace, ObsSpace

Convert = Callable[[Any, np.ndarray], Parts]


class VectorBackend:
    """`num_envs` environments of a library, which resets those that are over in the next step.

    `convert(obs, fresh)` turns the library's batch of observations into parts; fresh (N,) bool are the first ones
    of an episode. `first` are arguments of the first reset; later ones continue the same random streams.
    """

    def __init__(self, envs: Any, num_envs: int, obs_space: ObsSpace, act_space: ActSpace, convert: Convert,
                 **first: Any):
        self._envs, self._convert, self._first = envs, convert, first
        self.num_envs, self.obs_space, self.act_space = num_envs, obs_space, act_space

    def reset(self) -> Parts:
        obs, _ = self._envs.reset(**self._first)
        self._first, self._over = {}, np.zeros(self.num_envs, bool)
        return self._convert(obs, ~self._over)

    def send(self, action: np.ndarray) -> None:
        self._envs.send(action)

    def recv(self) -> Record:
        found = self._received()
        fresh, self._over = self._over, found.terminated | found.truncated
        return found._replace(obs=self._convert(found.obs, fresh))

    def close(self) -> None:
        self._envs.close()
        self._envs = None  # worker threads end with the last reference

    def _received(self) -> Record:
        """The step that was sent, observations as the library has them."""
        return Record(*self._envs.recv()[:4])


def thread_count(num_envs: int) -> int:
    """One thread per environment, at most one per core this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(num_envs, cores)
