"""Aggregates of the report: equal to the formulas of rliable, written a second time here and in scipy."""

import numpy as np
import pytest
from scipy.stats import bootstrap, mannwhitneyu, trim_mean

from hdfast import scores
from hdfast.report import statistics


def matrix(runs, games, seed=0):
    """Human-normalized scores (runs, games), skewed like Atari's, with ties."""
    rng = np.random.default_rng(seed)
    return np.round(rng.lognormal(-1, 1.2, (runs, games)) * rng.lognormal(0, 1, games), 2)


def by_task(values):
    return {f"game{i}": column for i, column in enumerate(values.T)}


def ragged(seed=0):
    rng = np.random.default_rng(seed)
    return {f"game{n}": rng.lognormal(-1, 1, n) for n in (1, 2, 3, 5, 8)}


def aggregates(games):
    """The statistics themselves, without intervals."""
    return {name: found.value for name, found in statistics.aggregates(games, samples=1).items()}


def improvement(ours, other):
    return statistics.improvement(ours, other, samples=1).value


def profile(games, thresholds):
    return statistics.profile(games, thresholds, samples=1).value


SHAPES = [(5, 26), (3, 26), (1, 26), (5, 1), (2, 7), (4, 2), (1, 1), (10, 13)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_aggregates_of_a_matrix(shape):
    values = matrix(*shape)
    found = aggregates(by_task(values))
    assert found == pytest.approx({
        "mean": values.mean(0).mean(), "median": np.median(values.mean(0)),
        "iqm": trim_mean(values, 0.25, axis=None), "optimality_gap": 1 - np.minimum(values, 1).mean()}, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_improvement_and_profile_of_a_matrix(shape):
    ours, other = matrix(*shape), matrix(shape[0] + 2, shape[1], seed=1)
    u = [mannwhitneyu(a, b).statistic / (len(a) * len(b)) for a, b in zip(ours.T, other.T, strict=True)]
    assert improvement(by_task(ours), by_task(other)) == pytest.approx(np.mean(u), abs=1e-12)
    thresholds = [0, 0.1, 0.25, 1, 3]
    np.testing.assert_allclose(profile(by_task(ours), thresholds),
                               [(ours > t).mean() for t in thresholds], atol=1e-12)


SEVERAL = {task: runs for task, runs in ragged().items() if len(runs) > 1}


@pytest.mark.parametrize("games", [by_task(matrix(5, 26)), SEVERAL], ids=["matrix", "ragged"])
def test_intervals_are_scipys(games):
    """scipy resamples several samples independently, which is the stratified bootstrap; two random draws differ."""
    def statistic(name):
        return lambda *columns: aggregates(dict(zip(games, columns, strict=True)))[name]

    found = statistics.aggregates(games, samples=20_000)
    for name in ("mean", "iqm", "optimality_gap"):
        low, high = bootstrap(tuple(games.values()), statistic(name), vectorized=False, n_resamples=1500,
                              method="percentile", rng=np.random.default_rng(0)).confidence_interval
        np.testing.assert_allclose(found[name][1:], (low, high), atol=0.1 * (high - low))


def test_every_game_counts_the_same():
    """Repeating all runs of one game changes nothing, which pooled runs would not stand."""
    games = ragged()
    repeated = games | {"game3": np.tile(games["game3"], 4)}
    found, expected = aggregates(repeated), aggregates(games)
    # The trimmed mean cuts whole runs, and smaller ones from the repeated game.
    assert found.pop("iqm") == pytest.approx(expected.pop("iqm"), rel=0.03)
    assert found == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(profile(repeated, [0.2, 0.5]), profile(games, [0.2, 0.5]))
    assert improvement(games, repeated) == pytest.approx(improvement(games, games))


def test_trimmed_mean_with_unequal_weights():
    """Weights 1/2 for the single run, 1/6 for the others: a sixth is cut below, nothing fits into a quarter above."""
    games = {"a": np.array([10.0]), "b": np.array([1.0, 2.0, 3.0])}
    assert aggregates(games)["iqm"] == pytest.approx((2 / 6 + 3 / 6 + 10 / 2) / (5 / 6))


def test_intervals_are_stratified_and_cover():
    """With every game constant over its runs nothing varies, however different the games are."""
    constant = {f"game{i}": np.full(5, float(i)) for i in range(6)}
    for name, (value, low, high) in statistics.aggregates(constant, samples=200).items():
        assert (low, high) == pytest.approx((value, value)), name
    assert statistics.improvement(constant, constant, samples=50) == (0.5, 0.5, 0.5)
    rng, hits = np.random.default_rng(0), 0
    for trial in range(150):
        _, low, high = statistics.aggregates({"g": rng.normal(0, 1, 40)}, samples=400, seed=trial)["mean"]
        hits += low <= 0 <= high
    assert 0.88 < hits / 150 < 0.99


def test_an_interval_of_the_mean_is_the_textbooks():
    """The standard error of the bootstrap mean is the sample's, with n instead of n - 1."""
    values = np.random.default_rng(1).normal(3, 2, 200)
    _, low, high = statistics.aggregates({"g": values}, samples=20_000)["mean"]
    assert (low, high) == pytest.approx(values.mean() + np.array([-1.96, 1.96]) * values.std() / 200**0.5, abs=0.02)


def test_intervals_repeat_and_follow_the_seed():
    games = SEVERAL
    assert statistics.aggregates(games, samples=300) == statistics.aggregates(games, samples=300)
    assert statistics.aggregates(games, samples=300, seed=1) != statistics.aggregates(games, samples=300)


def test_a_single_run_of_a_game_has_no_interval():
    """Not one of zero width, nor one in which the other games vary alone."""
    several = SEVERAL["game2"]
    for games in (by_task(matrix(1, 26)), ragged()):
        for found in (*statistics.aggregates(games, samples=9).values(), statistics.profile(games, [0, 1], samples=9),
                      statistics.improvement(games, games, samples=9)):
            assert (found.low, found.high) == (None, None) and np.isfinite(found.value).all()
    assert statistics.improvement({"g": several}, {"g": several[:1]}, samples=9)[1:] == (None, None)
    assert statistics.improvement({"g": several}, {"g": several}, samples=9).low is not None


def test_profile_band_holds_the_profile():
    games, thresholds = by_task(matrix(5, 26)), np.linspace(0, 3, 31)
    value, low, high = statistics.profile(games, thresholds, samples=500)
    assert (low <= value + 1e-9).all() and (value <= high + 1e-9).all() and (high - low).max() > 0.02
    assert (np.diff(value) <= 0).all()


@pytest.mark.parametrize(("method", "mean", "median", "iqm", "gap"), [
    ("harmonydream", 1.364, 0.6705, 0.607, 0.462), ("dreamerv3", 1.074, 0.416, 0.472, 0.508)])
def test_published_aggregates_follow_from_the_shipped_scores(method, mean, median, iqm, gap):
    games = {task: np.array([scores.human_normalized(task, score)
                             for score in scores.reference(task)[method]["final_per_seed"]]) for task in scores.tasks()}
    found = aggregates(games)
    assert found == pytest.approx({"mean": mean, "median": median, "iqm": iqm, "optimality_gap": gap}, abs=5e-4)
