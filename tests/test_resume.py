"""Resuming a run: after a kill, with other settings, when it is finished, and what the files hold then."""

import dataclasses
import importlib.metadata
import json
import signal
import sys

import pytest
import torch

from agent_case import unequal
from hdfast import ops, rng, trainer
from hdfast.config import Config
from hdfast.errors import ConfigError, RunError
from hdfast.evaluation import evaluate_run, load_agent
from hdfast.protocol import Schedule
from hdfast.run import checkpoint
from hdfast.run.directory import RunDir, finished_step, read_meta
from hdfast.run.jsonl import read_rows
from hdfast.trainer import Trainer
from programs import python
from scripted_run import ScriptedAgent, ScriptedEnvs, new_trainer, short_episodes, small_config
from stopping_case import training

SETTINGS = {"run.steps": 120, "run.prefill": 40, "run.save_every": 24, "run.log_every": 10}


def of_steps(config: Config, steps: int) -> Config:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, steps=steps))


def scripted(config, logdir):
    t = Trainer(config, ScriptedAgent(config), ScriptedEnvs([5]), logdir, eval_envs=short_episodes)
    t.run()
    return t


def state_of(t: Trainer) -> dict:
    """Everything that a checkpoint must restore, except the parameters."""
    return {"counters": t._counters(), "replay": t.replay.checksum(), "replay_rng": rng.to_text(t.replay.rng),
            "prefill_rng": t._prefill_rng.bit_generator.state}


