"""`hdfast sweep` with Ray itself: kills lose nothing, failures stop nobody."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from checkout import ROOT
from hdfast.run.durable import is_held

pytest.importorskip("ray", reason="needs Ray: pip install 'hdfast[sweep]'")
TASK = "gym_gated_gym:Gated-v0"  # its runs wait in their middle: nothing depends on who is faster
GATED = ("--tasks", TASK, "--cpus", "2", "--env.timeout", "0", "--run.eval_every", "0", "--run.video_every", "0")


class Driver:
    """A sweep of short runs in a process of its own."""

    def __init__(self, tmp_path, *flags):
        self.root, self.output = tmp_path / "runs", tmp_path / "output"
        words = ["sweep", "--configs", "debug", "--logdir", str(self.root), *flags]
        self.log = open(self.output, "a")
        env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"}
        self.process = subprocess.Popen([sys.executable, "-m", "hdfast", *words], stdout=self.log, stderr=self.log,
                                        cwd=tmp_path, env=env)

    def until(self, condition, seconds=300):
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline and self.process.poll() is None, self.output.read_text()
            time.sleep(0.05)
        return found

    def end(self, seconds=300):
        code = self.process.wait(seconds)
        self.log.close()
        return code

    def meta(self):
        found = {}
        for path in self.root.glob("*/*/meta.json"):
            found[str(path.parent.relative_to(self.root))] = json.loads(path.read_text())
        return found

    def saved_and_running(self):
        """Runs that are in their middle, with their process: they have a checkpoint and go on, or wait."""
        return {name: meta["starts"][-1]["pid"] for name, meta in self.meta().items()
                if meta["status"] == "running" and "step" in meta["starts"][-1]}

    def let_go(self, *names):
        for name in names:
            (self.root / f"{name}.go").touch()

    def nobody_left(self):
        return not any(is_held(path.parent) for path in self.root.glob("*/*/.lock"))


@pytest.fixture
def start(tmp_path):
    """Starts sweeps; where the test fails, what still runs ends with it."""
    started = []

    def begin(*flags):
        started.append(Driver(tmp_path, *flags))
        return started[-1]

    yield begin
    for driver in started:
        driver.process.terminate()
        driver.end()


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_kills_lose_nothing(start):
    """Three runs on two cores: a worker is killed, then the driver; the same command finishes the rest and no more."""
    flags = (*GATED, "--seeds", "0-2")
    first = start(*flags)
    first.until(lambda: len(first.saved_and_running()) == 2)
    (killed, pid), (done, _) = first.saved_and_running().items()
    os.kill(parent_of(pid), signal.SIGKILL)
    first.until(lambda: "started again, retry 1 of 3" in first.output.read_text())
    first.let_go(done)  # the third run has the place of the killed one
    first.until(lambda: "resumed from" in (first.root / killed / "output.log").read_text())
    first.until(lambda: first.meta()[done]["finished"] and len(first.saved_and_running()) == 2)
    first.process.kill()
    first.end()
    deadline = time.monotonic() + 120
    while not first.nobody_left():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    before = first.meta()
    assert [name for name, meta in before.items() if meta["finished"]] == [done] and len(before) == 3

    second = start(*flags)
    second.let_go(*(f"{TASK}/{seed}" for seed in range(3)))
    assert second.end() == 0, second.output.read_text()
    after = second.meta()
    assert len(after) == 3 and all(meta["finished"] == 400 for meta in after.values())
    assert after[done] == before[done], "finished work is not repeated"
    for name, meta in after.items():
        assert len(meta["starts"]) == {killed: 3, done: 1}.get(name, 2) and meta["starts"][-1]["step"] == 400
        log = (second.root / name / "output.log").read_text()
        assert log.count("done: 400 steps") == 1 and log.count("resumed from") == len(meta["starts"]) - 1
    out = second.output.read_text()
    assert "3 runs in" in out and "1 finished before" in out and "3 runs: 3 finished" in out


@pytest.mark.slow
def test_interrupted_and_failing_runs(tmp_path, start):
    """A run that fails is told with its log, the other goes on; Ctrl-C saves it, and the same command continues it."""
    broken = tmp_path / "runs" / TASK / "0"
    (broken / "metrics.jsonl").mkdir(parents=True)
    flags, name = (*GATED, "--seeds", "0-1", "--run.save_every", "1000000"), f"{TASK}/1"
    first = start(*flags)
    first.until(lambda: f"{TASK}, seed 0: failed (exit code 1)" in first.output.read_text())
    first.until(lambda: (first.root / name / "scores.jsonl").is_file()
                and len((first.root / name / "scores.jsonl").read_text().splitlines()) > 9)
    first.process.send_signal(signal.SIGINT)
    assert first.end() == 130
    out = first.output.read_text()
    assert "hdfast: error: " in out and "stopping; every run saves" in out and "same command continues the sweep" in out
    meta = first.meta()[name]
    assert meta["status"] == "stopped by SIGTERM" and 0 < meta["starts"][0]["step"] < 400 and first.nobody_left()
    (broken / "metrics.jsonl").rmdir()
    first.let_go(name, f"{TASK}/0")
    second = start(*flags)
    assert second.end() == 0
    assert [meta["finished"] for meta in second.meta().values()] == [400, 400]
    assert f"resumed from {meta['starts'][0]['step']:012d}" in (second.root / name / "output.log").read_text()


@pytest.mark.slow
def test_more_than_the_cluster_has(start):
    driver = start("--tasks", "dummy", "--cpus", "1", "--cpus_per_job", "3")
    assert driver.end() == 2 and "the cluster has 1 CPU cores" in driver.output.read_text()
    assert not driver.root.exists()
