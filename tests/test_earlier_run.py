"""A run of an earlier version, kept in tests/fixtures: it loads and continues, and the report shows it."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from hdfast import trainer
from hdfast.evaluation import load_agent
from hdfast.report.collect import collect
from hdfast.run import checkpoint
from hdfast.run.directory import finished_step, load_config, read_meta
from hdfast.run.jsonl import read_rows

KEPT = Path(__file__).parent / "fixtures" / "run"


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(KEPT, tmp_path / "run")


def test_its_checkpoint_loads_whole(run):
    found = checkpoint.latest(run / "ckpt")
    assert (found.step, found.manifest["updates"], found.discarded) == (120, 40, [])
    agent = load_agent(run, "cpu")
    assert agent.state_dict().keys() == found.tensors.keys()
    assert all(torch.equal(tensor, found.tensors[name]) for name, tensor in agent.state_dict().items())
    assert load_agent(run, "cpu", tag="best").config == agent.config == load_config(run)


def test_it_continues(run):
    records = {name: (run / name).read_bytes() for name in ("metrics.jsonl", "scores.jsonl", "eval.jsonl")}
    config = load_config(run)
    trainer.train(dataclasses.replace(config, logdir=str(run), run=dataclasses.replace(config.run, steps=160)))
    assert "resumed from 000000000120.1: step 120 (120 frames), update 40" in (run / "console.log").read_text()
    assert "warning" not in (run / "console.log").read_text()
    assert finished_step(run) == checkpoint.latest(run / "ckpt").step == 160 and len(read_meta(run)["starts"]) == 2
    for name, before in records.items():
        assert (run / name).read_bytes().startswith(before), name
        steps = [row["step"] for row in read_rows(run / name)]
        assert steps == sorted(steps) and steps[-1] == 160, name


def test_it_is_reported(run):
    (found,), notes = collect([run])
    rows = [json.loads(line) for line in (KEPT / "eval.jsonl").read_text().splitlines()]
    assert not notes and found.finished and found.final == rows[-1]["eval/score"] and found.random == (1.0, -1.0)
    assert found.curve[0].tolist() == [60, 120] and set(found.harmony) == {"rew", "image", "kl"}
