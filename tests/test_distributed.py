"""Data parallel training under torchrun: the same learner as one process, one writer, and a run that resumes."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hdfast import distributed, trainer
from hdfast.errors import ConfigError
from hdfast.run import checkpoint
from hdfast.run.directory import read_meta
from hdfast.run.jsonl import read_rows
from programs import ROOT, python
from scripted_run import small_config

CASE = ROOT / "tests" / "support" / "data_parallel_case.py"
ENV = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def torchrun(*words) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                             *words], env=ENV, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "images"])
def test_two_ranks_learn_what_one_process_learns(tmp_path, kind):
    """After five updates on the same batches, parameters, moments, return range and metrics agree within 1e-5."""
    out = str(tmp_path / "RANK.npz")
    python(str(CASE), out, kind, OMP_NUM_THREADS="1")
    process = torchrun(str(CASE), out, kind)
    assert process.wait(300) == 0, process.communicate()[1]
    alone, first, second = (np.load(tmp_path / f"{rank}.npz") for rank in ("alone", "0", "1"))
    assert set(alone.files) == set(first.files) and len(alone.files) > 50
    assert alone["state/opt/model/step"] == 5 and alone["state/behavior/high"] != 0
    for name in alone.files:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        if name != "names":
            np.testing.assert_allclose(first[name], alone[name], rtol=1e-5, atol=1e-5, err_msg=name)


def train_flags(tmp_path, **overrides) -> list[str]:
    config = small_config("dummy", logdir=str(tmp_path / "run"), **overrides)
    return ["-m", "hdfast", "train", *(f"--{name}={value}" for name, value in config.flat().items())]


@pytest.mark.slow
def test_a_run_of_two_ranks_is_one_run(tmp_path):
    """One writer; SIGTERM to torchrun saves; the same command continues, and so does a single process."""
    overrides = {"run.steps": 10**6, "run.prefill": 40, "run.log_every": 20}
    process, logdir = torchrun(*train_flags(tmp_path, **overrides)), tmp_path / "run"
    deadline = time.monotonic() + 200
    while not any("train/loss/image" in row for row in read_rows(logdir / "metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert "ranks: 2" in out and out.count("hdfast: dummy") == 1
    meta = read_meta(logdir)
    assert meta["status"] == "stopped by SIGTERM" and len(meta["starts"]) == 1
    step = checkpoint.latest(logdir / "ckpt").step
    assert 40 < step == meta["starts"][0]["step"] < 10**6

    process = torchrun(*train_flags(tmp_path, **overrides | {"run.steps": step + 40}))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert f"resumed from {step:012d}" in out and f"done: {step + 40} steps" in out.replace(",", "")
    found = checkpoint.latest(logdir / "ckpt")
    assert found.manifest["updates"] == int(found.tensors["opt/model/step"]) == (step + 40 - 40) // 4
    trainer.train(dataclasses.replace(small_config("dummy", logdir=str(logdir), **overrides | {
        "run.steps": step + 60}), device="cpu"))
    assert checkpoint.latest(logdir / "ckpt").step == step + 60



def test_a_process_of_its_own_has_no_team(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.team(small_config()) as team:
        assert team is None


@pytest.mark.parametrize(("size", "overrides", "says"), [
    ("3", {}, "run.batch_size (4) must be a multiple of the 3 ranks"), ("2", {"device": "cuda:0"}, "--device cuda")])
def test_what_a_team_cannot_use(size, overrides, says, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", size)
    config = dataclasses.replace(small_config(), **overrides)
    with pytest.raises(ConfigError) as error:
        distributed.Team(config)
    assert says in str(error.value)


@pytest.mark.parametrize(("variables", "says"), [
    ({"WORLD_SIZE": "2"}, "WORLD_SIZE says that 2 processes train together"), ({"WORLD_SIZE": "b"}, "must be a number"),
    ({"WORLD_SIZE": "2", "RANK": "-1"}, "the environment variable RANK"),
    ({"WORLD_SIZE": "2", "RANK": "0"}, "start them with torchrun, or unset WORLD_SIZE")])
def test_variables_of_another_launcher_are_named(variables, says, monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as error, distributed.team(small_config()):
        pass
    assert says in str(error.value)
