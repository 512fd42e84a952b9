"""hdfast's Atari environment as a Gymnasium one, for trainers of others; needs hdfast's source, numpy and no torch."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from hdfast.config import EnvConfig
from hdfast.envs import make_envs


class ProtocolAtari(gymnasium.Env):
    """One environment of `make_envs(task, EnvConfig(**env))`: observations (h, w, c) uint8, actions 0..n-1.

    `terminated` is the record's is_terminal, `truncated` an end that is none. Episodes follow each other as hdfast
    plays them, with the same no-ops: `first_seed + rank` decides, not the seed of `reset`. Each episode that
    ends is one JSON line in the file `episodes`: step (actions of all `count` environments so far), score and length
    (actions). Raises as `make_envs` and its environments do.
    """

    def __init__(self, task: str, env: dict[str, Any], first_seed: int, rank: int = 0, count: int = 1,
                 episodes: str | None = None):
        self._stream = make_envs(task, EnvConfig(**env), num_envs=1, seed=first_seed + rank)
        self._count, self._episodes = count, episodes and Path(episodes)
        self._step = self._length = 0
        self._score = 0.0
        self._over: bool | None = None  # before the first episode
        self.observation_space = gymnasium.spaces.Box(0, 255, self._stream.obs_space.parts[0].shape, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(self._stream.act_space.n)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """The first record of the next episode."""
        super().reset(seed=seed)
        record = self._stream.step(np.zeros(1, np.int64)) if self._over else self._stream.reset()
        self._over, self._score, self._length = False, 0.0, 0
        return record.image[0], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """The record that answers an action."""
        record = self._stream.step(np.array([action], np.int64))
        reward, last, terminal = float(record.reward[0]), bool(record.is_last[0]), bool(record.is_terminal[0])
        self._step, self._length, self._score, self._over = self._step + 1, self._length + 1, self._score + reward, last
        if last and self._episodes:
            row = {"step": self._step * self._count, "score": self._score, "length": self._length}
            with self._episodes.open("a") as file:
                file.write(json.dumps(row) + "\n")
        return record.image[0], reward, terminal, last and not terminal, {}

    def close(self) -> None:
        """Free the environment."""
        self._stream.close()
