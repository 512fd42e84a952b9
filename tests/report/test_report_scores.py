"""Score files in DreamerV3's schema: written and read back, as peers publish them, and in the folders of a report."""

import gzip
import json

import numpy as np
import pytest

from hdfast import cli, scores
from hdfast.errors import RunError
from hdfast.report import figures, score_files, tables
from hdfast.report.collect import collect
from hdfast.report.summary import random_play, summarize
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
    both = summarize(runs, back, samples=100)
    assert [g.name for g in both.groups][:2] == ["hdfast HarmonyDream", "hdfast HarmonyDream (file)"]


def test_a_peers_file_as_it_is_published(tmp_path):
    """Suite in the task's name, numeric or text seeds, gaps in the curve, tasks of other suites."""
    path = tmp_path / "peer.json"
    path.write_text(json.dumps([
        {"task": "atari100k_james_bond", "method": "peer", "seed": "1", "xs": [2e5, 4e5, 1e5], "ys": [5.0, 9.0, None]},
        {"task": "atari_pong", "method": "peer", "seed": 0, "xs": [4e5], "ys": [3.5]},
        {"task": "atari_pong", "method": "peer", "seed": 0, "xs": [4e5], "ys": [4.5]},
        {"task": "minigrid_empty", "method": "peer", "seed": 0, "xs": [1], "ys": [1]},
        {"task": "minigrid_empty", "method": "peer", "seed": 1, "xs": [1], "ys": [1]},
        {"task": "pong", "method": "peer", "seed": 2, "xs": [1, 2], "ys": [1]},
        {"task": "pong", "method": "peer", "seed": 3, "xs": [], "ys": []},
        {"task": "pong", "seed": 4, "xs": [1], "ys": [1]}, 7]))
    runs, notes = score_files.read(path)
    assert [(run.task, run.seed, run.final, run.frames) for run in runs] == [
        ("atari_jamesbond", "1", 9.0, 400_000), ("atari_pong", "0", 3.5, 400_000)]
    assert len(notes) == 6 and any("2 of 9 records left out: unknown task 'minigrid_empty'" in n for n in notes)
    assert any("no 'method' in it" in note for note in notes)


@pytest.mark.parametrize("data", [b"", b"{", b"7", b"\x1f\x8bnot gzip", gzip.compress(b"[1", mtime=0)])
def test_a_score_file_that_cannot_be_used(tmp_path, data):
    (tmp_path / "peer.json").write_bytes(data)
    with pytest.raises(RunError, match="peer.json.* a list of records with task, method, seed, xs, ys"):
        score_files.read(tmp_path / "peer.json")


def put(path, *records):
    """A score file of these records."""
    path.write_text(json.dumps(records))


def record(method="hdfast HarmonyDream [cpu]", seed=0, **more):
    return {"task": "krull", "method": method, "seed": seed, "xs": [2e4, 4e4], "ys": [1500.0, 1800.0]} | more


FULL = dict(episodes=[1000.0, 3000.0], random={"episodes": [1500.0, 1700.0]}, finished=True, frames=40_400,
            total=40_400, harmony={"rew": {"xs": [4e3, 4e4], "ys": [1.0, 3.0]}},
            shares={"rew": {"xs": [4e4], "ys": [0.25]}})


def test_what_a_record_may_say_beside_its_curve(tmp_path):
    put(tmp_path / "a.json", record(**FULL), record(seed=1, finished=False, total=80_000))
    (done, going), notes = score_files.read(tmp_path / "a.json")
    assert not notes and done.final == 2000.0 and done.how == "evaluation over 2 episodes at 40,400 frames"
    assert done.random == (1500.0, 1700.0) and done.harmony["rew"][1].tolist() == [1.0, 3.0] and done.frames == 40_400
    assert done.shares["rew"][1].tolist() == [0.25]
    assert not going.finished and going.progress == 0.5 and going.final == 1800.0


@pytest.mark.parametrize(("key", "value"), [
    ("episodes", 100), ("episodes", []), ("episodes", [1, "x"]), ("episodes", [1e300, 1e300]), ("episodes", [True]),
    ("random", [1.0]), ("random", {"episodes": [None]}), ("harmony", []), ("harmony", {"rew": {"xs": [1], "ys": []}}),
    ("harmony", {"rew": {"xs": [2, 1], "ys": [1, 1]}}), ("harmony", {"kl": 7}), ("shares", [1]), ("finished", 1),
    ("total", 1.5), ("frames", -1), ("frames", True)])
