"""Atari 100K reference scores: random, human, and the published DreamerV3 and HarmonyDream runs.

The numbers live in data/scores.json with their source. Standard library only.
"""

import functools
import json
from importlib import resources
from typing import Any

METHODS = ("dreamerv3", "harmonydream")


@functools.cache
def _table() -> dict[str, Any]:
    return json.loads(resources.files("hdfast").joinpath("data/scores.json").read_text(encoding="utf-8"))


def source() -> str:
    """Where the reference scores come from, in one sentence."""
    return _table()["source"]


def tasks() -> tuple[str, ...]:
    """Canonical names of the tasks that have reference scores."""
    return tuple(_table()["tasks"])


def reference(task: str) -> dict[str, Any] | None:
    """Reference scores of a canonical task name, or None if there are none.

    Keys: random, human (mean episode score); and per method in METHODS: final_mean (over seeds, after 400K frames),
    final_per_seed, curve_mean (evaluation score averaged over seeds, one value per entry of `curve_frames()`).
    """
    return _table()["tasks"].get(task)


def curve_frames() -> tuple[int, ...]:
    """Environment frames at which the published curves were evaluated."""
    return tuple(_table()["frames"])


def human_normalized(task: str, score: float) -> float | None:
    """(score - random) / (human - random): 0 is random play, 1 is human; None for a task without reference scores."""
    row = reference(task)
    return None if row is None else (score - row["random"]) / (row["human"] - row["random"])
