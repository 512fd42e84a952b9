"""What is measured: the sizes of the benchmark presets and the synthetic batch. No torch: peers read it too.

A peer's environment holds no torch of ours, and one of them no torch at all, so this file needs the settings (standard
library only) and, inside a function, numpy.
"""

from dataclasses import dataclass
from typing import Any

from hdfast.config import Config
from hdfast.presets import OFFICIAL

ACTIONS = 6  # Pong's
NUMBERS = 4  # of a continuous action, Meta-World's
SEED = 1


@dataclass(frozen=True)
class Size:
    """A benchmark preset: what it is, and how it differs from the official sizes."""

    about: str
    values: dict[str, Any]


REDUCED = {"model.deter": 128, "model.units": 128, "model.stoch": 16, "model.classes": 16, "model.cnn_depth": 8}
SIZES = {
    "full": Size("official Atari 100K sizes: 16 sequences of 64 steps, horizon 15", {}),
    "reduced": Size("4 sequences of 16 steps, horizon 8, deter and units 128, 16 x 16 latents, CNN depth 8", {
        "run.batch_size": 4, "run.batch_length": 16, "behavior.horizon": 8,
        **REDUCED}),
    "reduced-continuous": Size("the same with continuous actions, trained through imagined states", {
        "run.batch_size": 4, "run.batch_length": 16, "behavior.horizon": 8, "behavior.actor_gradient": "dynamics",
        **REDUCED}),
    "metaworld": Size("official Meta-World sizes: 50 sequences of 50 steps, deter 1024, units 640, CNN depth 48, "
                      "continuous actions", {
        "run.batch_size": 50, "run.batch_length": 50, "behavior.actor_gradient": "dynamics", "loss.cont_grad": False,
        "model.deter": 1024, "model.units": 640, "model.cnn_depth": 48, "model.mlp_layers": 3}),
}


def sized(preset: str, **overrides: Any) -> Config:
    """The settings of a benchmark preset."""
    return Config.preset(OFFICIAL, **{"device": "cpu", **SIZES[preset].values, **overrides})


def continuous(config: Config) -> bool:
    """Whether actions are numbers, NUMBERS of them, or a choice among ACTIONS."""
    return config.behavior.actor_gradient == "dynamics"


def synthetic(config: Config) -> dict:
    """One batch as numpy arrays, the same for everybody: image (T, B, h, w, 3) uint8, action (T, B, A) float32,
    encoded, chosen at each observation, reward, is_terminal (T, B) float32 and is_first (T, B) bool, true at the start
    of every sequence and right after a terminal."""
    import numpy as np
    rng = np.random.default_rng(SEED)
    length, batch, side = config.run.batch_length, config.run.batch_size, config.env.size
    is_terminal = rng.random((length, batch)) < 0.02
    is_first = np.zeros_like(is_terminal)
    is_first[0], is_first[1:] = True, is_terminal[:-1]
    return {
        "image": rng.integers(0, 256, (length, batch, side, side, 3), dtype=np.uint8),
        "action": rng.uniform(-1, 1, (length, batch, NUMBERS)).astype(np.float32) if continuous(config) else
        np.eye(ACTIONS, dtype=np.float32)[rng.integers(0, ACTIONS, (length, batch))],
        "reward": (rng.random((length, batch)) < 0.1).astype(np.float32),
        "is_first": is_first, "is_terminal": is_terminal.astype(np.float32)}