def test_what_a_record_says_wrongly_is_named_and_not_used(tmp_path, key, value):
    put(tmp_path / "a.json", record(**{key: value}), record(seed=1))
    found, notes = score_files.read(tmp_path / "a.json")
    assert len(found) == 2 and len(notes) == 1 and f"{key} of 1 of 2 records is not used, it must be" in notes[0]
    assert found[0].final == 1800.0 and not found[0].harmony and not found[0].random and found[0].frames == 40_000


def test_score_files_in_a_folder_are_runs(tmp_path):
    """Ours by the names of their methods, a peer's, broken files, and a record of a run that lies there itself."""
    write_run(tmp_path / "runs", "krull", 0)
    deep = tmp_path / "data" / "deeper"
    deep.mkdir(parents=True)
    own = [record("hdfast HarmonyDream", **FULL), *(record(seed=seed, **FULL) for seed in range(3))]
    (deep / "ours.json.gz").write_bytes(gzip.compress(json.dumps(own).encode()))
    put(deep / "peer.json", *(record("peer 1.0", seed=s) for s in range(2)))
    (deep / "broken.json").write_text("{")
    (deep / "notes.txt").write_text("no scores")
    runs, notes = collect([tmp_path])
    assert {(run.method, run.seed) for run in runs} == {
        ("hdfast HarmonyDream", "0"), *(("hdfast HarmonyDream [cpu]", str(s)) for s in range(3)),
        ("peer 1.0", "0"), ("peer 1.0", "1")}
    assert len(notes) == 2 and "cannot read the score file" in notes[0] and "broken.json" in notes[0]
    assert "ours.json.gz: left out, hdfast HarmonyDream has atari_krull seed 0 twice" in notes[1]
    found = summarize(runs, notes=notes, samples=20)
    assert [(g.name, g.kind) for g in found.groups[:3]] == [
        ("hdfast HarmonyDream", "own"), ("hdfast HarmonyDream [cpu]", "own"), ("peer 1.0", "file")]
    assert found.notes[0] == ("Random play by the same evaluation as the runs scores: Krull 1,600.0 over 2 episodes "
                              "(published 1,598.0).")
    assert len(random_play(runs, "atari_krull")) == 2, "the same episodes with three runs count once"
    assert "random, measured" in tables.games_csv(found)
    assert {plot.name for plot in figures.plots(found)} >= {"curves", "harmony"}


def test_single_seeds_of_the_published_are_their_range(tmp_path):
    """They are no method of their own and no second final score."""
    put(tmp_path / "ours.json", record(**FULL))
    alone = summarize(collect([tmp_path])[0], samples=20)
    put(tmp_path / "official.json", *(
        record("HarmonyDream (official seeds)", seed=s, ys=[1500 + s, 1800 + s]) for s in range(5)))
    both = summarize(collect([tmp_path])[0], samples=20)
    assert [g.name for g in both.groups] == [g.name for g in alone.groups]
    published = {g.name: g for g in both.groups}["HarmonyDream"]
    assert len(published.seeds["atari_krull"]) == 5 and not published.runs
    final = scores.reference("atari_krull")["harmonydream"]["final_per_seed"]
    assert published.finals["atari_krull"].tolist() == final
    xs, low, high = figures.extent(published.seeds["atari_krull"], 30_000)
    assert (xs.tolist(), low.tolist(), high.tolist()) == ([20_000.0], [1500.0], [1504.0])
    assert tables.runs_csv(both) == tables.runs_csv(alone)


def test_the_report_of_committed_data_alone(tmp_path, monkeypatch, capsys):
    drawn = figures.plots
    monkeypatch.setattr(figures, "plots", lambda summary: [p for p in drawn(summary) if p.name == "curves"])
    data = tmp_path / "data"
    data.mkdir()
    put(data / "ours.json", *(record(seed=seed, **FULL) for seed in range(2)))
    (data / "broken.json").write_bytes(b"\x1f\x8b")
    assert cli.main(["report", str(data), "--out", str(tmp_path / "out"), "--bootstrap", "100"]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "2 finished runs, of hdfast HarmonyDream [cpu]" in page and "broken.json" in page
    assert "<svg" in page and (tmp_path / "out" / "curves.png").is_file()
    assert "Krull" in capsys.readouterr().out
