"""Aggregate statistics over games and runs, as in Agarwal et al. 2021 (rliable), also for games with unequal runs.

Scores are {task: (runs,) human-normalized}. With the same number of runs of every game each function equals rliable's
on the (runs x games) matrix; otherwise every game counts the same, however many runs it has.
"""

from collections.abc import Mapping, Sequence

import numpy as np

Scores = Mapping[str, np.ndarray]
CONFIDENCE = 0.95
TRIM = 0.25


def aggregates(scores: Scores) -> dict[str, float]:
    """{name: value} of mean, median, iqm and optimality_gap of one or more games."""
    return {name: float(values[0]) for name, values in _statistics(_stacked(scores)).items()}


def intervals(scores: Scores, *, samples: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """{name: (low, high)}: 95% percentile bootstrap, stratified: runs of a game are drawn with replacement."""
    found = _statistics(_resampled(scores, samples, np.random.default_rng(seed)))
    return {name: _percentiles(values) for name, values in found.items()}


def improvement(ours: Scores, other: Scores) -> float:
    """Probability that a run of ours beats a run of the other on a game drawn at random; ties count half."""
    return float(_improvement(_stacked(ours), _stacked(_same_games(ours, other)))[0])


def improvement_interval(ours: Scores, other: Scores, *, samples: int, seed: int = 0) -> tuple[float, float]:
    """95% stratified bootstrap interval of `improvement`, both sides drawn again."""
    rng = np.random.default_rng(seed)
    return _percentiles(_improvement(_resampled(ours, samples, rng),
                                     _resampled(_same_games(ours, other), samples, rng)))


def profile(scores: Scores, thresholds: Sequence[float]) -> np.ndarray:
    """Share of runs above each threshold, averaged over games: (thresholds,)."""
    return _profile(_stacked(scores), np.asarray(thresholds, float))[0]


def profile_band(scores: Scores, thresholds: Sequence[float], *, samples: int,
                 seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise 95% stratified bootstrap band of `profile`: low and high, (thresholds,) each."""
    found = _profile(_resampled(scores, samples, np.random.default_rng(seed)), np.asarray(thresholds, float))
    low, high = np.percentile(found, _TAILS, axis=0)
    return low, high


_TAILS = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, _TAILS)
    return float(low), float(high)


def _stacked(scores: Scores) -> list[np.ndarray]:
    """One (1, runs) array a game: the scores themselves, as a single sample."""
    return [np.asarray(runs, float)[None] for runs in scores.values()]


def _resampled(scores: Scores, samples: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One (samples, runs) array a game, runs drawn with replacement."""
    return [np.asarray(runs, float)[rng.integers(0, len(runs), (samples, len(runs)))] for runs in scores.values()]


def _same_games(ours: Scores, other: Scores) -> Scores:
    return {task: other[task] for task in ours}


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
