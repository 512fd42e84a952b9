"""EnvPool behind a `Backend`: C++ environments on a pool of threads. The only file that imports envpool."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from hdfast.envs.stream import env_seeds
from hdfast.errors import RunError
from hdfast.spaces import ActSpace, ObsSpace


class PoolBackend:
    """`num_envs` environments of one EnvPool id; `convert` turns its batch of observations into (N, *shape).

    EnvPool's synchronous mode is used: rows come in environment order and runs are reproducible for any number of
    threads. `send` returns at once there too; the environments step on their threads until `recv`.
    """

    def __init__(self, pool_id: str, num_envs: int, seed: int, num_threads: int, obs_space: ObsSpace,
                 convert: Callable[[np.ndarray], np.ndarray], *, without: str, **options: Any):
        envpool = _import_envpool(pool_id, without)
        self._pool = envpool.make_gymnasium(
            pool_id,
            num_envs=num_envs,
            batch_size=num_envs,  # synchronous
            num_threads=num_threads or thread_count(num_envs),
            seed=env_seeds(seed, num_envs),  # a single number s would give environment i the seed s + i
            **options,
        )
        self._convert = convert
        self.num_envs = num_envs
        self.obs_space = obs_space
        self.act_space = ActSpace(int(self._pool.action_space.n))

    def reset(self) -> np.ndarray:
        obs, _ = self._pool.reset()
        return self._convert(obs)

    def send(self, action: np.ndarray) -> None:
        self._pool.send(action)

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        obs, reward, terminated, truncated, info = self._pool.recv()
        if "terminated" in info:  # Atari: a game over on the very step of the time limit is flagged truncated alone
            terminated = terminated | (info["terminated"] != 0)
        return self._convert(obs), reward, terminated, truncated

    def close(self) -> None:
        self._pool.close()
        self._pool = None  # the worker threads end with the last reference


def thread_count(num_envs: int) -> int:
    """One thread per environment, at most one per core this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(num_envs, cores)


def _import_envpool(pool_id: str, without: str) -> Any:
    try:
        import envpool
    except (ImportError, OSError) as error:  # OSError: an incomplete installation lacks its asset files
        raise RunError(f"{pool_id} is played by EnvPool, which cannot be imported ({error}); run `pip install envpool`"
                       f", or {without}") from error
    return envpool
