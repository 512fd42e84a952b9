"""Any Gymnasium environment with discrete actions behind the common protocol. The only file that imports gymnasium."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hdfast.envs.stream import Record, env_seeds
from hdfast.envs.vector import Convert, VectorBackend
from hdfast.errors import ConfigError, RunError
from hdfast.spaces import ActSpace, ObsSpace

MakeEnv = Callable[[], Any]  # a function that returns a gymnasium.Env


class GymnasiumBackend(VectorBackend):
    """Gymnasium's SyncVectorEnv, stepped in `recv`, which `Stream` calls on a thread of its own: environments and
    resizing run beside the caller while they release the interpreter lock.

    Images become (size, size, c), or keep their own size if it is None.
    """

    def __init__(self, make: MakeEnv, num_envs: int, size: int | tuple[int, int] | None, seed: int):
        from gymnasium.vector import AutoresetMode, SyncVectorEnv
        if not callable(make):
            raise TypeError(f"make must be a function that returns a Gymnasium environment, got "
                            f"{type(make).__name__}; write lambda: gymnasium.make(...)")
        size = (size, size) if isinstance(size, int) else size
        if num_envs < 1 or (size is not None and min(size) < 1):
            raise ConfigError(f"num_envs and size must be at least 1, got num_envs={num_envs}, size={size}; "
                              "size=None keeps the environment's own image size")
        self.current = 0  # the environment at work
        envs = SyncVectorEnv([self._telling(make, i) for i in range(num_envs)], autoreset_mode=AutoresetMode.NEXT_STEP)
        obs_space, convert = _observations(envs.single_observation_space, size)
        act_space, self._first_action = _actions(envs.single_action_space)
        super().__init__(envs, num_envs, obs_space, act_space, convert, seed=env_seeds(seed, num_envs))

    def send(self, action: np.ndarray) -> None:
        self._action = action + self._first_action

    def _received(self) -> Record:
        return self._envs.step(self._action)[:4]

    def _telling(self, make: MakeEnv, index: int) -> MakeEnv:
        """`make`, of an environment that reports to the backend when it is at work."""
        from gymnasium import Wrapper
        backend = self

        class Telling(Wrapper):
            def reset(self, **kwargs: Any) -> Any:
                backend.current = index
                return self.env.reset(**kwargs)

            def step(self, action: Any) -> Any:
                backend.current = index
                return self.env.step(action)

        return lambda: Telling(make())


def registered(env_id: str) -> MakeEnv:
    """A function that makes the registered environment `env_id`; ConfigError or RunError if that fails."""
    import gymnasium

    def make() -> Any:
        try:
            return gymnasium.make(env_id)
        except gymnasium.error.DependencyNotInstalled as error:
            raise RunError(f"Gymnasium's '{env_id}' needs a package that is not installed: {error}") from error
        except (gymnasium.error.Error, ImportError) as error:
            raise ConfigError(f"Gymnasium cannot make '{env_id}': {error}; an environment of another package is named "
                              "gym_<module>:<id>") from error
        except (Exception, SystemExit) as error:  # the constructor is a user's code and may raise anything
            raise RunError(f"Gymnasium cannot make '{env_id}': {type(error).__name__}: {error}; fix the environment, "
                           "or choose another --task") from error

    return make


def _observations(space: Any, size: tuple[int, int] | None) -> tuple[ObsSpace, Convert]:
    """Our observation space, and the function that turns a batch of theirs into ours."""
    from gymnasium.spaces import Box, Discrete
    if isinstance(space, Discrete):
        values = np.arange(space.start, space.start + space.n)
        return ObsSpace(values.shape, "float32"), lambda obs, _: (obs[:, None] == values).astype(np.float32)
    if isinstance(space, Box) and len(space.shape) <= 1:
        shape = space.shape or (1,)
        return ObsSpace(shape, "float32"), lambda obs, _: obs.astype(np.float32).reshape(-1, *shape)
    if isinstance(space, Box) and space.dtype == np.uint8 and (*space.shape, 1)[2] <= 4 and len(space.shape) <= 3:
        height, width, channels = (*space.shape, 1)[:3]
        out = (*(size or (height, width)), channels)
        if out == (height, width, channels):
            return ObsSpace(out, "uint8"), lambda obs, _: obs.reshape(-1, *out)
        down, across = area_weights(height, out[0]), area_weights(width, out[1])
        given = (-1, height, width, channels)
        return ObsSpace(out, "uint8"), lambda obs, _: area_resize(obs.reshape(given), down, across)
    raise ConfigError(f"observations must be uint8 images (h, w) or (h, w, c) with c <= 4, vectors, or Discrete; got "
                      f"{space}; convert them with a Gymnasium wrapper such as FlattenObservation or "
                      "TransformObservation")


def _actions(space: Any) -> tuple[ActSpace, int]:
    """Our action space, and the number of its first action in theirs."""
    from gymnasium.spaces import Discrete
    if not isinstance(space, Discrete):
        raise ConfigError(f"actions must be Discrete, got {space}; choose a discrete variant of the environment (as "
                          "continuous=False) or map its actions with a Gymnasium wrapper such as TransformAction")
    return ActSpace(int(space.n)), int(space.start)


def area_weights(n_in: int, n_out: int) -> np.ndarray:
    """(n_out, n_in) float32: the share of every input cell in each output cell of an area resize."""
    edge = np.arange(n_out + 1) * (n_in / n_out)
    cell = np.arange(n_in)
    overlap = np.minimum(edge[1:, None], cell + 1) - np.maximum(edge[:-1, None], cell)
    return (overlap.clip(0) * (n_out / n_in)).astype(np.float32)


def area_resize(image: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """(N, h, w, c) uint8 -> (N, h', w', c) uint8 with the weights (h', h) and (w', w) of `area_weights`."""
    n, height, width, channels = image.shape
    rows = down @ image.reshape(n, height, width * channels).astype(np.float32)
    out = across @ rows.reshape(n, len(down), width, channels)
    return np.rint(out).clip(0, 255).astype(np.uint8)
