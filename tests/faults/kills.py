"""Chains of lives of one run: every life is struck somewhere, the directory is checked, the next one goes on."""

import copy
import errno
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import checks
import lives
import power
from lives import Fault

from hdfast.cli import TrainFlags
from hdfast.config import Config
from hdfast.flags import parse
from hdfast.replay import store
from hdfast.replay.sequences import Replay
from hdfast.run import checkpoint, jsonl, logger
from hdfast.trainer import Trainer

SETTINGS = {"run.steps": 240, "run.prefill": 16, "run.batch_size": 4, "run.batch_length": 8, "run.train_ratio": 4,
            "run.save_every": 24, "run.log_every": 6, "run.eval_every": 96, "run.eval_episodes": 2, "run.eval_envs": 2,
            "run.video_every": 72, "env.num_envs": 2, "env.size": 8, "replay.capacity": 120}
CHUNK_BYTES = 16 << 10  # so that chunks are closed, evicted and deleted within these few steps
LONGEST = 14  # lives of one run, then it is left to end
DAMAGE = ("write", "open", "mkdir", "rename")  # what a full disk refuses


@dataclass(frozen=True)
class Kind:
    """One row of the table: a name, and the fault for one life from a random generator and the operations that a whole
    run makes."""

    name: str
    draw: Callable[[random.Random, "Census"], Fault | None]
    clock: bool = False
    power: bool = False
    weight: int = 1


class Census:
    """The file operations of a run that nothing strikes, by which faults are placed."""

    def __init__(self, struck: list[str], seconds: float):
        self.struck, self.seconds = struck, seconds

    def place(self, rng: random.Random, ops: tuple[str, ...], part: str) -> int:
        """A random one of those operations, earlier ones more likely: a resumed run has fewer before it."""
        total = sum(line.split()[0] in ops and part in line.partition(" ")[2] for line in self.struck)
        return max(1, min(total, 1 + int(rng.expovariate(1 / max(1.0, 0.2 * total)))))


def _killed(name: str, part: str, *, ops: tuple[str, ...] = tuple(lives.OPS), weight: int = 1,
            power: bool = False) -> Kind:
    def draw(rng: random.Random, census: Census) -> Fault:
        return Fault(rng.choice(("before", "halfway", "after")), census.place(rng, ops, part), ops, part)
    return Kind(name, draw, power=power, weight=weight)


def _failing(name: str, how: str, error: int, ops: tuple[str, ...]) -> Kind:
    def draw(rng: random.Random, census: Census) -> Fault:
        return Fault(how, census.place(rng, ops, ""), ops, "", error)
    return Kind(name, draw)


KILLS = (
    Kind("SIGKILL at a random time", lambda rng, census: None, clock=True, weight=4),
    _killed("killed while it saves a checkpoint", "ckpt", weight=5),
    _killed("killed while it writes or flushes the replay", "replay", weight=3),
    _killed("killed while it writes records (*.jsonl)", ".jsonl", weight=3),
    _killed("killed while it writes meta.json", "meta.json", weight=2),
    _killed("killed while it writes TensorBoard's events", "events"),
    _killed("killed while it writes a picture", "videos"),
    _killed("killed at a rename, unlink, mkdir or open", "", ops=("rename", "unlink", "mkdir", "open"), weight=3),
    _killed("power cut", "", power=True, weight=3),
    _killed("power cut at a change of names", "", ops=("rename", "unlink", "mkdir", "open"), power=True, weight=2),
    _killed("power cut while it saves a checkpoint", "ckpt", power=True, weight=2),
)
FAILURES = (
    _failing("disk full (ENOSPC) from a random write on", "on", errno.ENOSPC, DAMAGE),
    _failing("quota used up (EDQUOT) at one write", "once", errno.EDQUOT, DAMAGE),
    _failing("EIO at one fsync", "once", errno.EIO, ("fsync",)),
    _failing("EIO at every fsync from a random one on", "on", errno.EIO, ("fsync",)),
    _failing("EIO at one write", "once", errno.EIO, ("write",)),
    _failing("read-only file system (EROFS) from a random operation on", "on", errno.EROFS, tuple(lives.OPS)),
)


def _forget_an_update() -> None:
    load = Trainer._load

    def wrong(self, found):
        load(self, found)
        self.updates = max(0, self.updates - 1)
    Trainer._load = wrong


def _sync_no_folder() -> None:
    for module in (checkpoint, jsonl, logger, store):
        module.sync_directory = lambda path: None


SABOTAGE: dict[str, Callable[[], object]] = {  # planted bugs, by which the harness is tested
    "rows twice": lambda: setattr(logger, "rewind", lambda *_: (0, "")),
    "an update twice": _forget_an_update,
    "no folder synced": _sync_no_folder,
    "nothing synced": lambda: setattr(os, "fsync", lambda handle: None),
}


def arguments(path: Path, **changes: object) -> list[str]:
    """The command of the run in `path`."""
    flags = [word for name, value in (SETTINGS | changes).items() for word in (f"--{name}", str(value))]
    return ["train", "--configs", "debug", "--task", "dummy", "--device", "cpu", *flags, "--logdir", str(path)]


