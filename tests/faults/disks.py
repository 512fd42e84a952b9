"""Real small disks: a tmpfs that fills up while a run is on, and one that is read-only. Needs the right to mount."""

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import checks
import kills
import lives
from checks import expect

STEPS = {"run.steps": 120}
LARGE = 64 << 20


class Disk:
    """A mounted tmpfs."""

    def __init__(self, path: Path):
        self.path = path

    def resize(self, size: int, *, readonly: bool = False) -> None:
        _mount("-o", f"remount,size={size},{'ro' if readonly else 'rw'}", "tmpfs", str(self.path))


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


@contextmanager
def disk(folder: Path) -> Iterator[Disk | None]:
    """A tmpfs for the block, None where none can be mounted."""
    path = folder / "disk"
    path.mkdir()
    try:
        _mount("-t", "tmpfs", "-o", f"size={LARGE}", "tmpfs", str(path))
    except (OSError, subprocess.CalledProcessError):
        path.rmdir()
        yield None
        return
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", str(path)], check=True)
        path.rmdir()


def used(path: Path) -> int:
    """Bytes of a finished run on such a disk."""
    life = lives.live(kills.arguments(path, **STEPS), path)
    expect(life.code == 0, f"a run that nothing strikes failed:\n{life.output}")
    return sum(4096 * -(-file.stat().st_size // 4096) for file in path.rglob("*") if file.is_file())


def fill(disk: Disk, run: Path, size: int) -> str:
    """Run on a disk of `size` bytes until it is full, then on a larger one; returns what happened."""
    story = checks.Story(kills.config_of(run, **STEPS), run)
    disk.resize(size)
    story.begin()
    life = lives.live(kills.arguments(run, **STEPS), run)
    if life.code:
        expect(life.code in (1, 2) and "No space left" in life.output and "Traceback" not in life.output,
               f"exit code {life.code} instead of a plain refusal:\n{life.output[-1500:]}")
        story.check()
    disk.resize(LARGE)
    return ("refused, " if life.code else "it fitted, ") + _ends(story, run)


def write_protect(disk: Disk, run: Path, rng: random.Random) -> str:
    """Kill a run, start it on the disk made read-only, then writable again; returns what happened."""
    story = checks.Story(kills.config_of(run, **STEPS), run)
    story.begin()
    lives.live(kills.arguments(run, **STEPS), run, lives.Fault("before", rng.randrange(30, 55), ("write",), "replay/"))
    story.check()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    disk.resize(LARGE, readonly=True)
    life = lives.live(kills.arguments(run, **STEPS), run)
    expect(life.code in (1, 2) and "ead-only" in life.output and "Traceback" not in life.output,
           f"exit code {life.code} instead of a plain refusal:\n{life.output[-1500:]}")
    expect(before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}, "the read-only run was changed")
    disk.resize(LARGE)
    return "refused, " + _ends(story, run)


def _ends(story: checks.Story, run: Path) -> str:
    story.begin()
    life = lives.live(kills.arguments(run, **STEPS), run)
    expect(life.code == 0, f"it does not go on:\n{life.output[-1500:]}")
    story.check(finished=True)
    return "then went on"