def test_a_killed_run_continues_bit_for_bit(tmp_path, monkeypatch):
    config = small_config("dummy", logdir=str(tmp_path / "run"), **SETTINGS)
    flags = [x for name, value in config.flat().items() for x in (f"--{name}", str(value))]
    ckpt = tmp_path / "run" / "ckpt"
    with training("environment", config) as process:  # at step 81
        process.kill()
    assert process.returncode == -signal.SIGKILL
    saved = checkpoint.latest(ckpt)
    assert saved.step == 72 and saved.manifest["updates"] == Schedule.of(config.run).updates_due(saved.step) == 8

    # The saved state is that of a run without a kill...
    straight = new_trainer(of_steps(config, saved.step), tmp_path / "straight")
    straight.run()
    assert not unequal(straight.agent.state_dict(), saved.tensors)

    # ... and what the next start begins with: counters, replay and generators, and every tensor of the agent.
    loaded = new_trainer(config, tmp_path / "run")
    begun = {}
    monkeypatch.setattr(loaded, "_loop", lambda: begun.update(state_of(loaded)))
    monkeypatch.setattr(loaded, "_finish", lambda: None)
    loaded.run()
    assert not unequal(loaded.agent.state_dict(), saved.tensors)
    assert begun["replay"] == straight.replay.checksum()
    assert begun["replay_rng"] == rng.to_text(straight.replay.rng) == saved.manifest["replay_rng"]
    assert begun["counters"] == {k: saved.manifest[k] for k in begun["counters"]}
    assert begun["prefill_rng"] == saved.manifest["prefill_rng"]

    told = python("-m", "hdfast", "train", *flags).stdout
    place = f"step {saved.step} ({saved.step} frames), update {saved.manifest['updates']}"
    assert f"resumed from {saved.path.name}: {place}" in told
    last = checkpoint.latest(ckpt)
    assert (last.step, last.manifest["updates"]) == (120, 20)
    for name in ("metrics", "scores", "eval"):
        steps = [row["step"] for row in read_rows(tmp_path / "run" / f"{name}.jsonl")]
        assert steps and steps == sorted(steps)
    logged = [row["step"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "replay/items" in row]
    assert logged == list(range(10, 121, 10))  # every interval once


def test_a_finished_run_is_left_alone_until_it_is_given_more_steps(tmp_path, monkeypatch, capsys):
    config = small_config("dummy_vector", logdir=str(tmp_path / "run"), **SETTINGS | {"run.steps": 60})
    trainer.train(config)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert finished_step(tmp_path / "run") == 60
    with monkeypatch.context() as m:
        m.setattr(trainer, "make_envs", lambda *a, **k: pytest.fail("a finished run needs no environments"))
        trainer.train(config)
        assert "is finished: 60 steps" in capsys.readouterr().out
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    trainer.train(of_steps(config, 100))
    found = checkpoint.latest(tmp_path / "run" / "ckpt")
    assert (found.step, found.manifest["updates"]) == (100, 15)
    assert [row["step"] for row in read_rows(tmp_path / "run" / "eval.jsonl")] == [60, 100]
    assert finished_step(tmp_path / "run") == 100
    assert json.loads((tmp_path / "run" / "config.json").read_text())["run"]["steps"] == 100


def test_a_start_with_nothing_to_save_clears_leftovers(tmp_path):
    scripted(small_config(**SETTINGS), tmp_path)
    (tmp_path / "ckpt" / ".tmp-old-000000000100").mkdir()
    scripted(small_config(**SETTINGS), tmp_path)
    assert not list((tmp_path / "ckpt").glob(".*"))


def test_totals_survive(tmp_path):
    first = scripted(small_config(**SETTINGS), tmp_path)
    second = scripted(small_config(**SETTINGS | {"run.steps": 140}), tmp_path)
    assert (first.episodes, first.best_score, first.best_eval) == (20, 5.0, 4.0)
    assert (second.episodes, second.best_score, second.step) == (23, 5.0, 140)
    starts = read_meta(tmp_path)["starts"]
    assert [(s["status"], s["step"]) for s in starts] == [("finished", 120), ("finished", 140)]
    assert starts[0]["argv"] == sys.argv and starts[0]["versions"]["torch"] == importlib.metadata.version("torch")


def test_rows_after_the_checkpoint_are_dropped_and_the_replay_is_cut(tmp_path):
    config = small_config(**SETTINGS)

    class Crash(ScriptedAgent):
        def update(self, batch):
            super().update(batch)
            if self.updates == 14:  # step 96, which is not saved yet
                raise ZeroDivisionError

    t = Trainer(config, Crash(config), ScriptedEnvs([5]), tmp_path)
    with pytest.raises(ZeroDivisionError):
        t.run()
    assert read_meta(tmp_path)["status"] == "failed: ZeroDivisionError: "
    assert len(t.replay) == 96 and read_rows(tmp_path / "scores.jsonl")[-1]["step"] == 96
    agent = ScriptedAgent(config, on_update=lambda n: n == 1 and begun.append((t.step, t.updates, len(t.replay))))
    begun = []
    t = Trainer(config, agent, ScriptedEnvs([5]), tmp_path, eval_envs=short_episodes)
    t.run()
    assert begun == [(76, 8, 76)]  # from step 72 on; the new episode's first record is step 73
    scores = [row["step"] for row in read_rows(tmp_path / "scores.jsonl")]
    assert scores == [6 * k for k in range(1, 13)] + [72 + 6 * k for k in range(1, 9)]


def test_other_settings_are_refused(tmp_path):
    config = small_config(**SETTINGS | {"run.steps": 60})
    scripted(config, tmp_path)
    before = (tmp_path / "config.json").read_text()
    other = small_config(**SETTINGS | {"run.steps": 90, "run.save_every": 7, "run.batch_size": 5,
                                       "optim.actor_lr": 1e-3})
    with pytest.raises(ConfigError) as error:
        scripted(other, tmp_path)
    assert "says its config.json" in str(error.value)
    assert "optim.actor_lr (there 3e-05, now 0.001), run.batch_size (there 4, now 5);" in str(error.value)
    assert "save_every" not in str(error.value) and "run.steps" not in str(error.value)
    assert (tmp_path / "config.json").read_text() == before
    with pytest.raises(ConfigError, match=r"run\.batch_size"):
        trainer.train(dataclasses.replace(other, logdir=str(tmp_path)))


def test_a_truncated_checkpoint_is_passed_over_for_the_one_before(tmp_path):
    config = small_config(**SETTINGS)
    scripted(of_steps(config, 80), tmp_path)
    assert sorted(p.name[:12] for p in (tmp_path / "ckpt").glob("0*")) == [f"{72:012d}", f"{80:012d}"]
    newest = checkpoint.latest(tmp_path / "ckpt").path / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    t = scripted(config, tmp_path)
    assert (t.step, t.updates) == (120, 20)
    text = (tmp_path / "console.log").read_text()
    assert "is damaged" in text and "resumed from 000000000072: step 72" in text
    for path in (tmp_path / "ckpt").glob("*/tensors.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(RunError, match="no checkpoint"):
        scripted(of_steps(config, 130), tmp_path)


def test_one_process_at_a_time(tmp_path):
    config = small_config()
    first = RunDir(tmp_path, config, torch.device("cpu"))
    with pytest.raises(RunError, match="another process"):
        RunDir(tmp_path, config, torch.device("cpu"))
    first.close()
    RunDir(tmp_path, config, torch.device("cpu")).close()


def test_directories_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    for logdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="--logdir"):
            scripted(small_config(), logdir)
    (tmp_path / "run" / "ckpt" / "000000000100").mkdir(parents=True)
    with pytest.raises(RunError, match=r"no config\.json"):
        scripted(small_config(), tmp_path / "run")
    with pytest.raises(ConfigError, match="no run directory"):
        load_agent(tmp_path)
    (tmp_path / "config.json").write_text(small_config().to_json())
    with pytest.raises(RunError, match="no checkpoint yet"):
        load_agent(tmp_path)
    with pytest.raises(RunError, match="no checkpoint 'best' yet"):
        load_agent(tmp_path, tag="best")


def test_a_trained_agent_is_read_back_from_its_run(tmp_path):
    config = small_config("dummy", **SETTINGS | {"run.steps": 60})
    t = new_trainer(config, tmp_path)
    t.run()
    agent = load_agent(tmp_path, "cpu")
    assert not unequal(agent.state_dict(), t.agent.state_dict())
    assert agent.config == Config.from_json((tmp_path / "config.json").read_text())
    best = load_agent(tmp_path, "cpu", tag="best")
    assert not unequal(best.state_dict(), checkpoint.latest(tmp_path / "ckpt", tag="best").tensors)
    first, second = (evaluate_run(tmp_path, episodes=3, seed=5, envs=2, device="cpu") for _ in range(2))
    assert first == second and len(first.scores) == 3 and first.task == "dummy"
    with ops.use("auto"):
        evaluate_run(tmp_path, episodes=1, seed=5, device="cpu", backend="reference")
        assert ops.backend() == "reference"