def config_of(path: Path, **changes: object) -> Config:
    return parse(arguments(path, **changes)[1:], TrainFlags, with_settings=True).config()


def small_chunks() -> None:
    """Let the replay fill many small chunk files; the code that does it stays the same."""
    Replay.__init__.__kwdefaults__["chunk_bytes"] = CHUNK_BYTES


def census(folder: Path) -> Census:
    """Count the operations of a run that nothing strikes."""
    path = folder / "census"
    life = lives.live(arguments(path), path, Fault("count"))
    checks.expect(life.code == 0, f"a run that nothing strikes failed:\n{life.output}")
    shutil.rmtree(path)
    return Census(life.struck, life.seconds)


@dataclass
class Outcome:
    """One life: which kind struck (None: nothing did, it lived to the end), where, and the steps it cost, also those of
    each thing that the disk may have held after a power cut."""

    kind: Kind | None
    where: str
    lost: int
    worlds: dict[str, int]  # steps lost by what the disk held after a power cut


class Chain:
    """One run from its first start to its end, through faults that `kinds` gives."""

    def __init__(self, path: Path, rng: random.Random, census: Census, kinds: Callable[[], Kind]):
        self.path, self._rng, self._census, self._kinds = path, rng, census, kinds
        self.story = checks.Story(config_of(path), path)
        self.lives = 0
        self.finished = False

    def next(self) -> Outcome:
        """One life, struck or not, and all checks; raises checks.Violation."""
        kind = self._kinds() if self.lives < LONGEST else None
        self.lives += 1
        self.story.begin()
        fault = kind.draw(self._rng, self._census) if kind else None
        attic = self.path.with_name(self.path.name + "-attic") if kind and kind.power else None
        disk = power.Before(self.path, attic) if attic else None
        after = self._rng.uniform(0.02, 0.5 * self._census.seconds) if kind and kind.clock else None
        life = lives.live(arguments(self.path), self.path, fault, kill_after=after, attic=attic)
        where = f"{fault.how} {' '.join(life.struck)}" if fault else f"after {after:.2f} s" if after else "nowhere"
        try:
            return self._judge(kind, fault, life, disk, where)
        except Exception as error:
            raise checks.Violation(f"{kind.name if kind else 'no fault'}, {where}: {type(error).__name__}: {error}\n"
                                   f"{life.output[-1500:]}") from error
        finally:
            if attic:
                shutil.rmtree(attic)

    def _judge(self, kind: Kind | None, fault: Fault | None, life: lives.Life, disk: power.Before | None,
               where: str) -> Outcome:
        refused = fault is not None and fault.how in ("once", "on")
        struck = bool(life.struck) if fault else life.code == lives.LEFT
        if refused and fault.how == "once" and any(line.startswith("mkdir ") for line in life.struck):
            struck = life.code != 0  # harmless where the folder is there already
        if not struck:
            checks.expect(life.code == 0, f"exit code {life.code} though nothing struck")
        elif refused:
            checks.expect(life.code in (1, 2), f"exit code {life.code} instead of a refusal")
            checks.expect("hdfast: error: cannot" in life.output and "Traceback" not in life.output, "no plain error")
        else:
            checks.expect(life.code == lives.LEFT, f"exit code {life.code} instead of a kill")
        before = self.story.recorded()
        self.finished = life.code == 0
        worlds = self._cut_power(power.Cut(disk, life), before) if disk and struck else {}
        self.story.check(finished=self.finished)
        return Outcome(kind if struck else None, where, max(0, before - self.story.step), worlds)

    def _cut_power(self, cut: power.Cut, played: int) -> dict[str, int]:
        """Check every folder that the disk may hold and go on in one of them; returns the steps that each has lost."""
        saved = [int(name) for name in cut.surely() if re.fullmatch("[0-9]{12}", name)]
        self.story.step = max([self.story.step, *saved])
        found = {}
        for way in power.WAYS:
            story = copy.deepcopy(self.story)
            story.path = self.path.with_name(f"{self.path.name}-world{len(found)}")
            cut.build(story.path, way, self._rng)
            try:
                story.check()
            except Exception as error:
                raise checks.Violation(f"{way}: {error}") from error
            found[way] = played - story.step
            checks.expect(found[way] <= SETTINGS["run.save_every"] + 2, f"{way}: {found[way]} steps are lost")
        shutil.rmtree(self.path)
        goes_on = self._rng.randrange(len(found))
        for number in range(len(found)):
            world = self.path.with_name(f"{self.path.name}-world{number}")
            world.rename(self.path) if number == goes_on else shutil.rmtree(world)
        return found

    def compare(self) -> None:
        """Run to the same steps without a fault, stopping where this run was resumed: all must be equal bit for bit."""
        beside = self.path.with_name(self.path.name + "-undisturbed")
        stops = [step for step, _ in self.story.begins[1:]] + [SETTINGS["run.steps"]]
        for stop in stops:
            life = lives.live(arguments(beside, **{"run.steps": stop}), beside)
            checks.expect(life.code == 0, f"the undisturbed run failed:\n{life.output}")
        wrong = checks.differing(self.path, beside)
        checks.expect(not wrong, f"not equal to an undisturbed run that stopped at {stops}: {wrong[:5]}")
        shutil.rmtree(beside)
