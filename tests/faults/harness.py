"""Counts what the faults of one session did, within a limit of time."""

import random
import shutil
import time
from pathlib import Path
from typing import Any

import checks
import damage
import disks
import kills


class Table:
    """Times, survivals and steps lost by fault, and what was broken."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.violations: list[str] = []

    def add(self, name: str, *, lost: int = 0, outcome: str = "", survived: bool = True) -> None:
        row = self.rows.setdefault(name, {"times": 0, "survived": 0, "lost_most": 0, "outcomes": {}})
        row["times"] += 1
        row["survived"] += survived
        row["lost_most"] = max(row["lost_most"], lost)
        if outcome:
            row["outcomes"][outcome] = row["outcomes"].get(outcome, 0) + 1

    def broken(self, name: str, error: Exception) -> None:
        self.add(name, survived=False)
        self.violations.append(str(error))

    def text(self) -> str:
        lines = [("fault", "times", "survived", "steps lost at most", "how")]
        lines += [(name, str(row["times"]), str(row["survived"]), str(row["lost_most"]),
                   ", ".join(f"{n} {what}" for what, n in row["outcomes"].items())) for name, row in self.rows.items()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
                         for line in lines)


class Harness:
    """One session of faults in a folder of its own, bounded in time."""

    def __init__(self, folder: Path, seed: int, seconds: float):
        self.folder, self.rng, self.table = folder, random.Random(seed), Table()
        self._began, self._seconds = time.monotonic(), seconds
        self.cut_short: list[str] = []  # what the time was too short for
        self.census = kills.census(folder)
        self._chains = 0

    def left(self, share: float = 1.0) -> bool:
        """Whether less than this share of the time is used."""
        return time.monotonic() < self._began + share * self._seconds

    def chains(self, pool: tuple[kills.Kind, ...], wanted: int, *, compare: int, share: float) -> None:
        """Strike `wanted` times with the kinds of `pool` in turn; the first `compare` runs are compared with a twin."""
        due = [kind for kind in pool for _ in range(kind.weight)]
        struck, queue = 0, []

        def draw() -> kills.Kind:
            if not queue:
                queue.extend(self.rng.sample(due, len(due)))
            return queue.pop()

        while struck < wanted and self.left(share):
            self._chains += 1
            chain = kills.Chain(self.folder / f"run{self._chains}", self.rng, self.census, draw)
            name = "a struck run"
            try:
                while not chain.finished:
                    outcome = chain.next()
                    if outcome.kind:
                        struck += 1
                        self.table.add(outcome.kind.name, lost=outcome.lost)
                    for way, lost in outcome.worlds.items():
                        self.table.add(f"disk after a power cut: {way}", lost=lost)
                    if struck >= wanted and not compare:
                        break
                if chain.finished and compare:
                    compare -= 1
                    name = "undisturbed twin, bit for bit"
                    chain.compare()
                    self.table.add(name)
            except checks.Violation as error:
                struck += 1
                self.table.broken(name, error)
            shutil.rmtree(chain.path)
        if struck < wanted:
            self.cut_short.append(f"{struck} of {wanted} strikes by {pool[0].name} ... {pool[-1].name}")

    def damages(self, most: int, *, share: float) -> None:
        """Spoil every file in every way, or `most` pairs of file and way."""
        if not most:
            return
        spoiled = damage.Spoiled(self.folder, self.rng)
        for number, (target, how) in enumerate(cases := spoiled.cases(most)):
            if not self.left(share):
                self.cut_short.append(f"{number} of {len(cases)} spoiled files")
                return
            name = f"spoiled: {target.name}"
            try:
                self.table.add(name, outcome=spoiled.start(target, how))
            except checks.Violation as error:
                self.table.broken(name, error)

    def disks(self, times: int) -> None:
        """Fill and write-protect a real disk, where one can be mounted."""
        if not times:
            return
        with disks.disk(self.folder) as disk:
            if disk is None:
                print("no tmpfs can be mounted here: full and read-only disks are played by failing calls alone")
                return
            full = disks.used(disk.path / "used")
            shutil.rmtree(disk.path / "used")
            cases = [("tmpfs runs full", lambda run: disks.fill(disk, run, int(full * self.rng.uniform(0.1, 0.9)))),
                     ("tmpfs is read-only", lambda run: disks.write_protect(disk, run, self.rng))]
            for number in range(times):
                if not self.left():
                    self.cut_short.append(f"{number} of {times} small disks")
                    return
                name, case = cases[number % 4 == 3]
                try:
                    self.table.add(name, outcome=case(disk.path / f"run{number}"))
                except checks.Violation as error:
                    self.table.broken(name, error)
                shutil.rmtree(disk.path / f"run{number}")
