"""Damaged files: each file of a run that was killed in its middle is spoiled in every way, and the run is started.

It must be refused with the file's name, or healed: with the name told, or without a trace that there was a damage.
"""

import copy
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checks
import kills
import lives
from checks import RECORDS, expect
from lives import Fault

from hdfast.errors import RunError
from hdfast.run import checkpoint

SETTINGS = {"run.steps": 120, "run.eval_every": 36}
STRUCK_AT = 46  # records in the replay when the run was killed: twenty steps after its checkpoint of step 72
TIMES = {"seconds", "usage/ram"}  # in a row of metrics.jsonl, with all that begins with fps/ or timer/


@dataclass(frozen=True)
class Target:
    """One kind of file: where it lies, and under which name a message tells of it."""

    name: str
    find: Callable[[Path], list[Path]]
    told: str
    record: str = ""  # the record it is, of which rows may be lost
    goes_back: bool = False  # the run may go on from an earlier checkpoint


def _checkpoint(number: int, file: str) -> Callable[[Path], list[Path]]:
    return lambda path: [checkpoint.existing(path / "ckpt", None)[number][2] / file]


def _both(path: Path) -> list[Path]:
    return [found[2] / "tensors.safetensors" for found in checkpoint.existing(path / "ckpt", None)]


def _one(pattern: str, number: int = 0) -> Callable[[Path], list[Path]]:
    return lambda path: [sorted(path.glob(pattern))[number]]


TARGETS = (
    Target("config.json", _one("config.json"), "config.json"),
    Target("meta.json", _one("meta.json"), "meta.json"),
    Target("manifest of the newest checkpoint", _checkpoint(-1, "manifest.json"), "manifest.json", goes_back=True),
    Target("tensors of the newest checkpoint", _checkpoint(-1, "tensors.safetensors"), "tensors.safetensors",
           goes_back=True),
    Target("tensors of the checkpoint before", _checkpoint(0, "tensors.safetensors"), "tensors.safetensors"),
    Target("tensors of both checkpoints", _both, "tensors.safetensors", goes_back=True),
    Target("tensors of the best checkpoint", _one("ckpt/best-*/tensors.safetensors"), "tensors.safetensors"),
    Target("replay chunk that the checkpoint needs", _one("replay/*.bin"), ".bin"),
    Target("replay chunk begun after the checkpoint", _one("replay/*.bin", -1), ".bin"),
    *(Target(f"{name}.jsonl", _one(f"{name}.jsonl"), f"{name}.jsonl", record=name) for name in RECORDS),
    Target("TensorBoard's events", _one("events.*"), "events"),
    Target("console.log", _one("console.log"), "console.log"),
    Target(".lock", _one(".lock"), ".lock"),
)


def _flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path, random.Random], object]] = {
    "one bit flipped": _flip,
    "another bit flipped": _flip,
    "cut short": lambda path, rng: path.write_bytes(path.read_bytes()[:rng.randrange(path.stat().st_size + 1)]),
    "emptied": lambda path, rng: path.write_bytes(b""),
    "random bytes": lambda path, rng: path.write_bytes(rng.randbytes(path.stat().st_size + 1)),
    "missing": lambda path, rng: path.unlink(),
    "a folder instead": _folder,
}


class Spoiled:
    """A run killed in its middle, of which copies are spoiled and started."""

    def __init__(self, folder: Path, rng: random.Random):
        self._rng, self._base, self._copy = rng, folder / "base", folder / "copy"
        self._story = checks.Story(kills.config_of(self._base, **SETTINGS), self._base)
        self._story.begin()
        life = self._live(self._base, Fault("before", STRUCK_AT, ("write",), "replay/chunk"))
        expect(life.code == lives.LEFT, f"the run to be spoiled was not killed:\n{life.output}")
        self._story.check()
        self._reference = self._continued()

    def cases(self, most: int) -> list[tuple[Target, str]]:
        """All pairs of file and damage in a random order, `most` of them at most."""
        every = [(target, name) for target in TARGETS for name in DAMAGES]
        return self._rng.sample(every, min(most, len(every)))

    def start(self, target: Target, damage: str) -> str:
        """Spoil one file and start the run; returns what became of it, raises checks.Violation."""
        shutil.copytree(self._base, self._copy)
        try:
            for path in target.find(self._copy):
                DAMAGES[damage](path, self._rng)
            watched = lives.live(["watch", "--once", str(self._copy)], self._copy)
            expect(watched.code == 0, f"hdfast watch failed:\n{watched.output[-1500:]}")
            story, usable = self._story_of(target)
            life = self._live(self._copy)
            try:
                return self._judge(target, life, story, usable)
            except checks.Violation as error:
                raise checks.Violation(f"{target.name} {damage}: {error}\n{life.output[:2500]}") from error
        finally:
            shutil.rmtree(self._copy)

    def _story_of(self, target: Target) -> tuple[checks.Story, bool]:
        story = copy.deepcopy(self._story)
        story.path = self._copy
        try:
            found = checkpoint.latest(self._copy / "ckpt")
        except RunError:
            return story, False
        if target.goes_back:
            story.step = found.step
        story.begin()
        return story, True

    def _judge(self, target: Target, life: lives.Life, story: checks.Story, usable: bool) -> str:
        if life.code in (1, 2):
            expect("hdfast: error:" in life.output and "Traceback" not in life.output, "no plain error")
            expect(target.told in life.output, "the error does not name the file")
            return "refused, named"
        expect(life.code == 0, f"exit code {life.code}")
        expect(usable, "it goes on though no checkpoint is valid")
        warned = "".join(line for line in life.output.splitlines() if line.startswith("warning:"))
        named = target.told in warned and ("damaged" in warned or "missing" in warned)
        if target.goes_back and named:
            story.check(finished=True)
            return "healed, named"
        now = _facts(self._copy)
        wrong = [name for name, value in self._reference.items()
                 if now[name] != value and not (named and name in (target.record, "meta"))]
        expect(not wrong, f"{'named, but' if named else 'not named, and'} the run differs in {wrong}")
        return "healed, named" if named else "healed without loss"

    def _continued(self) -> dict[str, Any]:
        shutil.copytree(self._base, self._copy)
        life = self._live(self._copy)
        expect(life.code == 0, f"the run to be spoiled does not go on:\n{life.output}")
        facts = _facts(self._copy)
        shutil.rmtree(self._copy)
        return facts

    def _live(self, path: Path, fault: Fault | None = None) -> lives.Life:
        return lives.live(kills.arguments(path, **SETTINGS), path, fault)


def _facts(path: Path) -> dict[str, Any]:
    """What a finished run left, without times: equal for runs that went the same way."""
    found = checkpoint.latest(path / "ckpt")
    meta, config = (json.loads((path / f"{name}.json").read_text()) for name in ("meta", "config"))
    rows = {name: [{k: v for k, v in row.items() if k not in TIMES and not k.startswith(("fps/", "timer/"))}
                   for row in checks.read(path / f"{name}.jsonl", torn=False)] for name in RECORDS}
    return {"tensors": {name: tensor.numpy().tobytes() for name, tensor in found.tensors.items()},
            "replay": found.manifest["replay"], "config": config | {"logdir": ""}, **rows,
            "meta": (meta["method"], meta["finished"], meta["status"], [start.get("step") for start in meta["starts"]])}
