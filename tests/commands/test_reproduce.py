"""`hdfast reproduce`: equal bits from equal runs on one CPU, and what is said where they are not."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from hdfast import cli, ops, trainer
from hdfast.commands.reproduce import compare, differences, reproduce
from hdfast.errors import ConfigError, RunError
from hdfast.run.directory import read_meta
from scripted_run import small_config

SETTINGS = {"run.steps": 120, "run.prefill": 40, "run.eval_every": 60, "run.log_every": 20}


@pytest.fixture
def environment():
    """Reproducing sets the threads of the process; this takes it back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def train(path: Path, task: str = "dummy", **overrides) -> Path:
    trainer.train(small_config(task, logdir=str(path), **SETTINGS | overrides))
    return path


@pytest.mark.parametrize("task", ["dummy", "atari_pong"])
def test_the_same_seed_gives_the_same_bits(tmp_path, task, capsys, environment):
    run = train(tmp_path / "run", task)
    assert cli.main(["reproduce", str(run)]) == 0
    out = capsys.readouterr().out
    assert f"equal to {run} bit for bit" in out and "was" not in out.partition("hdfast: ")[0].replace("was started", "")
    assert cli.main(["reproduce", str(run)]) == 0  # it is there: compared once more, not trained
    out = capsys.readouterr().out
    assert "is finished: 120 steps" in out and "bit for bit" in out
    start, = read_meta(tmp_path / "run-again")["starts"]
    assert start["gemm"] == read_meta(run)["starts"][0]["gemm"]
    assert (start["gemm"] is not None) == (ops.backend() == "native")


def test_another_seed_gives_other_bits(tmp_path):
    one, other = train(tmp_path / "one"), train(tmp_path / "other", seed=1)
    tensors, scores, evaluations = compare(one, other)
    assert "tensors" in tensors and (scores, evaluations) == ("scores.jsonl", "eval.jsonl")
    assert compare(one, one) == []


def test_an_interrupted_run_is_not_expected_to_repeat(tmp_path, capsys, environment):
    run = train(tmp_path / "run")
    train(run, **{"run.steps": 160})
    assert reproduce(run, tmp_path / "new") is False
    out = capsys.readouterr().out
    assert "was started 2 times" in out and "not equal to" in out


def test_what_differs_is_said(tmp_path, capsys, environment):
    run = train(tmp_path / "run")
    meta = read_meta(run)
    meta["starts"][0] |= {"torch_threads": 2, "cpu": "an older one", "git": None}
    meta["starts"][0]["versions"] |= {"torch": "1.0"}
    (run / "meta.json").write_text(json.dumps(meta))
    reproduce(run, tmp_path / "new")
    out = capsys.readouterr().out
    assert "cpu was an older one, is " in out and f"version of torch was 1.0, is {version('torch')}" in out
    assert "torch_threads was" not in out and read_meta(tmp_path / "new")["starts"][0]["torch_threads"] == 2
    assert differences({"versions": {"a": "1"}, "git": "x"}, {"versions": {"a": "1"}, "git": "x"}) == []


def test_what_cannot_be_reproduced(tmp_path, capsys):
    assert cli.main(["reproduce"]) == 2 and cli.main(["reproduce", str(tmp_path)]) == 2
    assert "no run directory" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(small_config().to_json())
    with pytest.raises(RunError, match=r"meta\.json"):
        reproduce(tmp_path, tmp_path / "new")
    (tmp_path / "link").symlink_to(tmp_path)
    for same in (tmp_path, tmp_path / "link", tmp_path / "link" / ".." / tmp_path.name):
        with pytest.raises(ConfigError, match="choose another --logdir"):
            reproduce(tmp_path, same)
