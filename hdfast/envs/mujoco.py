"""What the tasks of dm_control and Meta-World share: images without a screen, and EnvPool's environments of MuJoCo."""

import ctypes
import dataclasses
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from hdfast.config import EnvConfig
from hdfast.envs.actions import actions
from hdfast.envs.atari import channels_last
from hdfast.envs.gate import Fault
from hdfast.envs.gym import gymnasium_backend
from hdfast.envs.pool import library_folder, make_pool
from hdfast.envs.stream import Backend, Parts, Record
from hdfast.errors import ConfigError, RunError
from hdfast.spaces import ObsSpace, Part


class MujocoPool:
    """EnvPool's environments of one task: a pool for states and rewards, and one for images, which plays the same.

    A single pool would give images instead of states, and of a repeated action the last reward alone. All episodes
    end together, after `limit` steps; `absent` are parts of the state that the task does not have.
    """

    def __init__(self, pool_id: str, env: EnvConfig, num_envs: int, seed: int, *, limit: int, camera: int,
                 absent: tuple[str, ...] = (), **options: Any):
        make = partial(make_pool, pool_id, num_envs, seed, env.num_threads, **options,
                       without="play it by its own package: --env.backend mujoco")
        self.num_envs, self._repeat = num_envs, env.action_repeat
        self._states = make(max_episode_steps=limit * self._repeat)
        self.act_space, self._given = actions(self._states.action_space)
        space = self._states.observation_space
        state = {name: Part(name, found.shape or (1,), "float32")  # their bounds are wrong
                 for name, found in getattr(space, "spaces", {"vector": space}).items() if name not in absent}
        size = env.size
        parts = observed(env.observe, state, lambda: Part("image", (size, size, 3), "uint8"))
        self.obs_space = ObsSpace(tuple(parts.values()))
        self._images = None
        if "image" in parts:
            check_egl(next(map(str, library_folder().glob("libEGL*")), "libEGL.so.1"), ctypes.RTLD_GLOBAL)
            self._images = make(max_episode_steps=limit, from_pixels=True, render_width=size, render_height=size,
                                render_camera_id=camera,  # one that is not there would end the process
                                frame_skip=self._states.config["frame_skip"] * self._repeat)  # steps of the physics

    def reset(self) -> Parts:
        self._over = False
        return self._parts(self._states.reset()[0], self._images and self._images.reset()[0])

    def send(self, action: np.ndarray) -> None:
        self._action = self._given(action)
        self._states.send(self._action)
        if self._images:
            self._images.send(self._action)

    def recv(self) -> Record:
        total: Any = 0
        for left in reversed(range(1 if self._over else self._repeat)):
            state, reward, terminated, truncated, info = self._states.recv()
            total = total + reward
            if left:
                self._states.send(self._action)
        self._over = bool((terminated | truncated).any())
        images = None
        if self._images:
            images, last, *_ = self._images.recv()
            if not np.array_equal(last, reward):
                raise Fault("was drawn in another state than it was played in; play it by its own package: "
                            "--env.backend mujoco")
        return Record(self._parts(state, images), total, terminated, truncated,
                      info["success"] > 0 if "success" in info else None)

    def close(self) -> None:
        self._states = self._images = None  # worker threads end with the last reference

    def _parts(self, state: Any, images: np.ndarray | None) -> Parts:
        state = state if isinstance(state, dict) else {"vector": state}
        return {part.name: channels_last(images) if part.is_image and images is not None else
                state[part.name].reshape(self.num_envs, -1).astype(np.float32) for part in self.obs_space.parts}


def package_backend(task: str, make: Any, env: EnvConfig, num_envs: int, seed: int, limit: int) -> Backend:
    """The environments of a package, always in processes of their own: what draws there belongs to the thread that made
    it, and gets along with no other libEGL."""
    make.__qualname__ = task
    env = dataclasses.replace(env, max_episode_steps=limit, workers=env.workers or 1)
    return gymnasium_backend(make, env, num_envs, seed)


def observed(observe: str, state: dict[str, Any], image: Callable[[], Any]) -> dict[str, Any]:
    """The parts by the setting env.observe: those of the state, then 'image'."""
    return (state if observe != "image" else {}) | ({"image": image()} if observe != "state" else {})


def camera_of(env: EnvConfig, own: int, count: int) -> int:
    """The number of the camera by the setting env.camera; ConfigError if the task has no such one."""
    if env.camera >= count:
        raise ConfigError(f"env.camera must be from 0 to {count - 1} for this task, got {env.camera}; -1 is its own")
    return own if env.camera < 0 else env.camera


def load_renderer() -> None:
    """Let the packages draw without a screen, by libEGL unless the variable MUJOCO_GL says otherwise."""
    if os.environ.setdefault("MUJOCO_GL", "egl") == "egl":
        check_egl("libEGL.so.1")


def check_egl(library: str, mode: int = ctypes.RTLD_LOCAL) -> None:
    """Load a libEGL; RunError if it cannot draw, where EnvPool would end the process.

    EnvPool draws with its own, if that is loaded with RTLD_GLOBAL, and crashes with another one loaded so.
    """
    try:
        egl = ctypes.CDLL(library, mode)
        egl.eglGetProcAddress.restype = ctypes.c_void_p
        query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))(
            egl.eglGetProcAddress(b"eglQueryDevicesEXT"))
        count = ctypes.c_int()
        if not query(0, None, ctypes.byref(count)) or not count.value:
            raise OSError("it has no driver")
    except OSError as error:
        raise RunError(f"images of MuJoCo are drawn by libEGL, which cannot be used here ({error}); on Debian or "
                       "Ubuntu run `apt-get install -y libegl1 libegl-mesa0 libgl1-mesa-dri`, or take the state: "
                       "--env.observe state") from error
