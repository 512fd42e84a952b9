"""bench/learning: which runs it starts, what it exports of them, and that pictures and tables come from data alone."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import export
import figures
import learning_records
import numpy as np
import pytest
import results_table
import run as learning_run
from PIL import Image

from checkout import ROOT
from hdfast import scores
from hdfast.errors import ConfigError, RunError
from hdfast.report import score_files
from hdfast.report.collect import collect
from scripted_sweep import write_run

RESULTS, DOCS = ROOT / "bench" / "results", ROOT / "docs"
TOLERANCE = 2.0  # of 255, mean absolute difference of pixels: matplotlib's versions draw letters a little differently


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two games, two modes, two seeds of the CPU preset, with random play, cost and a command; one not finished."""
    folder = tmp_path_factory.mktemp("runs")
    for mode in ("rectified", "off"):
        for task in ("krull", "boxing"):
            for seed in range(2):
                path = write_run(folder / mode, task, seed, presets=("atari100k", "cpu"), gain=0.3,
                                 **{"harmony.mode": mode, "run.steps": 10_000})
                start = {"argv": ["/secret/bin/hdfast", "train", "--configs", "atari100k", "cpu", "--logdir",
                                  "/secret/place", "--run.steps=10000"], "git": "0123456789" * 4, "cpu": "AMD EPYC",
                         "versions": {"hdfast": "0.1.0", "torch": "2.13.0"}}
                meta = {"finished": 10_000, "seconds": 1500.0, "cpu_seconds": 1200.0, "starts": [start, start]}
                (path / "meta.json").write_text(json.dumps(meta))
                random = {"step": 0, "scores": [seed, 2.0, 3.0], "lengths": [9] * 3}
                (path / "random.json").write_text(json.dumps(random))
    write_run(folder / "late", "krull", 2, presets=("atari100k", "cpu"), share=0.4, finished=False,
              **{"run.steps": 10_000})
    return folder


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory) -> Path:
    """A copy of bench/results without learning runs, with the exported ones; docs/ made of it lies beside it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "results" / "learning").mkdir(parents=True)
    shutil.copy(RESULTS / "updates.csv", folder / "results")
    shutil.copy(RESULTS / "learning" / "official.json", folder / "results" / "learning")
    assert export.main([str(runs), "--out", str(folder / "results" / "learning" / "cpu.json")]) == 0
    draw(folder / "results", folder)
    return folder


def draw(results: Path, folder: Path) -> list[Path]:
    """The files that `make figures` writes into the docs/ of a folder."""
    (folder / "docs").mkdir()
    shutil.copy(DOCS / "results.md", folder / "docs")
    return figures.make(results, folder / "docs")


# Running

def test_the_runs_of_a_command(tmp_path):
    words = ["--tasks", "krull,boxing", "--seeds", "0-1", "--modes", "rectified,off", "--logdir", str(tmp_path),
             "--run.steps", "5000", "--cpus", "2"]
    jobs, own = learning_run.jobs(words)
    assert [(job.config.seed, job.config.harmony.mode, job.config.task) for job in jobs] == [
        (seed, mode, task) for seed in range(2) for mode in ("rectified", "off") for task in
        ("atari_krull", "atari_boxing")], "the first seed of everything comes first"
    assert {job.logdir for job in jobs} == {tmp_path / mode / task / str(seed) for mode in ("rectified", "off")
                                            for task in ("atari_krull", "atari_boxing") for seed in range(2)}
    assert own.cpus == 2 and own.cpus_per_job == 1
    for job in jobs:
        assert (job.config.run.threads, job.config.env.num_threads, job.config.device) == (1, 1, "cpu")
        assert (job.config.run.eval_episodes, job.config.run.eval_random) == (100, True)
        assert job.config.run.steps == 5000 and job.config.model.deter < 512, "the preset cpu, with settings on top"
        assert "--configs" in job.arguments and f"--harmony.mode={job.config.harmony.mode}" in job.arguments


@pytest.mark.parametrize(("words", "says"), [
    ([], "name the games with --tasks"), (["--tasks", "krull", "--no-harmony"], "--modes here"),
    (["--tasks", "krull", "--modes", "loud"], "loud"), (["--tasks", "crul"], "unknown task"),
    (["--tasks", "krull", "--frobnicate"], "unknown flag")])
def test_a_wrong_command_is_one_sentence(words, says, capsys):
    with pytest.raises(ConfigError, match=says):
        learning_run.jobs(words)
    assert learning_run.main(words) == 2 and says in capsys.readouterr().err


def test_the_sweep_runs_them(tmp_path, monkeypatch):
    called = {}
    monkeypatch.setattr(learning_run.sweep, "sweep", lambda jobs, **options: called.update(options, jobs=jobs))
    assert learning_run.main(["--tasks", "krull", "--modes", "off", "--logdir", str(tmp_path), "--cpus", "3"]) == 1
    assert called["cpus"] == 3 and called["cpus_per_job"] == 1 and len(called["jobs"]) == 1


# Exporting

def test_a_record_is_the_run(runs, made):
    """The report shows the same of the file as of the directories; the rest says what the run cost."""
    path = made / "results" / "learning" / "cpu.json"
    directories, _ = collect([runs])
    records, notes = score_files.read(path)
    assert not notes and len(records) == 9
    for one, other in zip(directories, records, strict=True):
        assert (one.task, one.method, one.seed, one.how, one.frames, one.total, one.finished, one.random) == (
            other.task, other.method, other.seed, other.how, other.frames, other.total, other.finished, other.random)
        assert other.final == pytest.approx(one.final) and set(one.harmony) == set(other.harmony)
        np.testing.assert_allclose(one.curve, other.curve, rtol=1e-5)
    assert all(re.fullmatch(r"hdfast (HarmonyDream|DreamerV3) \[cpu\b.*\]", run.method) for run in records)
    text = path.read_text()
    assert "secret" not in text and text.count("\n") == 9 + 2
    raw = json.loads(text)[0]
    assert raw["command"] == "hdfast train --configs atari100k cpu --run.steps=10000"
    assert (raw["cpu_seconds"], raw["wall_seconds"], raw["steps"]) == (1200.0, 1500.0, 10_000)
    assert (raw["commit"], raw["processor"], raw["torch"]) == ("0123456789" * 4, "AMD EPYC", "2.13.0")
    assert raw["random"] == {"episodes": [0.0, 2.0, 3.0]} and raw["lengths"] == [100] * 10
    assert len(raw["evaluations"]["xs"]) == len(raw["evaluations"]["std"]) == 20 == len(raw["training"]["ys"])
    assert [r["finished"] for r in json.loads(text)].count(False) == 1


def test_what_an_older_run_does_not_know_is_left_out(tmp_path, capsys):
    write_run(tmp_path / "runs", "krull", 0)
    assert export.main([str(tmp_path / "runs"), "--out", str(tmp_path / "one.json")]) == 0
    raw, = json.loads((tmp_path / "one.json").read_text())
    assert not {"random", "cpu_seconds", "wall_seconds", "command", "commit"} & set(raw) and raw["episodes"]
    result, = learning_records.read(tmp_path)  # the run directory is no score file
    assert result.minutes("cpu") is None and len(result.training[0]) == 20
    assert "not recorded" in results_table.tables([result]) and "not measured" in results_table.tables([result])
    (tmp_path / "empty").mkdir()
    assert export.main([str(tmp_path / "empty"), "--out", str(tmp_path / "two.json")]) == 1
    assert "no run with a score lies below" in capsys.readouterr().err and not (tmp_path / "two.json").exists()


def test_records_of_runs_that_are_gone_stay(tmp_path, capsys):
    """A machine that is thrown away takes its run directories with it; the next one adds its runs to the file."""
    out = tmp_path / "cpu.json"
    for folder, seed, share in (("first", 0, 1.0), ("first", 1, 0.4), ("second", 1, 1.0), ("second", 2, 1.0)):
        write_run(tmp_path / folder, "krull", seed, share=share, finished=share == 1)
    for folder in ("first", "second"):
        assert export.main([str(tmp_path / folder), "--out", str(out)]) == 0
    assert [(record["seed"], record["finished"]) for record in json.loads(out.read_text())] == [
        (0, True), (1, True), (2, True)]
    out.write_text('[{"task": "krull"}]')
    assert export.main([str(tmp_path / "first"), "--out", str(out)]) == 2
    assert "holds no records of runs" in capsys.readouterr().err and out.read_text() == '[{"task": "krull"}]'


def test_curves_are_thinned_with_their_ends():
    xs = np.arange(1000.0)
    kept, ys = export.thinned((xs, 2 * xs))
    assert len(kept) == 60 and (kept[0], kept[-1]) == (0, 999) and (ys == 2 * kept).all()
    assert len(export.thinned((xs[:7], xs[:7]))[0]) == 7


# Pictures and tables

def test_equal_data_give_equal_bytes(made, tmp_path):
    draw(made / "results", tmp_path)
    for path in (made / "docs").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(made)).read_bytes(), path


def test_the_committed_pictures_and_tables_are_those_of_the_committed_data(tmp_path):
    again = {path.relative_to(tmp_path / "docs") for path in draw(RESULTS, tmp_path)}
    committed = {path.relative_to(DOCS) for path in (DOCS / "figures").iterdir()} | {Path("results.md")}
    assert again == committed, "run `make figures`"
    for name in again:
        old, new = (DOCS / name).read_bytes(), (tmp_path / "docs" / name).read_bytes()
        if name.suffix == ".png":
            there, here = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float) for data in (old, new))
            assert there.shape == here.shape and np.abs(there - here).mean() < TOLERANCE, f"{name}: run `make figures`"
        elif name.suffix == ".md":
            assert old == new, f"{name}: run `make figures`"


def test_the_tables_say_what_the_records_say(made):
    text = (made / "docs" / "results.md").read_text()
    results = learning_records.read(made / "results" / "learning")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| Krull")]
    assert len(rows) == 2 + 5 and any("not finished, at 40%" in row[3] for row in rows)
    found = learning_records.of(results, "atari_krull", rows[0][1])
    mean, low, high = learning_records.interval([result.run.episodes for result in found])
    assert rows[0][2] == "2" and rows[0][3] == f"{mean:,.0f} [{low:,.0f}, {high:,.0f}]" and low < mean < high
    assert rows[0][4].startswith("1.8 [") and rows[0][5:7] == ["1,598", "2,666"] and rows[0][9] == "20"
    five = learning_records.official(results, "atari_krull", "HarmonyDream", 40_000)
    assert len(five) == 5 and rows[0][7] == f"{five.min():,.0f} to {five.max():,.0f}"
    assert results_table.put(text, results) == text
    with pytest.raises(ValueError, match="must hold the lines"):
        results_table.put(text.replace(results_table.END, ""), results)


def test_the_interval_is_over_episodes_within_seeds():
    rng = np.random.default_rng(3)
    groups = [rng.normal(seed * 100, 10, 100) for seed in range(3)]
    mean, low, high = learning_records.interval(groups)
    error = 10 / np.sqrt(300)  # the seeds' own spread of 100 does not count
    assert mean == pytest.approx(np.mean(groups)) and high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_it_draws_what_there_is(made, tmp_path):
    results, updates = learning_records.read(made / "results" / "learning"), figures.update_rows(RESULTS)
    alone = [r for r in results if r.run.seed == "2" or "official" in r.run.method]
    seen = {figures.learning(*both) for both in (([], []), ([], updates), (results, []), (results, updates),
                                                  (alone, updates))}
    assert len(seen) == 5
    peer = {"task": "krull", "method": "peer 1.0", "seed": 0, "xs": [1e4, 4e4], "ys": [1500, 1600], "cpu_seconds": 6000,
            "evaluation_cpu_seconds": 600, "wall_seconds": 9000, "updates": 10_000, "version": "peer 1.0"}
    (tmp_path / "peer.json").write_text(json.dumps([peer]))
    both = [*results, *learning_records.read(tmp_path)]
    (heading, bars), = figures.run_bars(both)
    assert heading == "One run, CPU time" and bars == [("hdfast", 20.0, "20 min"), ("peer 1.0", 110.0, "110 min")]
    assert figures.run_bars(results) == []
    peer["updates"] += 1
    (tmp_path / "peer.json").write_text(json.dumps(peer))
    assert figures.run_bars([*results, *learning_records.read(tmp_path)]) == [], "only equal work is compared"


def test_committed_data_that_are_not_whole_are_refused(tmp_path):
    (tmp_path / "a.json").write_text("[{}]")
    with pytest.raises(RunError, match="a committed score file is not whole: .*a.json: 1 of 1 records left out"):
        learning_records.read(tmp_path)
    one = {"task": "krull", "method": "peer", "seed": 0, "xs": [1], "ys": [1]}
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps(one))
    with pytest.raises(RunError, match="b.json: peer has atari_krull seed 0 in .*a.json, too"):
        learning_records.read(tmp_path)
    assert learning_records.read(tmp_path / "nowhere") == []


# Data

def test_the_official_seeds_average_to_the_published_curve():
    results = learning_records.read(RESULTS / "learning")
    frames = scores.curve_frames()[:5]
    of_games = {result.run.task for result in results if "official" in result.run.method}
    assert {"atari_krull", "atari_boxing", "atari_kung_fu_master", "atari_road_runner"} <= of_games
    for task in of_games:
        for method, name in (("harmonydream", "HarmonyDream"), ("dreamerv3", "DreamerV3")):
            seeds = np.array([learning_records.official(results, task, name, at) for at in frames])
            assert seeds.shape == (5, 5)
            np.testing.assert_allclose(seeds.mean(1), scores.reference(task)[method]["curve_mean"][:5], atol=0.01)


def test_the_times_of_updates_are_those_of_the_benchmarks_page():
    page = (DOCS / "benchmarks.md").read_text().replace("**", "").replace(",", "")
    with (RESULTS / "updates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    for row in rows:
        unit, size = ("ms", 1000) if row["preset"].startswith("reduced") else ("s", 1)
        shown = [f"{float(row[key]) * size:.3g} {unit}" for key in ("median_s", "min_s", "cpu_s")]
        line = f"| {row['row']} | {' | '.join(shown)} | {row['peak_mib']} | {row['time_ratio']} | {row['cpu_ratio']} |"
        assert line in page, line
        assert row["command"].replace(",", "") in page
