"""Aggregate statistics over games and runs, as in Agarwal et al. 2021 (rliable), also for games with unequal runs.

Scores are {task: (runs,) human-normalized}. With the same number of runs of every game each function equals rliable's
on the (runs x games) matrix; otherwise every game counts the same, however many runs it has. An interval needs two runs
of every game: a single one cannot vary, and resampling it would call that certainty.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Scores = Mapping[str, np.ndarray]
CONFIDENCE = 0.95
TRIM = 0.25


class Estimate(NamedTuple):
    """A statistic with its 95% percentile bootstrap interval; runs of a game are drawn with replacement. Where a game
    has one run there is none: low and high are None."""

    value: Any
    low: Any
    high: Any


def aggregates(scores: Scores, *, samples: int, seed: int = 0) -> dict[str, Estimate]:
    """Mean, median, iqm and optimality_gap of one or more games, by name."""
    rng = np.random.default_rng(seed)
    points, drawn = _statistics(_stacked(scores)), _statistics(_resampled(scores, samples, rng))
    return {name: _estimate(points[name], drawn[name], scores) for name in points}


def improvement(ours: Scores, other: Scores, *, samples: int, seed: int = 0) -> Estimate:
    """Probability that a run of ours beats a run of the other on a game drawn at random; ties count half.

    Runs of both sides are drawn again; the other may have more games.
    """
    rng = np.random.default_rng(seed)
    other = {task: other[task] for task in ours}
    return _estimate(_improvement(_stacked(ours), _stacked(other)),
                     _improvement(_resampled(ours, samples, rng), _resampled(other, samples, rng)), ours, other)


def profile(scores: Scores, thresholds: Sequence[float], *, samples: int, seed: int = 0) -> Estimate:
    """Share of runs above each threshold, averaged over games, with a pointwise band: (thresholds,) each."""
    rng, levels = np.random.default_rng(seed), np.asarray(thresholds, float)
    return _estimate(_profile(_stacked(scores), levels), _profile(_resampled(scores, samples, rng), levels), scores)


def mean_over_runs(values: np.ndarray, *, samples: int, seed: int = 0) -> Estimate:
    """Mean of (runs, n) over the runs with a pointwise band, (n,) each."""
    rng = np.random.default_rng(seed)
    drawn = values[rng.integers(0, len(values), (samples, len(values)))].mean(1)
    return _estimate(values.mean(0)[None], drawn, {"": values})


def _estimate(point: np.ndarray, drawn: np.ndarray, *scores: Scores) -> Estimate:
    """From a statistic of one sample of `scores`, (1, ...), and of the resampled ones, (samples, ...)."""
    if any(len(runs) < 2 for games in scores for runs in games.values()):
        return Estimate(point[0], None, None)
    low, high = np.percentile(drawn, (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)), axis=0)
    return Estimate(point[0], low, high)


def _stacked(scores: Scores) -> list[np.ndarray]:
    """One (1, runs) array a game: the scores themselves, as a single sample."""
    return [np.asarray(runs, float)[None] for runs in scores.values()]


def _resampled(scores: Scores, samples: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One (samples, runs) array a game, runs drawn with replacement."""
    return [np.asarray(runs, float)[rng.integers(0, len(runs), (samples, len(runs)))] for runs in scores.values()]


def _statistics(games: list[np.ndarray]) -> dict[str, np.ndarray]:
    """{name: (samples,)} of one (samples, runs) array a game."""
    means = np.stack([runs.mean(1) for runs in games], 1)  # (samples, games)
    short = np.stack([np.minimum(runs, 1.0).mean(1) for runs in games], 1)
    return {"mean": means.mean(1), "median": np.median(means, 1), "iqm": _trimmed_mean(games),
            "optimality_gap": 1.0 - short.mean(1)}


def _trimmed_mean(games: list[np.ndarray]) -> np.ndarray:
    """Mean of the middle half of all runs, (samples,); a run weighs 1 / (games * runs of its game).

    From both ends go the runs that fit whole into a quarter of the weight: scipy's trim_mean where weights are equal.
    """
    weight = np.concatenate([np.full(runs.shape[1], 1 / (len(games) * runs.shape[1])) for runs in games])
    pooled = np.concatenate(games, 1)  # (samples, all runs)
    order = np.argsort(pooled, 1)
    pooled, weight = np.take_along_axis(pooled, order, 1), weight[order]
    upto = np.cumsum(weight, 1)
    slack = 1e-9
    kept = (upto > TRIM + slack) & (upto - weight < 1 - TRIM - slack)
    return (pooled * weight * kept).sum(1) / (weight * kept).sum(1)


def _improvement(ours: list[np.ndarray], other: list[np.ndarray]) -> np.ndarray:
    """(samples,) of one (samples, runs) array a game on both sides."""
    wins = [((a[:, :, None] > b[:, None]) + 0.5 * (a[:, :, None] == b[:, None])).mean((1, 2))
            for a, b in zip(ours, other, strict=True)]
    return np.mean(wins, 0)


def _profile(games: list[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """(samples, thresholds) of one (samples, runs) array a game."""
    return np.mean([(runs[:, :, None] > thresholds).mean(1) for runs in games], 0)
