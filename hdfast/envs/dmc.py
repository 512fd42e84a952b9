"""Tasks of the DeepMind Control Suite, through EnvPool or through the package dm_control."""

import dataclasses
from functools import partial
from typing import Any

import numpy as np

from hdfast.config import EnvConfig
from hdfast.envs.mujoco import MujocoPool, camera_of, load_renderer, observed, package_backend
from hdfast.envs.stream import Backend
from hdfast.errors import ConfigError, RunError, nearest
from hdfast.tasks import camel_case

EPISODE = 1000  # control steps

_CAMERAS = {"dog_fetch": 4, "fish": 5, "humanoid": 3, "quadruped": 4, "swimmer": 3}
"""How many there are, where it is not 2."""

_ABSENT = {"dog_fetch": "", "dog": "ball_state target_position", "finger_spin": "target_position dist_to_target",
           "fish_upright": "target", "humanoid_run_pure": "joint_angles head_height extremities torso_vertical "
           "com_velocity", "humanoid_CMU": "", "humanoid": "position", "quadruped_escape": "ball_state target_position",
           "quadruped_fetch": "origin rangefinder", "quadruped": "origin rangefinder ball_state target_position"}
"""What EnvPool's states have for another task of the domain; it is always 0."""


def dmc_backend(task: str, env: EnvConfig, num_envs: int, seed: int, backend: str) -> Backend:
    """`dmc_<domain>_<task>`: an action is played env.action_repeat times, rewards add up; cut after 1000 control steps.

    A true end is one with discount 0, which only the tasks of the domain lqr have.
    """
    name = task.removeprefix("dmc_")
    limit = env.max_episode_steps or -(-EPISODE // env.action_repeat)
    camera = camera_of(env, 2 if name.startswith("quadruped") else 0, _of(name, _CAMERAS, 2))
    if backend == "mujoco":
        make = partial(Suite, name, env.observe, env.size, camera, env.action_repeat)
        return package_backend(task, make, dataclasses.replace(env, action_repeat=1), num_envs, seed, limit)
    if name.startswith("lqr") and env.action_repeat > 1:
        raise ConfigError(f"env.action_repeat {env.action_repeat} is more than EnvPool can do for {task}, which may "
                          "end at any moment; take 1, or --env.backend mujoco")
    return MujocoPool(f"{camel_case(name)}-v1", env, num_envs, seed, limit=limit, camera=camera,
                      absent=tuple(_of(name, _ABSENT, "").split()))


class Suite:
    """A task of dm_control as a Gymnasium environment, which plays every action `repeat` times and draws once."""

    def __init__(self, name: str, observe: str, size: int, camera: int, repeat: int):
        from gymnasium.spaces import Box, Dict
        load_renderer()
        try:
            from dm_control import suite
        except (ImportError, AttributeError) as error:  # AttributeError: a version of MuJoCo that is too new for it
            raise RunError(f"dmc_{name} with --env.backend mujoco needs dm_control, which cannot be imported "
                           f"({error}); run `pip install hdfast[dmc]`, or use EnvPool: --env.backend envpool"
                           ) from error
        tasks = {f"{domain}_{task}": (domain, task) for domain, task in suite.ALL_TASKS}
        if name not in tasks:
            raise ConfigError(f"dm_control has no task '{name}'{nearest(name, tasks)}")
        self._env = suite.load(*tasks[name])
        self._observe, self._repeat = observe, repeat
        self._image = partial(self._env.physics.render, size, size, camera_id=camera)
        state = {key: Box(-np.inf, np.inf, spec.shape, spec.dtype)
                 for key, spec in self._env.observation_spec().items()}
        parts = observed(observe, state, lambda: Box(0, 255, (size, size, 3), np.uint8))
        self.observation_space = Dict(list(parts.items()))
        spec = self._env.action_spec()
        self.action_space = Box(spec.minimum, spec.maximum, dtype=spec.dtype.type)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict]:
        if seed is not None:
            self._env.task.random.seed(seed)
        return self._see(self._env.reset()), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict]:
        reward = 0.0
        for _ in range(self._repeat):
            step = self._env.step(action)
            reward += step.reward
            if step.last():
                break
        terminated = step.last() and step.discount == 0
        return self._see(step), reward, terminated, step.last() and not terminated, {}

    def close(self) -> None:
        self._env.physics.free()

    def _see(self, step: Any) -> dict[str, Any]:
        return observed(self._observe, step.observation, self._image)


def _of(name: str, table: dict[str, Any], other: Any) -> Any:
    """The entry for the first beginning of the name."""
    return next((value for start, value in table.items() if name.startswith(start)), other)
