"""A second version of the scripted environment, one environment and one number at a time, for Gymnasium."""

import itertools

import gymnasium
import numpy as np


class Scripted(gymnasium.Env):
    """Instance i plays what row i of the `dummy` task (or `dummy_vector`, with size None) plays."""

    action_space = gymnasium.spaces.Discrete(4)

    def __init__(self, index: int, seed: int, size: int | None):
        self.index, self.seed, self.size = index, seed, size
        if size is None:
            self.observation_space = gymnasium.spaces.Box(0, 1, (5,), np.float64)
        else:
            self.observation_space = gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.episode = -1

    def reset(self, *, seed=None, options=None):
        self.episode += 1
        self.count = 0
        return self.observe(), {}

    def step(self, action):
        reward = 1.0 if action == self.count % 4 else -self.count / 16
        self.count += 1
        over = self.count == 4 + (self.index + self.seed + 3 * self.episode) % 7
        terminal = (self.index + self.episode) % 2 == 0
        return self.observe(), reward, over and terminal, over and not terminal, {}

    def observe(self):
        if self.size is None:
            return np.array([self.count / 10] + [float(self.count % 4 == k) for k in range(4)])
        image = np.zeros((self.size, self.size, 3), np.uint8)
        for y, x in itertools.product(range(self.size), range(self.size)):
            image[y, x] = 160 * (x * 11 // self.size == self.count) + 80 * (y * 4 // self.size == self.count % 4)
        return image


def maker(seed: int, size: int | None):
    """A function whose i-th call makes instance i."""
    index = itertools.count()
    return lambda: Scripted(next(index), seed, size)
