"""What an environment of a library is given for an action of ours."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hdfast.errors import ConfigError
from hdfast.spaces import ActSpace, Box, Discrete, MultiDiscrete

Convert = Callable[[np.ndarray], np.ndarray]


def actions(space: Any) -> tuple[ActSpace, Convert]:
    """The action space for a Gymnasium one, and what turns our actions (..., *shape) into those of that one.

    Numbers come in [-1, 1] and are mapped to the bounds of a Box, each one that is bounded on both sides. ConfigError
    for a space that no policy fits.
    """
    from gymnasium import spaces
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n)), lambda action: action + space.start
    if isinstance(space, spaces.MultiBinary):
        space = spaces.MultiDiscrete(np.full(space.shape, 2), space.dtype)
    if isinstance(space, spaces.MultiDiscrete):
        return MultiDiscrete(tuple(space.nvec.ravel().tolist())), \
            lambda action: (_shaped(action, space) + space.start).astype(space.dtype)
    if isinstance(space, spaces.Box) and space.dtype.kind == "f" and np.prod(space.shape):
        with np.errstate(over="ignore", invalid="ignore"):  # from the lowest float to the highest: no bounds
            middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
        bounded = np.isfinite(half)
        middle, half = np.where(bounded, middle, 0), np.where(bounded, half, 1)
        return Box(int(np.prod(space.shape))), \
            lambda action: (middle + _shaped(action, space) * half).clip(space.low, space.high).astype(space.dtype)
    raise ConfigError(f"actions must be Discrete, MultiDiscrete, MultiBinary or a Box of floats, got {space}; map them "
                      "with a Gymnasium wrapper such as TransformAction, or flatten them with your own")


def _shaped(action: np.ndarray, space: Any) -> np.ndarray:
    """(..., numbers) -> (..., *shape)."""
    return action.reshape((*action.shape[:-1], *space.shape))
