"""Observation and action spaces, and those a checkpoint was trained on. Standard library only."""

import math
from dataclasses import dataclass
from typing import Any

from hdfast.errors import ConfigError, RunError

SIZE_LIMIT = 1 << 26  # numbers of an observation, and actions
IMAGE_SIDES = (8, 16, 32, 64, 128)  # of the square images that the networks take


@dataclass(frozen=True)
class ObsSpace:
    """One observation: a 'uint8' image of shape (h, w, c) or a 'float32' vector of shape (n,)."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def is_image(self) -> bool:
        return self.dtype == "uint8"


@dataclass(frozen=True)
class ActSpace:
    """Discrete actions 0..n-1."""

    n: int


def check_image(space: ObsSpace) -> None:
    """Raise ConfigError for an image that no network fits."""
    if space.is_image and not (space.shape[0] == space.shape[1] in IMAGE_SIDES and 1 <= space.shape[2] <= 4):
        raise ConfigError(f"images must be square with a side of {', '.join(map(str, IMAGE_SIDES))} and 1 to 4 "
                          f"channels, got {' x '.join(map(str, space.shape))}; resize them, as by --env.size 64 or "
                          "from_gymnasium(size=64)")


def spaces(manifest: dict[str, Any]) -> tuple[ObsSpace, ActSpace]:
    """Observation and action space that a checkpoint was trained on; RunError for impossible or huge ones."""
    try:
        shape, dtype, actions = tuple(manifest["obs_shape"]), manifest["obs_dtype"], manifest["actions"]
        if (not all(type(n) is int and n > 0 for n in (*shape, actions)) or max(math.prod(shape), actions) > SIZE_LIMIT
                or len(shape) != {"uint8": 3, "float32": 1}.get(dtype)):
            raise RunError(f"the checkpoint's manifest has impossible spaces, obs_shape {shape!r:.60} {dtype!r:.20}, "
                           f"actions {actions!r:.20}; take another checkpoint or start a new run with another --logdir")
        return ObsSpace(shape, dtype), ActSpace(actions)
    except (KeyError, TypeError) as error:
        raise RunError(f"the checkpoint's manifest lacks {error}: another program wrote it; start a new run with "
                       "another --logdir") from error
