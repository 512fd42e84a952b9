"""`hdfast reproduce RUN`: the same run once more, in another directory, and whether both came out equal bit for bit."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hdfast import trainer
from hdfast.errors import ConfigError, RunError
from hdfast.machine import facts, pick_device, prepare
from hdfast.run import checkpoint
from hdfast.run.directory import finished_step, load_config, read_meta
from hdfast.run.jsonl import read_rows

COMPARED = ("versions", "git", "cpu", "torch_threads", "gemm", "device", "backend", "gpu", "cuda")
EXPLAINED = "docs/reproducibility.md says what equal bits need"


def reproduce(run: Path, new: Path) -> bool:
    """Train with the settings and CPU threads of `run` in `new`, then compare; returns whether all is
    equal.

    What differs in machine and versions is printed first. The same call continues where it was interrupted. Raises
    ConfigError where `run` is no run directory or `new` is the same one, and as trainer.train.
    """
    run, new = run.absolute(), new.absolute()
    if os.path.realpath(run) == os.path.realpath(new):  # also by another name: it would equal itself
        raise ConfigError(f"reproduce needs a directory of its own, got that of the run, {run}; choose another "
                          "--logdir")
    config, starts = load_config(run), read_meta(run).get("starts", [])
    if not starts:
        raise RunError(f"{run} has no meta.json that tells how it was started; start such a run again with `hdfast "
                       "train` and the settings of its config.json")
    config = replace(config, logdir=str(new), run=replace(
        config.run, threads=config.run.threads or starts[0].get("torch_threads", 0)))
    device = pick_device(config.device)
    prepare(config, device)
    for line in differences(starts[0], facts(device)):
        print(line)
    if len(starts) > 1:
        print(f"the run was started {len(starts)} times; each start began new episodes, so equal bits cannot be "
              "expected")
    trainer.train(config)
    if finished_step(run) != finished_step(new):
        print(f"not compared: {run} ended at step {finished_step(run)}, {new} at step {finished_step(new)}")
        return False
    unequal = compare(run, new)
    print(f"not equal to {run}: {', '.join(unequal)}; {EXPLAINED}" if unequal else
          f"equal to {run} bit for bit: every tensor of the agent, every episode, every evaluation")
    return not unequal


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between the facts of two machines, a line each."""
    def flat(found: dict[str, Any]) -> dict[str, Any]:
        named = {name: found.get(name) for name in COMPARED}
        versions = named.pop("versions")
        known = versions.items() if isinstance(versions, dict) else ()
        return {**{f"version of {name}": version for name, version in known}, **named}

    old, new = flat(before), flat(now)
    return [f"{name} was {old.get(name)}, is {new.get(name)}; {EXPLAINED}"
            for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]


def compare(run: Path, new: Path) -> list[str]:
    """What is not equal in two finished runs: names of tensors of the last checkpoint, and of record files."""
    found = [checkpoint.latest(path / "ckpt") for path in (run, new)]
    if None in found:
        raise RunError(f"{run if found[0] is None else new} has no checkpoint, so there is nothing to compare")
    old, now = (one.tensors for one in found)
    unequal = [name for name in sorted(old.keys() | now.keys())
               if name not in old or name not in now or not torch.equal(old[name], now[name])]
    if len(unequal) > 5:
        unequal = [f"{len(unequal)} of {len(old)} tensors"]
    for name in ("scores.jsonl", "eval.jsonl"):
        rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in read_rows(path / name)]
                for path in (run, new)]
        unequal += [name] * (rows[0] != rows[1])
    return unequal
