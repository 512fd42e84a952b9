"""Observation and action spaces, and those a checkpoint was trained on. Standard library only."""

import math
from dataclasses import dataclass
from typing import Any

from hdfast.errors import RunError

SIZE_LIMIT = 1 << 26  # numbers of an observation, and actions


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
