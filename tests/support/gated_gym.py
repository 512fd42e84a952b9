"""A task that waits in mid-run until the file RUN.go is next to the run's folder: gym_gated_gym:Gated-v0."""

import sys
import time
from pathlib import Path

import gymnasium
import numpy as np

HELD = 150  # steps until it waits, counted from each start of the run


class Gated(gymnasium.Env):
    """Episodes of seven steps that earn nothing."""

    observation_space = gymnasium.spaces.Box(0, 7, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    steps = count = 0

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return self.observe(), {}

    def step(self, action):
        self.steps, self.count = self.steps + 1, self.count + 1
        while self.steps == HELD and not self.go.exists():
            time.sleep(0.05)
        return self.observe(), 0.0, self.count == 7, False, {}

    def observe(self):
        return np.full(1, self.count, np.float32)

    @property
    def go(self) -> Path:
        logdir, = (word for word in sys.argv if word.startswith("--logdir="))
        return Path(f"{logdir.removeprefix('--logdir=')}.go")


gymnasium.register("Gated-v0", Gated)
