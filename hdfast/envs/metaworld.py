"""Tasks of Meta-World, version 3, through EnvPool or through the package metaworld."""

from functools import partial
from typing import Any

import numpy as np

from hdfast.config import EnvConfig
from hdfast.envs.mujoco import MujocoPool, camera_of, load_renderer, observed, package_backend
from hdfast.envs.stream import Backend
from hdfast.errors import ConfigError, RunError, nearest
from hdfast.tasks import camel_case

EPISODE = 500  # steps
CORNER, CAMERAS = 1, 7  # top view, corner, three more corners, behind the gripper, the gripper's own


def metaworld_backend(task: str, env: EnvConfig, num_envs: int, seed: int, backend: str) -> Backend:
    """`metaworld_<name>`: cut after 500 steps, never a true end; objects and goal are elsewhere in every episode.

    The state shows the goal. Records say whether a step of the episode was a success.
    """
    name = task.removeprefix("metaworld_")
    limit, camera = env.max_episode_steps or EPISODE, camera_of(env, CORNER, CAMERAS)
    if backend == "mujoco":
        make = partial(Robot, name, env.observe, env.size, camera)
        return package_backend(task, make, env, num_envs, seed, limit)
    words, version = name.rsplit("-", 1)
    return MujocoPool(f"MetaWorld/{camel_case(words)}-{version}", env, num_envs, seed, limit=limit, camera=camera,
                      partially_observable=False)


class Robot:
    """A task of metaworld as a Gymnasium environment that draws its images itself."""

    def __init__(self, name: str, observe: str, size: int, camera: int):
        from gymnasium.spaces import Box, Dict
        load_renderer()
        try:
            from metaworld.env_dict import ALL_V3_ENVIRONMENTS as TASKS
        except (ImportError, AttributeError) as error:  # AttributeError: a version of MuJoCo that is not its own
            raise RunError(f"metaworld_{name} with --env.backend mujoco needs metaworld, which cannot be imported "
                           f"({error}); run `pip install hdfast[metaworld]`, or use EnvPool: --env.backend envpool"
                           ) from error
        if name not in TASKS:
            raise ConfigError(f"metaworld has no task '{name}'{nearest(name, TASKS)}")
        self._env: Any = TASKS[name](render_mode="rgb_array", camera_id=camera, width=size, height=size)
        self._env._set_task_called = self._env.seeded_rand_vec = True
        self._env._freeze_rand_vec = self._env._partially_observable = False
        del self._env.sawyer_observation_space  # created again, with the goal
        self._observe, self.action_space = observe, self._env.action_space
        state: dict[str, Any] = {"vector": self._env.sawyer_observation_space}
        parts = observed(observe, state, lambda: Box(0, 255, (size, size, 3), np.uint8))
        self.observation_space = Dict(list(parts.items()))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict]:
        if seed is not None:
            self._env.seed(seed)
        return self._see(self._env.reset()[0]), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict]:
        state, *rest = self._env.step(action)
        return (self._see(state), *rest)

    def close(self) -> None:
        self._env.close()

    def _see(self, state: np.ndarray) -> dict[str, Any]:
        return observed(self._observe, {"vector": state}, self._env.render)
