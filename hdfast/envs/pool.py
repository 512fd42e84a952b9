"""EnvPool behind a `Backend`: C++ environments on a pool of threads. The only file that imports envpool."""

from pathlib import Path
from typing import Any

import numpy as np

from hdfast.envs.actions import actions
from hdfast.envs.stream import Record, env_seeds
from hdfast.envs.vector import Convert, VectorBackend, thread_count
from hdfast.errors import ConfigError, RunError, nearest
from hdfast.spaces import ObsSpace


class PoolBackend(VectorBackend):
    """Environments of one EnvPool id; the arguments are those of `make_pool` and of `VectorBackend`."""

    def __init__(self, pool_id: str, num_envs: int, seed: int, num_threads: int, obs_space: ObsSpace,
                 convert: Convert, *, without: str, **options: Any):
        pool = make_pool(pool_id, num_envs, seed, num_threads, without=without, **options)
        act_space, self._given = actions(pool.action_space)
        super().__init__(pool, num_envs, obs_space, act_space, convert)

    def send(self, action: np.ndarray) -> None:
        super().send(self._given(action))

    def _received(self) -> Record:
        obs, reward, terminated, truncated, info = self._envs.recv()
        if "terminated" in info:  # Atari: a game over on the very step of the time limit is flagged truncated alone
            terminated = terminated | (info["terminated"] != 0)
        return Record(obs, reward, terminated, truncated)


def make_pool(pool_id: str, num_envs: int, seed: int, num_threads: int, *, without: str, **options: Any) -> Any:
    """EnvPool's environments in its synchronous mode: rows come in environment order and runs are reproducible for any
    number of threads. `send` returns at once there too; the environments step on their threads until `recv`.

    Raises RunError, which says what to do `without` EnvPool, and ConfigError for an id that it does not have.
    """
    try:
        import envpool
    except (ImportError, OSError) as error:  # OSError: an incomplete installation lacks its asset files
        raise RunError(f"{pool_id} is played by EnvPool, which cannot be imported ({error}); run `pip install "
                       f"envpool`, or {without}") from error
    known = envpool.list_all_envs()
    if pool_id not in known:
        raise ConfigError(f"EnvPool has no environment '{pool_id}'{nearest(pool_id, known)}; {without}")
    return envpool.make_gymnasium(
        pool_id,
        num_envs=num_envs,
        batch_size=num_envs,  # synchronous
        num_threads=num_threads or thread_count(num_envs),
        seed=env_seeds(seed, num_envs),  # a single number s would give environment i the seed s + i
        **options,
    )


def library_folder() -> Path:
    """Where EnvPool has the libraries that it brings along: among them the libEGL that it can draw with, unloaded."""
    import envpool
    return Path(envpool.__file__).parents[1] / "envpool.libs"
