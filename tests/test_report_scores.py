"""Score files in DreamerV3's schema: what is written can be read back, and what peers publish can be read."""

import gzip
import json

import numpy as np
import pytest

from hdfast.errors import RunError
from hdfast.report import score_files
from hdfast.report.collect import collect
from hdfast.report.summary import summarize
from scripted_sweep import write_run


@pytest.mark.parametrize("name", ["scores.json", "scores.json.gz"])
def test_score_files_survive_a_round(tmp_path, name):
    for seed in range(2):
        write_run(tmp_path / "runs", "ms_pacman", seed)
    runs, _ = collect([tmp_path / "runs"])
    path = score_files.write(tmp_path / name, runs)
    data = path.read_bytes()
    records = json.loads(gzip.decompress(data) if name.endswith(".gz") else data)
    assert [set(record) for record in records] == [{"task", "method", "seed", "xs", "ys"}] * 2
    back, notes = score_files.read(path)
    assert not notes and [run.final for run in back] == [run.final for run in runs]
    np.testing.assert_array_equal(back[1].curve, runs[1].curve)
    both = summarize(runs, back, [], samples=100, unfinished=False)
    assert [g.name for g in both.groups][:2] == ["hdfast HarmonyDream", "hdfast HarmonyDream (file)"]


def test_a_peers_file_as_it_is_published(tmp_path):
    """Suite in the task's name, numeric or text seeds, gaps in the curve, tasks of other suites."""
    path = tmp_path / "peer.json"
    path.write_text(json.dumps([
        {"task": "atari100k_james_bond", "method": "peer", "seed": "1", "xs": [2e5, 4e5, 1e5], "ys": [5.0, 9.0, None]},
        {"task": "atari_pong", "method": "peer", "seed": 0, "xs": [4e5], "ys": [3.5]},
        {"task": "atari_pong", "method": "peer", "seed": 0, "xs": [4e5], "ys": [4.5]},
        {"task": "dmc_walker_walk", "method": "peer", "seed": 0, "xs": [1], "ys": [1]},
        {"task": "dmc_walker_walk", "method": "peer", "seed": 1, "xs": [1], "ys": [1]},
        {"task": "pong", "method": "peer", "seed": 2, "xs": [1, 2], "ys": [1]},
        {"task": "pong", "method": "peer", "seed": 3, "xs": [], "ys": []},
        {"task": "pong", "seed": 4, "xs": [1], "ys": [1]}, 7]))
    runs, notes = score_files.read(path)
    assert [(run.task, run.seed, run.final, run.frames) for run in runs] == [
        ("atari_jamesbond", "1", 9.0, 400_000), ("atari_pong", "0", 3.5, 400_000)]
    assert len(notes) == 6 and any("2 of 9 records left out: unknown task 'dmc_walker_walk'" in n for n in notes)
    assert any("no 'method' in it" in note for note in notes)


@pytest.mark.parametrize("data", [b"", b"{", b"7", b"\x1f\x8bnot gzip", gzip.compress(b"[1", mtime=0)])
def test_a_score_file_that_cannot_be_used(tmp_path, data):
    (tmp_path / "peer.json").write_bytes(data)
    with pytest.raises(RunError, match="peer.json.* a list of records with task, method, seed, xs, ys"):
        score_files.read(tmp_path / "peer.json")
