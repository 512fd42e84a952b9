"""The committed reference scores, against themselves and against the published aggregates."""

import numpy as np
import pytest

from hdfast import scores
from hdfast.tasks import ATARI26


def test_every_benchmark_game_is_there():
    assert sorted(scores.tasks()) == sorted(ATARI26) and "HarmonyDream" in scores.source()


@pytest.mark.parametrize("task", scores.tasks())
def test_rows_agree_with_themselves(task):
    row = scores.reference(task)
    assert row["human"] > row["random"]
    for method in scores.METHODS:
        published = row[method]
        assert len(published["final_per_seed"]) == 5 and len(published["curve_mean"]) == len(scores.curve_frames())
        assert published["final_mean"] == pytest.approx(np.mean(published["final_per_seed"]), abs=0.02)
        assert published["curve_mean"][-1] == pytest.approx(published["final_mean"], abs=0.02)


@pytest.mark.parametrize(("method", "mean", "median", "above_human"), [
    ("dreamerv3", 1.0736, 0.4158, 9), ("harmonydream", 1.3640, 0.6705, 11)])
def test_human_normalized_gives_the_published_aggregates(method, mean, median, above_human):
    values = [scores.human_normalized(task, scores.reference(task)[method]["final_mean"]) for task in scores.tasks()]
    assert np.mean(values) == pytest.approx(mean, abs=2e-4) and np.median(values) == pytest.approx(median, abs=2e-4)
    assert sum(v > 1 for v in values) == above_human


def test_human_normalized():
    assert scores.human_normalized("atari_pong", -20.7) == 0 and scores.human_normalized("atari_pong", 14.6) == 1
    assert scores.human_normalized("catch_5x5", 1.0) is None and scores.reference("dummy") is None
    assert scores.curve_frames()[0] == 20_000 and scores.curve_frames()[-1] == 400_000
