"""The official Atari environment in a few lines of raw emulator calls: the Atari backends must equal it."""

import ale_py
import cv2
import numpy as np
from ale_py import roms

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)


class RawAtari:
    """One emulator without sticky actions; images (64, 64, 3) uint8 as the official code makes them."""

    def __init__(self, game: str, skip: int = 4, size: int = 64):
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.loadROM(roms.get_rom_path(game))
        self.actions = self.ale.getMinimalActionSet()
        self.skip = skip
        self.size = size

    def reset(self, noops: int) -> np.ndarray:
        self.ale.reset_game()
        for _ in range(noops):
            self.ale.act(ale_py.Action.NOOP)
        self.last = self.ale.getScreenRGB()
        self.before = np.zeros_like(self.last)
        return self._image(self.last, self.before)

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        """(image, reward, game over) after up to `skip` frames of one action."""
        reward = 0.0
        self.previous = np.maximum(self.last, self.before)
        for frame in range(1, self.skip + 1):
            reward += self.ale.act(self.actions[action])
            if frame == self.skip - 1:
                self.before = self.ale.getScreenRGB()
            if self.ale.game_over():
                break
        self.frames = frame
        self.last = self.ale.getScreenRGB()
        return self._image(self.last, self.before), reward, self.ale.game_over()

    def final_image(self, backend: str, over: bool) -> np.ndarray:
        """What a backend shows of the last step if it ended the episode, by game over or by the time limit."""
        if backend == "ale":  # the last frame is missing: the previous image, with the third frame if all four ran
            return self._image(self.previous, self.before if self.frames == self.skip else self.previous)
        if over and self.frames <= self.skip - 2:  # EnvPool: the previous image
            return self._image(self.previous, self.previous)
        return self._image(self.last, self.before)

    def _image(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return cv2.resize(np.maximum(first, second), (self.size, self.size), interpolation=cv2.INTER_AREA)
