"""The progress line: its text, its estimate of the time left, and where it is shown."""

import os
import re
import sys
from types import SimpleNamespace

import pytest

from hdfast.run import progress as module
from hdfast.run.progress import Eta, ProgressLine, compact, duration, line_segments, number
from progress_case import drain

SCALARS = {"fps/policy": 1912.4, "fps/train": 61.2, "train/loss/image": 31.24, "train/loss/rew": 0.412,
           "train/kl": 1.82, "train/loss/dyn": 9.0, "train/harmony/rew_coeff": 0.9,
           "train/harmony/image_coeff": 0.0204, "train/harmony/kl_coeff": 0.6}
LINE = ("pong  162k/400k frames  40%  18m left  score 14.2 (best 17.0)  policy 1.9k fps  train 61 upd/s  "
        "img 31.2 rew 0.41 kl 1.8  harmony 0.9/0.02/0.6")


def text(*args):
    return "  ".join(part for part, _ in line_segments(*args))


def test_the_line():
    assert text("pong", 162_000, 400_000, 1080.0, SCALARS, 14.2, 17.0) == LINE
    assert text("", 0, 400_000, None, {}, None, None) == "0/400k frames  0%  ? left"
    off = {name: value for name, value in SCALARS.items() if "harmony" not in name and name != "train/kl"}
    assert text("pong", 400_000, 400_000, 0.0, off, -21.0, None).endswith("score -21.0  policy 1.9k fps  "
                                                                        "train 61 upd/s  img 31.2 rew 0.41 kl 9")
    broken = text("pong", 1, 2, 1.0, SCALARS | {"train/loss/image": float("nan")}, float("nan"), 12345.6)
    assert "img nan rew" in broken and "score nan (best 12,346)" in broken


@pytest.mark.parametrize(("value", "shown"), [
    (0, "0"), (0.44, "0.4"), (9.96, "10"), (61, "61"), (999.4, "999"), (999.6, "1k"), (1912, "1.9k"), (10_400, "10.4k"),
    (99_960, "100k"), (162_000, "162k"), (999_499, "999k"), (999_600, "1M"), (1_240_000, "1.2M")])
def test_compact(value, shown):
    assert compact(value) == shown


def test_duration_and_number():
    assert [duration(x) for x in (0, 59.4, 59.6, 89, 3569, 3571, 7500, 86_399, 90_000)] == [
        "0s", "59s", "1m", "1m", "59m", "1h00m", "2h05m", "1d00h", "1d01h"]
    assert [number(x) for x in (0.412, 31.24, 1234.5, -0.004)] == ["0.41", "31.2", "1,234", "-0.004"]


# Time left

def feed(eta, start, step, rate, seconds, update=0, update_rate=0.0, every=0.05):
    """Progress at a constant rate; returns time, step and update at its end."""
    for i in range(round(seconds / every) + 1):
        t = i * every
        eta.add(start + t, step + int(rate * t), update + int(update_rate * t))
    return start + seconds, step + int(rate * seconds), update + int(update_rate * seconds)


def test_the_random_start_does_not_flatter_the_estimate():
    eta = Eta()
    assert eta.seconds_left(5.0, 0, 100) is None
    now, step, _ = feed(eta, 5.0, 0, 1000, 2)
    assert eta.seconds_left(now, step, 10_000) is None
    now, step, _ = feed(eta, now, step, 50, 3, update=1, update_rate=50)
    assert eta.seconds_left(now, step, 10_000) == pytest.approx((10_000 - step) / 50, rel=0.05)


def test_the_estimate_follows_a_slower_machine_and_counts_evaluations():
    eta = Eta()
    now, step, update = feed(eta, 0.0, 0, 100, 100, update_rate=100)
    now, step, update = feed(eta, now, step, 20, 150, update=update, update_rate=20)
    assert eta.seconds_left(now, step, 20_000) == pytest.approx((20_000 - step) / 20, rel=0.05)
    eta.add(now + 130, step + 1, update)  # an evaluation
    assert eta.seconds_left(now + 130, step + 1, 20_000) > 1.5 * (20_000 - step) / 20
    assert len(eta._points) < 3000


