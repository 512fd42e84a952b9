"""Power cuts: the folders that a disk may hold after one, built from what a struck life did.

POSIX promises of a file what an fsync covered, of a name what an fsync of its folder covered. All else may have
reached the disk or not, one change without the other: here every change of a name (created, renamed, deleted) is lost
or kept by itself, and what was written behind the last fsync of a file is lost, cut, or zeros. A rename is one change.
"""

import os
import random
from pathlib import Path

from lives import Change, Entry, Life

WAYS = ("all data not synced is lost", "all names not synced are lost", "names and data not synced are lost",
        "names and data are lost at random")


class Before:
    """What is on the disk when a life begins: all of `root`. Its files are linked into `attic`, to outlive names."""

    def __init__(self, root: Path, attic: Path):
        self.root, self.attic = root, attic
        root.mkdir(exist_ok=True)
        attic.mkdir()
        self.top = root.stat().st_ino
        self.folders: dict[int, dict[str, int]] = {}  # by inode, the inodes of what is in it
        self.sizes: dict[int, int] = {}
        for folder, _, files in os.walk(root):
            self.folders[os.stat(folder).st_ino] = {one.name: one.inode() for one in os.scandir(folder)}
            for file in (Path(folder) / name for name in files):
                info = file.stat()
                self.sizes[info.st_ino] = info.st_size
                os.link(file, attic / str(info.st_ino))


class Cut:
    """The moment a life was killed; `loose` are its changes of names that no fsync had covered."""

    def __init__(self, before: Before, life: Life):
        self._before, self._durable = before, before.sizes | life.synced
        self.changes: list[Change] = []
        waits: list[set[int]] = []  # for each, the folders that must be synced yet
        named = {inode: (folder, name) for folder, names in before.folders.items() for name, inode in names.items()}
        for change in life.names:
            if isinstance(change, int):
                for folders in waits:
                    folders.discard(change)
                continue
            went, came, inode = change
            if not went[0] and named.get(inode) == came:
                continue  # as it is
            went = went if went[0] else named.get(inode, went)  # a rename that only its result tells
            named[inode] = came
            self.changes.append((went, came, inode))
            waits.append({folder for folder, _ in (went, came) if folder})
        self.loose = [number for number, folders in enumerate(waits) if folders]

    def surely(self) -> list[str]:
        """Names that were surely given."""
        return [came[1] for number, (_, came, _) in enumerate(self.changes) if number not in self.loose]

    def build(self, target: Path, way: str, rng: random.Random) -> None:
        """Make at `target` one folder that the disk may hold."""
        at_random = way.endswith("random")
        lost = {number for number in self.loose if rng.random() < 0.5} if at_random else \
            set(self.loose) if "names" in way else set()
        folders = {inode: dict(names) for inode, names in self._before.folders.items()}
        for number, (went, came, inode) in enumerate(self.changes):
            if number not in lost:
                if went[0]:
                    _drop(folders, went, inode)
                if came[0]:
                    folders.setdefault(came[0], {})[came[1]] = inode
        self._write(target, self._before.top, folders, rng if at_random else None, keep="data" not in way)

    def _write(self, target: Path, folder: int, folders: dict[int, dict[str, int]], rng: random.Random | None, *,
               keep: bool) -> None:
        target.mkdir()
        for name, inode in folders.get(folder, {}).items():
            file = self._before.attic / str(inode)
            if not file.exists():
                self._write(target / name, inode, folders, rng, keep=keep)
                continue
            data = file.read_bytes()
            sure = min(len(data), self._durable.get(inode, 0))
            if rng:
                cut = rng.choice((sure, len(data), rng.randint(sure, len(data))))
                data = data[:cut] + bytes(rng.choice((0, len(data) - cut)))
            (target / name).write_bytes(data if keep or rng else data[:sure])


def _drop(folders: dict[int, dict[str, int]], entry: Entry, inode: int) -> None:
    """Take a name away where it still names what it named then: another change of it may have been lost."""
    names = folders.get(entry[0], {})
    if names.get(entry[1]) == inode:
        del names[entry[1]]
