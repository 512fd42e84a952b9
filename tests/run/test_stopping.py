"""Stopping: real processes, whatever they are doing, save within five seconds and end; a second SIGINT ends at once."""

import os
import signal
import time
from pathlib import Path

import pytest

import scripted_run
from agent_case import unequal
from hdfast import trainer
from hdfast.agent import Agent
from hdfast.learner import Learner
from hdfast.replay.sequences import Replay
from hdfast.run import checkpoint
from hdfast.run.directory import read_meta
from hdfast.run.logger import Logger
from hdfast.run.stopping import Stopped, Stopping
from hdfast.trainer import Trainer
from scripted_run import small_config
from stopping_case import training

PROMISED = 5.0  # seconds until everything is saved, on a machine that does nothing else: counted by CPU time
WAITED = 50.0  # seconds; whoever waits for what is slow waits for a minute or more
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def slow_config(tmp_path, **overrides):
    return small_config("dummy_vector", logdir=str(tmp_path / "run"),
                        **{"run.steps": 10_000, "run.prefill": 40, "run.threads": 1,
                           "cuda_graphs": False, **overrides})  # a slow part is one of an update that calls Python


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and all its threads."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(("part", "number", "step", "updates"), [
    ("update", signal.SIGTERM, 64, 6), ("update", signal.SIGINT, 64, 6),
    ("environment", signal.SIGINT, 81, 10), ("evaluation", signal.SIGTERM, 50, 2)])
def test_a_process_saves_and_ends_in_time(tmp_path, part, number, step, updates):
    config = slow_config(tmp_path, **{"run.eval_every": 50 if part == "evaluation" else 0, "run.eval_episodes": 50})
    with training(part, config) as process:
        time.sleep(0.3)  # within the update, which goes to its end
        begin, spent = time.monotonic(), cpu_seconds(process.pid)
        process.send_signal(number)
        while not (line := process.stdout.readline()).startswith("stopped by"):
            assert line, process.communicate()
        # Then comes the end of Python, a second of CPU time.
        assert cpu_seconds(process.pid) - spent < PROMISED and time.monotonic() - begin < WAITED
        _, err = process.communicate(timeout=60)
    assert process.returncode == CODES[number] and "Ctrl-C again exits at once" in err
    assert read_meta(tmp_path / "run")["status"] == f"stopped by {number.name}"
    found = checkpoint.latest(tmp_path / "run" / "ckpt")
    made = [int(found.tensors[f"opt/{name}/step"]) for name in ("model", "actor", "critic")]
    assert (found.step, found.manifest["updates"], made) == (step, updates, [updates] * 3)


def test_a_second_sigint_ends_at_once_even_in_native_code(tmp_path):
    later = tmp_path / "later"  # the process's clock stands still until this is there
    with training("native", slow_config(tmp_path), LATER=str(later)) as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # a launcher's and the terminal's: one request
        process.send_signal(signal.SIGTERM)
        while "Ctrl-C again exits at once" not in (line := process.stderr.readline()):
            assert line
        time.sleep(1)
        assert process.poll() is None
        later.touch()
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert process.returncode == 130
    assert read_meta(tmp_path / "run")["status"] == "running"


# What a signal interrupts, in this process

def asking(real=None):
    """In place of a function: a signal, whose handler must not let it go on."""
    def call(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on")
    return call


def new_trainer(tmp_path, **overrides) -> Trainer:
    config = small_config("dummy", **{"run.steps": 60, "run.prefill": 40, "run.video_every": 30, "run.eval_every": 50,
                                      **overrides})
    return scripted_run.new_trainer(config, tmp_path)


@pytest.mark.parametrize(("owner", "name", "step"), [
    (Replay, "restore", None), (Agent, "openloop", 60), (Logger, "video", 50), (trainer, "learning_curve", 60)])
def test_what_takes_long_is_interrupted_and_made_up_for(tmp_path, monkeypatch, owner, name, step):
    overrides = {"run.video_every": 70} if name in ("openloop", "video") else {}  # the last strip alone
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as error:
        patch.setattr(owner, name, asking())
        new_trainer(tmp_path, **overrides).run()
    assert error.value.code == 143
    found = checkpoint.latest(tmp_path / "ckpt")
    assert found is None if step is None else found.step == step
    assert read_meta(tmp_path)["status"] == "stopped by SIGTERM"
    t = new_trainer(tmp_path, **overrides)
    t.run()
    assert (t.step, t.updates, t.agent.updates) == (60, 5, 5) and (tmp_path / "curve.png").exists()
    assert {path.name[:14] for path in (tmp_path / "videos").glob("report*png")} == {"report-openloo"}


@pytest.mark.parametrize("name", ["imagine", "critic_gradient"])
def test_a_stop_waits_for_the_update_under_way(tmp_path, monkeypatch, name):
    """To the bit what a run has that was never stopped."""
    real, calls = getattr(Learner, name), []

    def stop(self, *args):
        calls.append(name)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *args)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Learner, name, stop)
        new_trainer(tmp_path / "stopped").run()
    straight = new_trainer(tmp_path / "straight", **{"run.steps": 52})
    straight.run()
    got, want = (checkpoint.latest(tmp_path / run / "ckpt") for run in ("stopped", "straight"))
    assert (got.step, got.manifest["updates"]) == (want.step, want.manifest["updates"]) == (52, 3)
    assert unequal(got.tensors, want.tensors) <= {"rng/act"}  # the other run was evaluated
    assert got.manifest["replay_rng"] == want.manifest["replay_rng"]


def test_asking():
    stopping = Stopping()
    with stopping.interruptible():
        assert stopping.reason() is None
    with stopping.listening():
        with pytest.raises(Stopped), stopping.interruptible():
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("went on")
        with pytest.raises(Stopped), stopping.interruptible():
            pytest.fail("asked before")
    assert stopping.reason() == "SIGINT"
    with pytest.raises(KeyboardInterrupt):
        stopping.leave()


def test_a_run_under_nohup_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with (stopping := Stopping()).listening():
            os.kill(os.getpid(), signal.SIGHUP)
        assert stopping.reason() is None
    finally:
        signal.signal(signal.SIGHUP, before)
