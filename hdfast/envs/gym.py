"""Any Gymnasium environment behind the common protocol. The only file that makes one."""

import importlib
import json
import operator
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from hdfast.config import EnvConfig
from hdfast.envs.actions import actions
from hdfast.envs.gate import Gate
from hdfast.envs.stream import Parts, Record, env_seeds
from hdfast.errors import ConfigError, RunError
from hdfast.spaces import Discrete
from hdfast.tasks import MADE_HERE

DRAWN = tuple(f"gymnasium.envs.{family}" for family in ("classic_control", "toy_text", "box2d"))
"""Environments that draw in memory, by pygame: without a screen nothing can go wrong that is no exception."""

MakeEnv = Callable[[], Any]  # a function that returns a gymnasium.Env
One = tuple[Parts, float, bool, bool, bool | None]  # observation, reward, terminated, truncated, success of one


class GymnasiumBackend:
    """Environments made where this is made, and stepped one after another in `recv`, which `Stream` calls on a thread
    of its own: they run beside the caller while they release the interpreter lock.

    An episode is cut after `limit` steps (0: never), and an action is played `repeat` times.
    """

    def __init__(self, make: MakeEnv, seeds: list[int], size: int | tuple[int, int] | None, *, gray: bool = False,
                 limit: int = 0, repeat: int = 1):
        if not callable(make):
            raise TypeError(f"make must be a function that returns a Gymnasium environment, got "
                            f"{type(make).__name__}; write lambda: gymnasium.make(...)")
        self.num_envs = len(seeds)
        if self.num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, got {self.num_envs}")
        self.current = self.progress = 0  # the environment at work, and how many calls have begun
        self._seeds: list[int | None] = [*seeds]
        self._limit, self._repeat = limit, repeat
        self._envs: list[Any] = []
        try:
            for _ in seeds:
                self._envs.append(_environment(make))
                first, env = self._envs[0], self._envs[-1]
                if (env.observation_space, env.action_space) != (first.observation_space, first.action_space):
                    raise ConfigError(f"all environments of a run must have the same spaces, got "
                                      f"{first.observation_space}, {first.action_space} and {env.observation_space}, "
                                      f"{env.action_space}; fix the function that makes them")
            self._gate = Gate(first.observation_space, (size, size) if isinstance(size, int) else size, gray)
            self.act_space, self._given = actions(first.action_space)
        except BaseException:
            for env in self._envs:
                with suppress(Exception):  # what went wrong first is reported
                    env.close()
            raise
        self.obs_space = self._gate.space
        self._draws = getattr(first, "render_mode", None) == "rgb_array"
        self._length = np.zeros(self.num_envs, np.int64)
        self._over = np.zeros(self.num_envs, bool)

    def reset(self) -> Parts:
        return together([self.reset_one(i) for i in range(self.num_envs)]).obs

    def send(self, action: np.ndarray) -> None:
        self._action = list(action)

    def recv(self) -> Record:
        return together([self.step_one(i, action) for i, action in enumerate(self._action)])

    def reset_one(self, i: int) -> One:
        """A new episode of environment i."""
        self._begin(i)
        obs = self._gate.observation(self._gate.first(self._envs[i].reset(seed=self._seeds[i])))
        self._seeds[i] = None  # later resets continue the same random stream
        self._length[i], self._over[i] = 0, False
        return obs, 0.0, False, False, None

    def step_one(self, i: int, action: Any) -> One:
        """Environment i after `action`, or after a reset if its episode had ended."""
        if self._over[i]:
            return self.reset_one(i)
        given = self._given(action)
        total, succeeded = 0.0, None
        for _ in range(self._repeat):
            self._begin(i)
            result = self._envs[i].step(int(given) if isinstance(self.act_space, Discrete) else np.array(given))
            obs, reward, terminated, truncated, success = self._gate.step(result)
            total += reward
            if success is not None:
                succeeded = bool(succeeded) or success
            if terminated or truncated:
                break
        self._length[i] += 1
        truncated = truncated or bool(self._length[i] == self._limit)
        self._over[i] = terminated or truncated
        return self._gate.observation(obs), total, terminated, truncated, succeeded

    def picture(self) -> np.ndarray | None:
        """What environment 0 draws of itself, (h, w, 3) uint8; None if it does not, or lacks a package for it."""
        if not self._draws:
            return None
        try:
            found = self._envs[0].render()
        except Exception:  # a film is not worth an evaluation
            found = None
        self._draws = isinstance(found, np.ndarray) and found.dtype == np.uint8 and found.shape[2:] == (3,)
        return found if self._draws else None

    def close(self) -> None:
        for env in self._envs:
            env.close()

    def _begin(self, i: int) -> None:
        self.current, self.progress = i, self.progress + 1


