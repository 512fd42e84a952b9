"""Environments: `make_envs(task, config.env)` gives the same protocol, no matter which library plays the game."""

import dataclasses
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from hdfast.config import EnvConfig, check_settings, checked
from hdfast.envs.stream import Backend, Step, Stream, VectorEnv, env_seeds
from hdfast.errors import ConfigError
from hdfast.spaces import ActSpace, ObsSpace
from hdfast.tasks import canonical_task

__all__ = ["ActSpace", "ObsSpace", "Step", "VectorEnv", "from_gymnasium", "make_envs"]


def make_envs(task: str | Callable[..., Any], env: EnvConfig, *, num_envs: int | None = None,
              seed: int = 0) -> VectorEnv:
    """Make `num_envs` (by default env.num_envs) environments of a task in any spelling.

    The same task, settings and seed replay the same episodes under the same actions; nearby seeds share nothing.
    Raises ConfigError for an unknown task, a setting out of bounds or not the task's, RunError if the library is not
    installed or an environment cannot be made.
    """
    if not isinstance(env, EnvConfig):
        raise TypeError(f"env must be an EnvConfig, got {type(env).__name__}; pass config.env")
    task = canonical_task(task)
    env = EnvConfig(**{name: checked(f"env.{name}", value) for name, value in dataclasses.asdict(env).items()})
    check_settings(task, env)
    num_envs = checked("env.num_envs", env.num_envs if num_envs is None else num_envs)
    endless = task.startswith(("dmc_", "metaworld_"))  # a cut is no end there, officially

    def make(seed: int) -> Any:
        backend = _backend(task, env, num_envs, seed)
        if env.background == "none":
            return backend
        from hdfast.envs.background import BackgroundBackend
        return BackgroundBackend(backend, env.background, env_seeds(seed, num_envs), blue=task.startswith("dmc_"))

    return Stream(make, checked("seed", seed), name=task,
                  terminal_on_limit=env.terminal_on_limit and not endless, timeout=env.timeout)


def from_gymnasium(make: Callable[[], Any], *, num_envs: int = 1, size: int | tuple[int, int] | None = None,
                   seed: int = 0, terminal_on_limit: bool = True, timeout: float = 60.0) -> VectorEnv:
    """`num_envs` Gymnasium environments, each made by a call of `make`.

    Observations: uint8 images (h, w) or (h, w, c), c <= 4, area-resized to `size` (None keeps their own; an agent wants
    a square one with a side of 8, 16, 32, 64 or 128); numeric vectors as float32; discrete ones one-hot; a Dict of
    these. Actions: Discrete, MultiDiscrete, MultiBinary, a Box of floats. Time limits are the environment's own
    wrappers. Raises ConfigError for other spaces; an exception of `make` comes through. If an environment raises, takes
    more than `timeout` seconds (0: no limit) for a step, or returns what its spaces do not allow or a number that is
    not finite, its step raises EnvError.
    """
    from hdfast.envs.gym import GymnasiumBackend
    return Stream(lambda seed: GymnasiumBackend(make, env_seeds(seed, num_envs), size), seed,
                  name="the Gymnasium environment", terminal_on_limit=terminal_on_limit, timeout=timeout)


def resolved_backend(name: str, family: str = "atari") -> str:
    """envpool, or ale or mujoco: what plays a family of tasks on this machine by the setting env.backend."""
    other = "ale" if family == "atari" else "mujoco"
    if name not in ("auto", "envpool", other):
        raise ConfigError(f"env.backend {name} plays no {family}_ tasks; take envpool or {other}")
    return name if name != "auto" else "envpool" if find_spec("envpool") else other


def _backend(task: str, env: EnvConfig, num_envs: int, seed: int) -> Backend:
    family, _, rest = task.partition("_")
    if family in ("gym", "env"):
        from hdfast.envs.gym import gymnasium_backend, named, registered
        return gymnasium_backend((registered if family == "gym" else named)(rest), env, num_envs, seed)
    if family == "dmc":
        from hdfast.envs.dmc import dmc_backend
        return dmc_backend(task, env, num_envs, seed, resolved_backend(env.backend, family))
    if family == "metaworld":
        from hdfast.envs.metaworld import metaworld_backend
        return metaworld_backend(task, env, num_envs, seed, resolved_backend(env.backend, family))
    if family == "atari" and resolved_backend(env.backend) == "ale":
        from hdfast.envs.ale import ale_backend
        return ale_backend(task, env, num_envs, seed)
    if family == "atari":
        from hdfast.envs.atari import atari_backend
        return atari_backend(task, env, num_envs, seed)
    if family == "catch":
        from hdfast.envs.catch import catch_backend
        return catch_backend(task, env, num_envs, seed)
    if family == "pendulum":
        from hdfast.envs.pendulum import PendulumBackend
        return PendulumBackend(num_envs, seed, size=None if task == "pendulum_vector" else env.size)
    from hdfast.envs.dummy import DummyBackend
    return DummyBackend(num_envs, seed, size=None if task == "dummy_vector" else env.size,
                     channels=1 if env.grayscale else 3)