def test_a_resumed_run_counts_this_session_only():
    eta = Eta()
    eta.add(1000.0, 50_000, 49_000)
    assert eta.seconds_left(1000.0, 50_000, 100_000) is None
    now, step, _ = feed(eta, 1000.0, 50_000, 100, 5, update=49_000, update_rate=100)
    assert eta.seconds_left(now, step, 100_000) == pytest.approx((100_000 - step) / 100, rel=0.05)
    assert eta.seconds_left(now, 100_000, 100_000) == 0


# Where it is shown

@pytest.fixture(autouse=True)
def no_time_passes(monkeypatch):
    """Or there would be an estimate of the time left."""
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 5.0))


def show(line, step, scalars=None, **values):
    line.show(step, 1000, step, scalars, values.get("score"), values.get("best"))


def test_plain_lines_once_per_log_interval(tmp_path, capsys):
    line = ProgressLine(tmp_path / "log", task="atari_pong", action_repeat=4)
    line.message("[bold]hello")
    for step in range(100):
        show(line, step)
    show(line, 100, SCALARS, score=1.0, best=2.0)
    show(line, 101)
    line.close()
    out = capsys.readouterr().out
    first, second = out.splitlines()
    assert first == "[bold]hello" and second.startswith("pong  400/4k frames  10%  ? left  score 1.0 (best 2.0)")
    assert (tmp_path / "log").read_text() == out


def test_the_run_outlives_the_reader_of_its_output(tmp_path, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        line = ProgressLine(tmp_path / "log", task="", action_repeat=1)
        line.message("first")
        line.message("second")
        line.close()
        monkeypatch.undo()
        with pytest.raises(BrokenPipeError):  # what the first message left in Python's own buffer
            gone.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


def test_the_run_outlives_its_terminal(tmp_path, monkeypatch):
    master, slave = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with open(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        line = ProgressLine(tmp_path / "log", task="", action_repeat=1)
        os.close(master)
        line.message("first")
        line.message("second")
        show(line, 10, SCALARS)
        line.close()
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), slave)  # for what is left in Python's own buffer
    assert (tmp_path / "log").read_text().startswith("first\nsecond\n")


def test_live_line(tmp_path, monkeypatch):
    master, slave = os.openpty()
    for name, value in (("TERM", "xterm"), ("COLUMNS", "70"), ("LINES", "20")):
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "REFRESH", 0.0)
    with open(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        line = ProgressLine(tmp_path / "log", task="atari_pong", action_repeat=4)
        show(line, 10, SCALARS, score=1.0, best=2.0)
        show(line, 20)
        line.message("[bold]note")
        show(line, 30)
        print("CLOSING", file=terminal)
        line.finish()
        line.message("summary")
        line.close()
        monkeypatch.undo()
    live, _, closing = drain(master).partition("CLOSING")
    os.close(master)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", live)
    rows = [row.strip() for row in re.split(r"[\r\n]+", plain) if row.strip()]
    assert rows[0].startswith("pong  40/4k frames  1%  ? left  score 1.0 (best 2.0)")
    assert rows[-1].startswith("pong  120/4k frames  3%")
    assert "[bold]note" in rows and all(len(row) <= 70 for row in rows)
    assert plain.count("\n") == 1  # the message's own: the live line never scrolls
    assert "\x1b[?25h" in closing
    last, summary = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", closing).split("\r")[-3:-1]
    assert last.startswith("pong  120/4k frames  3%") and last.endswith("harmony 0.9/0.02/0.6")
    assert summary == "\nsummary", "the summary has lines of its own below the last state"
    mirror = (tmp_path / "log").read_text().splitlines()
    assert len(mirror) == 3 and mirror[0].startswith("pong  40/4k") and mirror[1:] == ["[bold]note", "summary"]
