"""A scripted environment for tests and demonstrations: every record follows from (environment, episode, step)."""

import numpy as np

from hdfast.envs.stream import Parts, Record
from hdfast.spaces import Discrete, ObsSpace

ACTIONS = 4
LONGEST = 10  # steps


class DummyBackend:
    """Episode e of environment i has 4 + (i + seed + 3 e) % 7 steps and ends terminal if i + e is even, else truncated.

    After s steps the right action is s % 4: it earns 1, any other -s / 16, and the observation shows s. With a `size`
    observations are (size, size, channels) images (a bar whose column is s, a band whose row is the right action),
    without one they are (5,) vectors: s / 10 and the right action one-hot.
    """

    def __init__(self, num_envs: int, seed: int, *, size: int | None, channels: int = 3):
        self.num_envs = num_envs
        self._views = _vectors() if size is None else _images(size, channels)
        self.obs_space = ObsSpace.single(self._views.shape[1:], str(self._views.dtype))
        self.act_space = Discrete(ACTIONS)
        self._row = np.arange(num_envs)
        self._seed = seed
        self._episode = np.full(num_envs, -1)
        self._step = np.zeros(num_envs, int)

    def reset(self) -> Parts:
        self._begin(np.ones(self.num_envs, bool))
        return self._obs()

    def send(self, action: np.ndarray) -> None:
        reward = np.where(action == self._step % ACTIONS, 1, -self._step / 16)
        self._reward = np.where(self._over, 0, reward).astype(np.float32)
        self._step += 1
        self._begin(self._over)

    def recv(self) -> Record:
        true_end = (self._row + self._episode) % 2 == 0
        return Record(self._obs(), self._reward, self._over & true_end, self._over & ~true_end)

    def close(self) -> None:
        """Nothing to free."""

    def _obs(self) -> Parts:
        return {self.obs_space.parts[0].name: self._views[self._step]}

    def _begin(self, fresh: np.ndarray) -> None:
        self._episode = self._episode + fresh
        self._step = np.where(fresh, 0, self._step)
        self._over = self._step == 4 + (self._row + self._seed + 3 * self._episode) % 7


def _vectors() -> np.ndarray:
    """Observation by step, (LONGEST + 1, 5) float32."""
    step = np.arange(LONGEST + 1)
    return np.column_stack([step / LONGEST, np.eye(ACTIONS)[step % ACTIONS]]).astype(np.float32)


def _images(size: int, channels: int) -> np.ndarray:
    """Observation by step, (LONGEST + 1, size, size, channels) uint8."""
    step = np.arange(LONGEST + 1)[:, None, None]
    pixel = np.arange(size)
    bar = pixel * (LONGEST + 1) // size == step  # (steps, 1, size)
    band = (pixel * ACTIONS // size)[:, None] == step % ACTIONS  # (steps, size, 1)
    image = 160 * bar + 80 * band  # (steps, size, size)
    return np.repeat(image.astype(np.uint8)[..., None], channels, axis=-1)
