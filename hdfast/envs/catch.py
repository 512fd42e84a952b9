"""Catch through EnvPool: a falling cell, a paddle, one reward at the end. Learnable in about a minute on one core."""

import numpy as np

from hdfast.config import EnvConfig
from hdfast.envs.pool import PoolBackend
from hdfast.envs.stream import Parts
from hdfast.errors import ConfigError
from hdfast.spaces import ObsSpace
from hdfast.tasks import board_shape


def catch_backend(task: str, env: EnvConfig, num_envs: int, seed: int) -> PoolBackend:
    """`catch_HxW`: the H x W board enlarged to (size, size, 1) uint8, 0 or 255; actions left, stay, right.

    An episode has H records; the last brings +1 (caught) or -1 and is terminal. ConfigError if the board is larger than
    the image.
    """
    height, width = board_shape(task)
    if env.size < max(height, width):
        raise ConfigError(f"env.size must be at least {max(height, width)} for {task}, got {env.size}; "
                          "take a larger image or a smaller board")
    pixel = np.arange(env.size)
    cell = (pixel * height // env.size)[:, None] * width + pixel * width // env.size  # (size, size)

    def enlarge(board: np.ndarray, _: np.ndarray) -> Parts:  # (N, H, W) float 0/1 -> (N, size, size, 1)
        lit = (board.reshape(-1, height * width) != 0) * np.uint8(255)
        return {"image": np.take(lit, cell, axis=1)[..., None]}

    return PoolBackend("Catch-v0", num_envs, seed, env.num_threads,
                       ObsSpace.single((env.size, env.size, 1), "uint8"), enlarge,
                       without="choose another task", height=height, width=width)
