"""`hdfast sweep` with Ray itself: kills lose nothing, failures stop nobody."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hdfast.durable import is_held

pytest.importorskip("ray", reason="needs Ray: pip install 'hdfast[sweep]'")
ROOT = Path(__file__).resolve().parents[1]


class Driver:
    """A sweep of short runs in a process of its own."""

    def __init__(self, tmp_path, *flags):
        self.root, self.output = tmp_path / "runs", tmp_path / "output"
        words = ["sweep", "--configs", "debug", "--logdir", str(self.root), *flags]
        self.log = open(self.output, "a")
        env = os.environ | {"PYTHONPATH": str(ROOT)}
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
        for path in self.root.rglob("meta.json"):
            found[str(path.parent.relative_to(self.root))] = json.loads(path.read_text())
        return found

    def saved_and_running(self):
        """A run that is in its middle: it has a checkpoint and goes on."""
        for name, meta in self.meta().items():
            start = meta["starts"][-1]
            if meta["status"] == "running" and start.get("step", 400) < 300:
                return name, start["pid"]
        return None

    def nobody_left(self):
        return not any(is_held(path.parent) for path in self.root.rglob(".lock"))


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_kills_lose_nothing(tmp_path):
    """Four runs on two cores: a worker is killed, then the driver; the same command finishes the rest and no more."""
    flags = ("--tasks", "atari_pong,atari_breakout", "--seeds", "0-1", "--cpus", "2", "--run.eval_every", "0",
             "--run.video_every", "0")
    first = Driver(tmp_path, *flags)
    name, pid = first.until(first.saved_and_running)
    os.kill(parent_of(pid), signal.SIGKILL)
    first.until(lambda: "started again, retry 1 of 3" in first.output.read_text())
    first.until(lambda: "resumed from" in (first.root / name / "output.log").read_text())
    first.until(lambda: any(meta["finished"] for meta in first.meta().values()))
    other, pid = first.until(first.saved_and_running)
    os.kill(pid, signal.SIGSTOP)  # or it may finish before Ray notices that the driver is gone
    worker = parent_of(pid)
    first.process.kill()
    first.end()
    deadline = time.monotonic() + 120
    while parent_of(pid) == worker:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(pid, signal.SIGCONT)
    deadline = time.monotonic() + 120
    while not first.nobody_left():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    before = first.meta()
    done = {name for name, meta in before.items() if meta["finished"]}
    assert done and other not in done

    second = Driver(tmp_path, *flags)
    assert second.end() == 0, second.output.read_text()
    after = second.meta()
    assert len(after) == 4 and all(meta["finished"] == 400 for meta in after.values())
    assert all(after[name] == before[name] for name in done), "finished work is not repeated"
    assert after[other]["starts"][-1]["step"] == 400 and len(after[other]["starts"]) > len(before[other]["starts"]) - 1
    for name in after:
        log = (second.root / name / "output.log").read_text()
        assert log.count("done: 400 steps") == 1 and ("resumed from" in log) == (len(after[name]["starts"]) > 1)
    out = second.output.read_text()
    assert f"runs: 4, {len(done)} of them finished before" in out and "4 runs: 4 finished" in out


@pytest.mark.slow
def test_interrupted_and_failing_runs(tmp_path):
    """A run that fails is told with its log, the other goes on; Ctrl-C saves it, and the same command continues it."""
    broken = tmp_path / "runs" / "dummy" / "0"
    (broken / "metrics.jsonl").mkdir(parents=True)
    flags = ("--tasks", "dummy", "--seeds", "0-1", "--run.steps", "1200", "--run.save_every", "1000000")
    first = Driver(tmp_path, *flags)
    first.until(lambda: "dummy, seed 0: failed (exit code 1)" in first.output.read_text())
    first.until(lambda: (first.root / "dummy" / "1" / "scores.jsonl").is_file()
                and len((first.root / "dummy" / "1" / "scores.jsonl").read_text().splitlines()) > 9)
    first.process.send_signal(signal.SIGINT)
    assert first.end() == 130
    out = first.output.read_text()
    assert "hdfast: error: " in out and "stopping; every run saves" in out and "same command continues the sweep" in out
    meta = first.meta()["dummy/1"]
    assert meta["status"] == "stopped by SIGTERM" and 0 < meta["starts"][0]["step"] < 1200 and first.nobody_left()
    (broken / "metrics.jsonl").rmdir()
    second = Driver(tmp_path, *flags)
    assert second.end() == 0
    assert [meta["finished"] for meta in second.meta().values()] == [1200, 1200]
    assert f"resumed from {meta['starts'][0]['step']:012d}" in (second.root / "dummy" / "1" / "output.log").read_text()


@pytest.mark.slow
def test_more_than_the_cluster_has(tmp_path):
    driver = Driver(tmp_path, "--tasks", "dummy", "--cpus", "1", "--cpus_per_job", "3")
    assert driver.end() == 2 and "the cluster has 1 CPU cores" in driver.output.read_text()
    assert not driver.root.exists()
