"""What is measured: the sizes of the two benchmark presets and the synthetic batch. No torch: peers read it too.

A peer's environment holds no torch of ours, and one of them no torch at all, so this file needs the settings (standard
library only) and, inside a function, numpy.
"""

from dataclasses import dataclass
from typing import Any

from hdfast.config import Config
from hdfast.presets import OFFICIAL

ACTIONS = 6  # Pong's
SEED = 1


@dataclass(frozen=True)
class Size:
    """A benchmark preset: what it is, and how it differs from the official sizes."""

    about: str
    values: dict[str, Any]


SIZES = {
    "full": Size("official Atari 100K sizes: 16 sequences of 64 steps, horizon 15", {}),
    "reduced": Size("4 sequences of 16 steps, horizon 8, deter and units 128, 16 x 16 latents, CNN depth 8", {
        "run.batch_size": 4, "run.batch_length": 16, "behavior.horizon": 8,
        "model.deter": 128, "model.units": 128, "model.stoch": 16, "model.classes": 16, "model.cnn_depth": 8}),
}


def sized(preset: str, **overrides: Any) -> Config:
    """The settings of a benchmark preset."""
    return Config.preset(OFFICIAL, **{"device": "cpu", **SIZES[preset].values, **overrides})


def synthetic(config: Config) -> dict:
    """One batch as numpy arrays, the same for everybody: image (T, B, h, w, 3) uint8, action (T, B) int64 chosen at
    each observation, reward, is_terminal (T, B) float32 and is_first (T, B) bool, true at the start of every sequence
    and right after a terminal."""
    import numpy as np
    rng = np.random.default_rng(SEED)
    length, batch, side = config.run.batch_length, config.run.batch_size, config.env.size
    is_terminal = rng.random((length, batch)) < 0.02
    is_first = np.zeros_like(is_terminal)
    is_first[0], is_first[1:] = True, is_terminal[:-1]
    return {
        "image": rng.integers(0, 256, (length, batch, side, side, 3), dtype=np.uint8),
        "action": rng.integers(0, ACTIONS, (length, batch)),
        "reward": (rng.random((length, batch)) < 0.1).astype(np.float32),
        "is_first": is_first, "is_terminal": is_terminal.astype(np.float32)}
