"""Pendulum swing-up: Gymnasium's Pendulum-v1 in numpy, seen as a picture or as its state. A learning check."""

import numpy as np

from hdfast.envs.stream import Parts, Record, env_seeds
from hdfast.spaces import Box, ObsSpace

LENGTH = 200  # steps of an episode
STEP, GRAVITY, TORQUE, SPEED = 0.05, 10.0, 2.0, 8.0  # seconds; of a rod of mass and length 1; largest ones


class PendulumBackend:
    """A rod hangs from the center, angle 0 upright; the action in [-1, 1] turns it with that share of the torque.

    reward = -(angle^2 + 0.1 speed^2 + 0.001 torque^2), about -16 to 0, with the angle in -pi..pi; a time limit ends
    episodes after LENGTH steps. With a `size` observations are images (size, size, 1), without one vectors (cos, sin of
    the angle, speed). The speed cannot be seen in one image.
    """

    def __init__(self, num_envs: int, seed: int, *, size: int | None):
        self.num_envs, self._size = num_envs, size
        self.obs_space = ObsSpace.single((3,), "float32") if size is None else ObsSpace.single((size, size, 1), "uint8")
        self.act_space = Box(1)
        self._rngs = [np.random.default_rng(one) for one in env_seeds(seed, num_envs)]
        self._state = np.zeros((num_envs, 2))  # angle, speed
        self._length = np.zeros(num_envs, int)
        if size is not None:
            pixel = (np.arange(size) + 0.5) * 2 / size - 1
            self._points = np.stack(np.meshgrid(pixel, -pixel))

    def reset(self) -> Parts:
        self._begin(np.ones(self.num_envs, bool))
        return self._obs()

    def send(self, action: np.ndarray) -> None:
        over, (angle, speed) = self._length == LENGTH, self._state.T
        torque = TORQUE * np.clip(action[:, 0], -1, 1)
        wrapped = (angle + np.pi) % (2 * np.pi) - np.pi
        self._reward = np.where(over, 0, -(wrapped**2 + 0.1 * speed**2 + 0.001 * torque**2)).astype(np.float32)
        speed = np.clip(speed + STEP * (1.5 * GRAVITY * np.sin(angle) + 3 * torque), -SPEED, SPEED)
        self._state = np.stack([angle + STEP * speed, speed], 1)
        self._length += 1
        self._begin(over)

    def recv(self) -> Record:
        return Record(self._obs(), self._reward, np.zeros(self.num_envs, bool), self._length == LENGTH)

    def close(self) -> None:
        """Nothing to free."""

    def _begin(self, fresh: np.ndarray) -> None:
        for i in np.flatnonzero(fresh):
            self._state[i], self._length[i] = self._rngs[i].uniform([-np.pi, -1], [np.pi, 1]), 0

    def _obs(self) -> Parts:
        angle, speed = self._state.T
        tip = np.stack([np.sin(angle), np.cos(angle)])  # right, up
        if self._size is None:
            return {"vector": np.stack([tip[1], tip[0], speed], 1).astype(np.float32)}
        along = np.einsum("dhw,dn->nhw", self._points, tip).clip(0, 0.8)  # nearest place on the rod
        away = self._points[None] - along[:, None] * tip.T[:, :, None, None]
        bright = 1.5 - np.sqrt((away**2).sum(1)) * self._size / 4
        return {"image": (255 * bright.clip(0, 1)).astype(np.uint8)[..., None]}
