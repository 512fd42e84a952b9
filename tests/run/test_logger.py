"""Records: valid, resumable, whole on a full disk; rates and timers; TensorBoard; the documented names."""

import json
import re
import sys

import numpy as np
import pytest

from hdfast.config import Config
from hdfast.errors import RunError
from hdfast.run import logger as module
from hdfast.run.jsonl import JsonLines, read_rows, replace, rewind
from hdfast.run.logger import RECORDS, Logger
from hdfast.trainer import train
from killing import largest_file
from programs import ROOT, python


def make(path, **options):
    return Logger(path, action_repeat=4, **options)


def strict(path):
    """Rows of a file of which every line must be standard JSON, NaN excluded."""
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")
    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def write_run(path, steps, **options):
    with make(path, **options) as log:
        for step in steps:
            log.scalars({"train/loss/rew": 1.0}, step, step // 2)
            log.episode(step / 10, 7, step, step // 2)
            if step % 20 == 0:
                log.evaluation([1.0, 2.0], [3, 4], step, step // 2, human_normalized=0.5)


# Records

def test_rows(tmp_path):
    with make(tmp_path / "deep" / "run") as log:
        row = log.scalars({"train/kl": float("nan"), "train/val": float("-inf"), "train/rew": np.float32(0.5)}, 25, 9)
        log.episode(-3.0, 12, 30, 11)
        log.evaluation([1.0, np.float64(3.0)], np.array([5, 7]), 40, 12, human_normalized=0.25)
    assert row["usage/ram"] > 0.01
    scalars, episode, evaluation = strict(tmp_path / "deep" / "run" / "metrics.jsonl")
    assert (scalars["step"], scalars["agent_step"], scalars["update"]) == (100, 25, 9) and scalars["seconds"] >= 0
    assert (scalars["train/kl"], scalars["train/val"], scalars["train/rew"]) == (None, None, 0.5)
    assert episode.items() >= {"step": 120, "episode/score": -3.0, "episode/length": 12}.items()
    assert evaluation["eval/score"] == 2
    assert strict(tmp_path / "deep" / "run" / "scores.jsonl") == [
        {"step": 120, "episode/score": -3.0, "episode/length": 12}]
    row, = strict(tmp_path / "deep" / "run" / "eval.jsonl")
    row.pop("seconds")
    assert row == {"step": 160, "agent_step": 40, "update": 12, "eval/score": 2.0, "eval/score_std": 1.0,
                   "eval/length": 6.0, "eval/human_normalized": 0.25, "scores": [1.0, 3.0], "lengths": [5, 7],
                   "cut": 0}


def test_every_row_is_on_disk_at_once(tmp_path):
    log = make(tmp_path)
    log.scalars({"a": 1.0}, 1, 0)
    log.episode(1.0, 2, 1, 0)
    log.message("note")
    assert len(strict(tmp_path / "metrics.jsonl")) == 2 and len(strict(tmp_path / "scores.jsonl")) == 1
    assert (tmp_path / "console.log").read_text() == "note\n"
    log.close()
    log.close()


def test_resume_drops_what_the_checkpoint_does_not_know(tmp_path):
    write_run(tmp_path, range(10, 70, 10))
    whole = {name: strict(tmp_path / name) for name in RECORDS}
    assert [len(whole[name]) for name in RECORDS] == [15, 6, 3]
    for name in RECORDS:  # a crash in the middle of a line
        with open(tmp_path / name, "ab") as file:
            file.write(b'{"step": 8, "episo')
    write_run(tmp_path, range(50, 70, 10), resume_step=40)
    for name in RECORDS:
        rows = strict(tmp_path / name)
        assert [row["step"] for row in rows] == [row["step"] for row in whole[name]], name
        kept = [row for row in whole[name] if row["step"] <= 160]
        assert kept and rows[:len(kept)] == kept
    assert "dropped 11 record rows" in (tmp_path / "console.log").read_text()
    seconds = [row["seconds"] for row in strict(tmp_path / "metrics.jsonl")]
    assert seconds == sorted(seconds)


def test_seconds_go_on_after_a_resume(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 4, "seconds": 1000.5}\n{"step": 8, "seconds": 2000.5}\n')
    with make(tmp_path, resume_step=1) as log:
        log.scalars({}, 2, 0)
    assert 1000.5 <= strict(tmp_path / "metrics.jsonl")[-1]["seconds"] < 1030


def test_a_run_without_checkpoint_starts_anew_and_keeps_the_old_records(tmp_path):
    write_run(tmp_path, range(10, 50, 10))
    before = {name: (tmp_path / name).read_bytes() for name in RECORDS}
    write_run(tmp_path, [10])
    assert [row["step"] for row in strict(tmp_path / "scores.jsonl")] == [40]
    assert {name: (tmp_path / f"{name}.old").read_bytes() for name in RECORDS} == before
    assert "kept as *.old" in (tmp_path / "console.log").read_text()


def test_an_evaluation_repeated_after_a_crash_counts_once(tmp_path):
    write_run(tmp_path, [20, 40])
    with make(tmp_path, resume_step=40) as log:
        log.evaluation([5.0], [1], 40, 20)
        log.evaluation([6.0], [1], 60, 20)
    assert [(row["step"], row["eval/score"]) for row in strict(tmp_path / "eval.jsonl")] == [
        (80, 1.5), (160, 5.0), (240, 6.0)]


def test_records_are_cut_back_to_the_mark_of_the_checkpoint(tmp_path):
    write_run(tmp_path, range(10, 50, 10))
    with make(tmp_path, resume_step=40) as log:
        marks = log.mark()
        log.episode(9.0, 1, 40, 20)  # of the same step, but written after the checkpoint
    whole = {name: (tmp_path / name).read_bytes()[:mark["bytes"]] for name, mark in marks.items()}
    (tmp_path / "scores.jsonl").write_bytes((tmp_path / "scores.jsonl").read_bytes() + b'{"step": 2')  # and half a row
    make(tmp_path, resume_step=40, marks=marks).close()
    assert {name: (tmp_path / name).read_bytes() for name in RECORDS} == whole
    assert "dropped 3 record rows" in (tmp_path / "console.log").read_text()
    assert json.loads(json.dumps(marks)) == marks and not list(tmp_path.glob("*.damaged"))


@pytest.mark.parametrize("name", RECORDS)
def test_damaged_records_are_named_set_aside_and_kept_as_far_as_they_can_be_read(tmp_path, name):
    write_run(tmp_path, range(10, 50, 10))
    with make(tmp_path, resume_step=40) as log:
        marks = log.mark()
    path, whole = tmp_path / name, (tmp_path / name).read_bytes()
    digit = whole.index(b'"step": ') + 8
    damages = [whole[:digit] + b"9" + whole[digit + 1:], whole[:-5], b"", whole[1:],
               whole[:digit] + b'""' + whole[digit + 2:]]  # the last: still JSON, but no number
    for damaged in damages:
        path.write_bytes(damaged)
        with make(tmp_path, resume_step=40, marks=marks) as log:
            log.episode(1.0, 1, 50, 25)
        assert f"warning: {path} is damaged" in (tmp_path / "console.log").read_text()
        assert (tmp_path / f"{name}.damaged").read_bytes() == damaged
        assert all(row["step"] <= 200 for row in strict(path))
        (tmp_path / "console.log").unlink()
    path.unlink()
    make(tmp_path, resume_step=40, marks=marks).close()
    assert f"{path} is missing" in (tmp_path / "console.log").read_text()
    path.write_bytes(whole)
    for none in (None, {}):  # of a version that wrote no marks
        make(tmp_path, resume_step=40, marks=none).close()
        assert path.read_bytes() == whole


def test_cutting_by_step_leaves_a_good_file_alone(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert rewind(path, None, 5) == (0, "") and read_rows(path) == []
    path.write_bytes(b'{"step": 1}\n{"step": 5}\n')
    inode = path.stat().st_ino
    assert rewind(path, None, 5) == (0, "") and path.stat().st_ino == inode
    path.write_bytes(b'{"step": 1}\n\xff\xfe\n[1]\n{"step": 5}')  # garbage, not an object, last newline missing
    assert rewind(path, None, 5) == (2, "") and path.read_bytes() == b'{"step": 1}\n{"step": 5}\n'
    assert list(tmp_path.iterdir()) == [path]


# Disks

@pytest.mark.parametrize("name", ["metrics.jsonl", "scores.jsonl", "eval.jsonl", "console.log"])
def test_full_disk(tmp_path, name, monkeypatch):
    for place in ("run.jsonl", "run.progress"):  # where a link or a device would be refused
        monkeypatch.setattr(f"hdfast.{place}.regular", None)
    monkeypatch.setattr("hdfast.run.jsonl.content", lambda path: b"")
    (tmp_path / name).symlink_to("/dev/full")
    log = make(tmp_path)
    with pytest.raises(RunError, match=rf"cannot write .*{name}.*No space left.*Free some space"):
        log.evaluation([1.0], [1], 1, 0)
        log.episode(1.0, 1, 1, 0)
        log.message("note")
    log.close()  # which fails no second time


def test_a_row_that_does_not_fit_leaves_no_half_line(tmp_path):
    file = JsonLines(tmp_path / "rows.jsonl")
    file.append({"step": 1})
    with largest_file(20):
        with pytest.raises(RunError, match="File too large"):
            file.append({"step": 2, "x": "y" * 100})
        with pytest.raises(RunError, match="File too large"):
            replace(tmp_path / "other", b"z" * 100)
    file.append({"step": 3})
    assert strict(tmp_path / "rows.jsonl") == [{"step": 1}, {"step": 3}]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot create .*file/run"):
        make(tmp_path / "file" / "run")


# Rates

class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    perf_counter = time = monotonic


def test_rates_and_timers(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)

    def spend(name, seconds):
        with log.timer(name):
            clock.now += seconds

    with make(tmp_path) as log:
        spend("train", 4)
        spend("act", 1)
        spend("train", 2)
        clock.now += 3
        row = log.scalars({}, 50, 30)
        assert row["fps/policy"] == pytest.approx(20) and row["fps/train"] == pytest.approx(3)
        assert row["timer/train"] == pytest.approx(0.6) and row["timer/act"] == pytest.approx(0.1)
        spend("eval", 25)
        spend("save", 5)
        clock.now += 10
        row = log.scalars({}, 100, 40)  # evaluation and saving do not slow the rates down
        assert row["fps/policy"] == pytest.approx(20) and row["fps/train"] == pytest.approx(1)
        assert row["timer/eval"] == pytest.approx(0.625) and "timer/train" not in row
    with make(tmp_path, resume_step=100) as log:
        clock.now += 10
        assert "fps/policy" not in log.scalars({}, 120, 60)  # how far back the steps began is not known
        clock.now += 10
        row = log.scalars({}, 150, 80)
        assert row["fps/policy"] == pytest.approx(12) and row["fps/train"] == pytest.approx(2)


def test_a_timer_counts_a_block_that_fails(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    with make(tmp_path) as log:
        with pytest.raises(KeyError), log.timer("env"):
            clock.now += 5
            raise KeyError
        assert log.scalars({}, 1, 0)["timer/env"] == pytest.approx(1)


# TensorBoard

def board(path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    return EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0}).Reload()


def test_tensorboard(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 12, 16, 3), np.uint8)
    with make(tmp_path) as log:
        log.scalars({"train/val": 0.25, "train/kl": float("nan")}, 10, 1)
        log.evaluation([1.0, 4.0], [1, 1], 10, 1)
        gif = log.video("eval/policy", frames, 10)
        png = log.openloop(np.zeros((6, 24, 16, 3), np.uint8), 10, context=2)
    assert (gif.name, png.name) == ("eval-policy-000000040.gif", "report-openloop-image-000000040.png")
    assert gif.read_bytes()[:6] == b"GIF89a" and png.read_bytes()[1:4] == b"PNG"
    found = board(tmp_path)
    assert [(event.step, event.value) for event in found.Scalars("train/val")] == [(40, 0.25)]
    assert np.isnan(found.Scalars("train/kl")[0].value) and found.Scalars("eval/score")[0].value == 2.5
    image, = found.Images("eval/policy")
    assert (image.step, image.height, image.width, image.encoded_image_string[:6]) == (40, 12, 16, b"GIF89a")
    assert set(found.Tags()["images"]) == {"eval/policy", "report/openloop/image", "report/openloop/strip"}


def test_tensorboard_groups_curves(tmp_path):
    """The page "Custom scalars" is laid out, and every pattern of it finds a scalar of the documentation."""
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata
    write_run(tmp_path, [10])
    event, = board(tmp_path).Tensors(metadata.CONFIG_SUMMARY_TAG)
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [section.title for section in layout.category] == ["score", "world model", "behavior", "speed"]
    names = re.findall(r"^\| `([\w/]+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    patterns = [tag for section in layout.category for chart in section.chart for tag in chart.multiline.tag]
    assert len(patterns) > 10 and not [p for p in patterns if not any(re.search(p, name) for name in names)]
    coefficients = layout.category[1].chart[2].multiline.tag[0]
    assert sum(bool(re.search(coefficients, name)) for name in names) == 3


def test_pictures_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_PICTURES", 2)
    frames, grid = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((4, 24, 8, 3), np.uint8)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "eval-policy-mine.gif").touch()
    with make(tmp_path) as log:
        for step in (5, 40, 300):
            log.video("eval/policy", frames, step)
            log.openloop(grid, step, context=1)
        events = next(tmp_path.glob("events.*"))
        monkeypatch.setattr(module, "BOARD_BYTES", events.stat().st_size)
        before = events.stat().st_size
        log.video("eval/policy", frames, 300)
        assert events.stat().st_size == before
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == [
        "eval-policy-000000160.gif", "eval-policy-000001200.gif", "eval-policy-mine.gif",
        "report-openloop-image-000000160.gif", "report-openloop-image-000000160.png",
        "report-openloop-image-000001200.gif", "report-openloop-image-000001200.png"]
    with make(tmp_path, resume_step=300) as log:  # what the starts before wrote counts
        events = max(tmp_path.glob("events.*"))
        before = events.stat().st_size
        log.video("eval/policy", frames, 310)
        assert events.stat().st_size == before
        log.scalars({"a": 1.0}, 310, 1)
        assert events.stat().st_size > before


def test_tensorboard_forgets_what_a_resume_drops(tmp_path):
    write_run(tmp_path, range(10, 60, 10))
    write_run(tmp_path, range(40, 60, 10), resume_step=30)
    found = board(tmp_path)
    assert [event.step for event in found.Scalars("train/loss/rew")] == [40, 80, 120, 160, 200]
    write_run(tmp_path, [10])
    assert [event.step for event in board(tmp_path).Scalars("train/loss/rew")] == [40]


def test_without_tensorboard(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    write_run(tmp_path, [10])
    assert len(strict(tmp_path / "metrics.jsonl")) == 2 and not list(tmp_path.glob("events*"))
    assert capsys.readouterr().out.count("pip install tensorboard") == 1


def test_tensorboard_is_loaded_by_the_first_logger(tmp_path):
    program = ("import sys, pathlib; from hdfast.run.logger import Logger; print('torch' in sys.modules, "
               "'tensorboard' in sys.modules)\n"
               f"with Logger(pathlib.{tmp_path!r}, action_repeat=1): print('tensorboard' in sys.modules)")
    assert python("-c", program).stdout.split() == ["False", "False", "True"]
    assert list(tmp_path.glob("events.out.tfevents*"))


# Names

def test_every_scalar_is_documented(tmp_path):
    train(Config.preset("debug", task="dummy", device="cpu", logdir=str(tmp_path / "run"), **{"run.steps": 220}))
    table = re.findall(r"^\| `([\w/]+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    written = {name for row in strict(tmp_path / "run" / "metrics.jsonl") for name in row}
    assert len(written) > 60 and not written - set(table)
    rest = {name for name in set(table) - written if not name.startswith("report/")}
    assert rest == {"usage/gpu_mem", "eval/human_normalized", "eval/success", "eval/policy"}  # not on this machine
    assert len(table) == len(set(table))