def together(records: list[One]) -> Record:
    """The records of environments, in their order, as one of arrays."""
    obs, reward, terminated, truncated, success = zip(*records, strict=True)
    return Record({name: np.stack([one[name] for one in obs]) for name in obs[0]}, np.array(reward),
                  np.array(terminated), np.array(truncated),
                  None if set(success) == {None} else np.array(success, bool))


def gymnasium_backend(make: Callable[..., Any], env: EnvConfig, num_envs: int, seed: int) -> Any:
    """`num_envs` environments by the settings of a run, in env.workers processes of their own if it is not 0.

    `make` is called with env.kwargs. Raises RunError if it fails, as a constructor may in any way.
    """
    kwargs = json.loads(env.kwargs)

    def made() -> Any:
        try:
            return make(**kwargs)
        except (ConfigError, RunError):
            raise
        except (Exception, SystemExit) as error:
            name = getattr(make, "__qualname__", repr(make))
            raise RunError(f"cannot make {name}: {type(error).__name__}: {error}; fix the environment or env.kwargs, "
                           "or choose another --task") from error

    options: dict[str, Any] = dict(gray=env.grayscale, limit=env.max_episode_steps, repeat=env.action_repeat)
    seeds = env_seeds(seed, num_envs)
    if env.workers:
        from hdfast.envs.processes import ProcessesBackend
        return ProcessesBackend(made, seeds, env.size, workers=min(env.workers, num_envs), **options)
    return GymnasiumBackend(made, seeds, env.size, **options)


def registered(env_id: str) -> Callable[..., Any]:
    """A function that makes the registered environment `env_id`; ConfigError or RunError if that fails.

    The module of <module>:<id> may be in the working directory.
    """
    import gymnasium

    def make(**kwargs: Any) -> Any:
        _working_directory()
        try:
            known = gymnasium.registry.get(env_id)
            if known and str(known.entry_point).startswith(DRAWN):
                kwargs = {"render_mode": "rgb_array"} | kwargs
            return gymnasium.make(env_id, **kwargs)
        except gymnasium.error.DependencyNotInstalled as error:
            raise RunError(f"Gymnasium's '{env_id}' needs a package that is not installed: {error}") from error
        except (gymnasium.error.Error, ImportError) as error:
            raise ConfigError(f"Gymnasium cannot make '{env_id}': {error}; an environment of another package is named "
                              "gym_<module>:<id>, its module installed or in the working directory") from error

    make.__qualname__ = f"'{env_id}'"
    return make


def named(path: str) -> Callable[..., Any]:
    """The class or function `path`, <module>:<name>, as given in this process or imported; ConfigError if neither."""
    if found := MADE_HERE.get(f"env_{path}"):
        return found
    module, _, name = path.partition(":")
    _working_directory()
    try:
        if module == "__main__":
            raise ImportError("the script that started the run defined it")
        return operator.attrgetter(name)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the environments of task env_{path} cannot be made here: {error}; import {name} from a "
                          "module that is installed or in the working directory, or give the function itself: "
                          "hdfast.train(config, envs=make), hdfast.evaluate(agent, envs=make)") from error


def _working_directory() -> None:
    """Let imports find the working directory, last, as `python -m hdfast` does first."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())


def _environment(make: MakeEnv) -> Any:
    env = make()
    for name in ("reset", "step", "close", "observation_space", "action_space"):
        if not hasattr(env, name):
            raise ConfigError(f"the function that makes environments must return a gymnasium.Env, got a "
                              f"{type(env).__name__} without {name}; inherit from gymnasium.Env")
    return env
