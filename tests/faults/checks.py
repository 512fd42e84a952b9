"""What must hold of a run directory whatever struck: recomputed from the scripted environment, not from the run.

The task `dummy` is a function of (environment, seed, episode, step) and of the actions; a start at step S begins new
episodes with a seed that follows from S. So the steps at which a run was resumed determine every record of the replay,
but for the actions, and every row of scores.jsonl.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hdfast import trainer
from hdfast.config import Config
from hdfast.envs import make_envs
from hdfast.errors import RunError
from hdfast.protocol import Schedule
from hdfast.replay.ring import FLAG_BITS
from hdfast.replay.store import FORMAT, ChunkStore
from hdfast.run import checkpoint
from hdfast.run.directory import finished_step
from hdfast.spaces import ActSpace, ObsSpace

RECORDS = ("metrics", "scores", "eval")


class Violation(Exception):
    """A promise that was broken, in words."""


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)


@dataclass
class Story:
    """The run in one directory, start by start: `begins` are the steps it was resumed at and the seeds of each."""

    config: Config
    path: Path
    begins: list[tuple[int, int]] = field(default_factory=list)
    step: int = 0  # of the newest valid checkpoint
    lost: int = 0  # steps that kills have cost so far

    def begin(self) -> None:
        """Note the start that comes next; call it before one."""
        self.lost += max(0, self.recorded() - self.step)
        newest = checkpoint.existing(self.path / "ckpt", None)
        seed = trainer.stream_seed(self.config.seed, trainer.TRAIN_ENVS, newest[-1][0] if newest else 0)
        self.begins = [begin for begin in self.begins if begin[0] < self.step] + [(self.step, seed)]

    def recorded(self) -> int:
        """Environment steps that lie in the replay files, those after the last checkpoint included."""
        files = sorted((self.path / "replay").glob("chunk-*.bin"))
        if not files:
            return 0
        layout = self._store().layouts[FORMAT]
        whole = max(0, files[-1].stat().st_size - layout.header_bytes) // layout.record.itemsize
        return self.config.env.num_envs * (int(files[-1].stem[-12:]) + whole)

    def check(self, *, finished: bool = False) -> None:
        """Raise Violation for anything that the last start has broken."""
        found = checkpoint.latest(self.path / "ckpt")
        expect(found is not None or not self.step, f"no checkpoint is left; there was one at step {self.step}")
        step = found.step if found else 0
        expect(step >= self.step, f"the newest checkpoint went back from step {self.step} to {step}")
        count, every = self.config.env.num_envs, self.config.run.save_every
        expect(self.recorded() - step <= every + count,
               f"{self.recorded()} steps are recorded, but the checkpoint is of {step}: more than {every} are lost")
        self.step = step
        if found:
            self._check_counters(found)
            steps = self._check_replay(found.manifest["replay"])
            self._check_scores(steps)
        self._check_lines(found, finished)
        if finished:
            expect(step == self.config.run.steps == finished_step(self.path), f"finished at {step}")
            hidden = [p.name for p in self.path.rglob(".*") if p.name != ".lock"]
            expect(not hidden, f"left behind: {hidden}")

    def _check_counters(self, found: checkpoint.Checkpoint) -> None:
        due = Schedule.of(self.config.run).updates_due(found.step)
        made = {int(found.tensors[f"opt/{name}/step"]) for name in ("model", "actor", "critic")}
        counted = (found.manifest["updates"], found.manifest["replay"]["steps"] * self.config.env.num_envs)
        expect(counted == (due, found.step) and made == {due},
               f"at step {found.step} with {due} updates due: counted updates and steps {counted}, optimizers {made}")

    def _check_replay(self, manifest: dict[str, Any]) -> list[tuple[int, int, float | None, int]]:
        """Compare the replay with the environments; returns its episode ends as (step, env, score, length)."""
        store = self._store()
        stored = {}
        for first, obs, *columns in store.read(store.parse(manifest)):
            for i, (action, reward, flags) in enumerate(zip(*columns, strict=True)):
                row = {"action": action, "reward": reward, "flags": flags} | {name: x[i] for name, x in obs.items()}
                stored[first + i] = {name: x.copy() for name, x in row.items()}
        count, ends = self.config.env.num_envs, []
        kept = min(self.config.replay.capacity // count, manifest["steps"])
        expect(all(i in stored for i in range(manifest["steps"] - kept, manifest["steps"])), "steps are missing")
        bounds = [*[begin // count for begin, _ in self.begins if begin < self.step], manifest["steps"]]
        for (_, seed), first, end in zip(self.begins, bounds, bounds[1:], strict=False):
            envs = make_envs(self.config.task, self.config.env, num_envs=count, seed=seed)
            record, score, length = envs.reset(), np.zeros(count), np.zeros(count, int)
            known = np.ones(count, bool)  # whether all rewards of the running episode are in the replay
            for index in range(first, end):
                row = stored.get(index)
                if row is not None:
                    _compare(row, record, index, rewards=index == first or index - 1 in stored)
                known = (known | record.is_first) & (row is not None)
                score = np.where(record.is_first, 0, score + record.reward)
                length = np.where(record.is_first, 0, length + 1)
                ends += [((index + 1) * count, int(i), float(score[i]) if known[i] else None, int(length[i]))
                         for i in np.flatnonzero(record.is_last)]
                action = np.zeros(count, np.int64) if row is None else row["action"].argmax(-1)
                if index + 1 < end:
                    record = envs.step(action)
            envs.close()
        return ends

    def _check_scores(self, ends: list[tuple[int, int, float | None, int]]) -> None:
        rows = [row for row in read(self.path / "scores.jsonl", torn=True) if row["step"] <= self.step]
        expect([(row["step"], row["episode/length"]) for row in rows] == [(end[0], end[3]) for end in ends],
               f"scores.jsonl up to step {self.step} has {len(rows)} rows that are not the {len(ends)} episodes played")
        wrong = [end for row, end in zip(rows, ends, strict=True) if end[2] not in (None, row["episode/score"])]
        expect(not wrong, f"scores.jsonl tells other scores than the replay: {wrong[:3]}")

    def _check_lines(self, found: checkpoint.Checkpoint | None, finished: bool) -> None:
        """Every line is JSON; log rows stand once each, evaluations too, and none before the checkpoint is missing."""
        rows = {name: read(self.path / f"{name}.jsonl", torn=not finished) for name in RECORDS}
        for name, there in rows.items():
            steps = [row["step"] for row in there]
            expect(steps == sorted(steps), f"{name}.jsonl is out of order: {steps}")
        run, count = self.config.run, self.config.env.num_envs
        logged = [row["step"] for row in rows["metrics"] if "replay/items" in row]
        expect(len(set(logged)) == len(logged), f"metrics.jsonl has a step twice: {logged}")
        due = {-(-step // count) * count for step in range(run.log_every, self.step + 1, run.log_every)}
        expect(due <= set(logged), f"metrics.jsonl lacks the steps {sorted(due - set(logged))}")
        evaluated = [row["step"] for row in rows["eval"]]
        expect(len(set(evaluated)) == len(evaluated), f"eval.jsonl has a step twice: {evaluated}")
        if found and found.manifest["evaluated"]:
            expect(found.manifest["evaluated"] in evaluated, f"eval.jsonl lacks step {found.manifest['evaluated']}")

    def _store(self) -> ChunkStore:
        return ChunkStore(self.path / "replay", self.config.env.num_envs, *_spaces(self.config))


def _spaces(config: Config) -> tuple[ObsSpace, ActSpace]:
    envs = make_envs(config.task, config.env, num_envs=1, seed=0)
    envs.close()
    return envs.obs_space, envs.act_space


def _compare(row: dict[str, np.ndarray], record: Any, index: int, *, rewards: bool) -> None:
    """`rewards`: whether the action before, from which the reward follows, is known."""
    flags = sum(getattr(record, name) * bit for name, bit in FLAG_BITS.items())
    for name, value in (*record.obs.items(), ("flags", flags), *[("reward", record.reward)] * rewards):
        expect(np.array_equal(row[name], value), f"the replay's step {index} has other {name} than the environment")


def read(path: Path, *, torn: bool) -> list[dict[str, Any]]:
    """Rows of a record file, every line of which must be JSON; `torn` allows the last one to be cut short."""
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    rows = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise Violation(f"line {number} of {path.name} is not JSON: {line[:60]!r}") from error
    expect(torn or not lines[-1], f"{path.name} ends in half a line: {lines[-1][:60]!r}")
    return rows


def differing(left: Path, right: Path) -> list[str]:
    """What is not equal bit for bit in two finished runs: tensors, replay, scores."""
    found = [checkpoint.latest(path / "ckpt") for path in (left, right)]
    if None in found:
        raise RunError("a run without a checkpoint cannot be compared")
    names = found[0].tensors.keys() | found[1].tensors.keys()
    out = [name for name in sorted(names) if not _equal(found, name)]
    replays = [one.manifest["replay"] for one in found]
    if (replays[0]["steps"], replays[0]["oldest"]) != (replays[1]["steps"], replays[1]["oldest"]):
        out.append("replay")
    scores = [read(path / "scores.jsonl", torn=False) for path in (left, right)]
    return out + ["scores.jsonl"] * (scores[0] != scores[1])


def _equal(found: list[checkpoint.Checkpoint], name: str) -> bool:
    one, other = (checkpoint_.tensors.get(name) for checkpoint_ in found)
    return one is not None and other is not None and one.shape == other.shape and bool((one == other).all())
