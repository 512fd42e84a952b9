"""Measuring rows: each in a child process with its own threads, the processes taking turns on the machine.

Machines drift. The rows of one case therefore run in rounds, A B C, C B A, A B C, ..., and a ratio is the median over
rounds of two rows' times in the same round, never the quotient of two separate runs.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from hdfast.bench import peers
from hdfast.bench.peers import PEERS
from hdfast.bench.serve import MARK
from hdfast.errors import RunError
from hdfast.run.jsonl import is_number
from hdfast.run.progress import text_table

OURS = "hdfast"
TURN = 0.5  # seconds a row runs in one turn, if one run of it is shorter
BURN_IN = 5  # a tape is recorded in the fourth update


class Labeled:
    """How a row and its program go by in tables; a precision is named where it is not float32."""

    @property
    def label(self) -> str:
        return f"{self.name} {self.backend}" + (f" {self.precision}" if self.precision != "fp32" else "")


@dataclass(frozen=True)
class Row(Labeled):
    """One measured row: wall and CPU seconds of one run, over all rounds. Ratios are against `against`."""

    name: str
    case: str
    preset: str
    backend: str
    precision: str
    threads: int
    median_s: float
    min_s: float
    cpu_s: float
    peak_rss_mb: float
    versions: dict[str, str]
    against: str = ""
    ratio: float | None = None
    cpu_ratio: float | None = None
    rounds: tuple[tuple[float, float], ...] = field(default=(), repr=False)  # medians of wall and CPU, per round

    def as_json(self) -> str:
        """The row on one line, without the rounds."""
        return json.dumps({k: v for k, v in vars(self).items() if k != "rounds"})


@dataclass(frozen=True)
class Program(Labeled):
    """What to start for a row: the command and the name it goes by."""

    name: str
    backend: str
    command: tuple[str, ...]
    precision: str = "fp32"


def ours(preset: str, backend: str, threads: int, precision: str) -> Program:
    command = sys.executable, "-m", "hdfast.bench.ours", preset, backend, str(threads), precision
    return Program(OURS, backend, command, precision)


def peer(name: str, preset: str, threads: int) -> Program:
    command = str(peers.python(name)), str(peers.script(name)), preset, str(threads)
    return Program(name, PEERS[name].framework, command)


class Measured:
    """A measured process that takes requests. Leaving the context ends it."""

    def __init__(self, program: Program, threads: int):
        path = os.pathsep.join(filter(None, [str(peers.ROOT), os.environ.get("PYTHONPATH")]))
        env = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads),
                            "OMP_WAIT_POLICY": "passive", "PYTHONPATH": path}
        self.program, self.log = program, tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(program.command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.log, text=True)
        try:
            self.versions: dict[str, str] = dict(self.answer().get("versions") or {})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Measured":
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.log.close()

    def answer(self) -> dict[str, Any]:
        for line in self.process.stdout:
            if line.startswith(MARK):
                try:
                    return dict(json.loads(line.removeprefix(MARK)))
                except (ValueError, TypeError, RecursionError) as error:
                    raise self._unreadable(line) from error
        self.process.wait()
        self.log.seek(0)
        last = [line for line in self.log.read().splitlines() if line.strip()][-1:]
        raise RunError(f"{self.program.label} ended with code {self.process.returncode} while it "
                       f"was measured: {last[0] if last else 'it said nothing'}")

    def run(self, case: str, count: int) -> dict[str, Any]:
        """Run a case: seconds and cpu of every time, peak_rss_mb; RunError where the answer is none."""
        try:
            print(json.dumps({"case": case, "count": count}), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # it has ended: `answer` says why
        found = self.answer()
        times = [found.get(name) for name in ("seconds", "cpu")]
        if not all(isinstance(values, list) and values for values in times) or \
                not all(is_number(x) and x >= 0 for x in (*times[0], *times[1], found.get("peak_rss_mb"))):
            raise self._unreadable(str(found))
        return found

    def _unreadable(self, said: str) -> RunError:
        return RunError(f"{self.program.label} was measured and answered {said.strip()!r:.200}, expected seconds, cpu "
                        "and peak_rss_mb as JSON; install the peer again")


def started(stack: ExitStack, programs: Iterable[Program], threads: int,
            failed: Callable[[Program, str], None]) -> list[Measured]:
    """The processes of programs that can make one update; `failed` hears of those that cannot."""
    found = []
    for program in programs:
        try:
            process = stack.enter_context(Measured(program, threads))
            process.run("update", 1)
            found.append(process)
        except (RunError, OSError) as error:
            failed(program, str(error))
    return found


def measure(processes: Sequence[Measured], case: str, *, preset: str, threads: int,
            rounds: int) -> Iterator[list[Row]]:
    """After each of one or more rounds, one row a process of all rounds so far: burn in, then a turn each, in an order
    that turns back every other round."""
    turns = []
    for process in processes:
        once = min(process.run(case, BURN_IN)["seconds"])
        turns.append((process, max(1, round(TURN / max(once, 1e-6))), []))
    for number in range(rounds):
        for process, count, answers in turns[::-1 if number % 2 else 1]:
            answers.append(process.run(case, count))
        yield [_row(process, answers, case, preset, threads) for process, _, answers in turns]


def _row(process: Measured, answers: Sequence[dict[str, Any]], case: str, preset: str, threads: int) -> Row:
    """Of the answers of a process, one a round."""
    program = process.program
    seconds, cpu = ([x for answer in answers for x in answer[name]] for name in ("seconds", "cpu"))
    rounds = [(statistics.median(answer["seconds"]), statistics.median(answer["cpu"])) for answer in answers]
    return Row(program.name, case, preset, program.backend, program.precision, threads, statistics.median(seconds),
               min(seconds), statistics.mean(cpu), max(answer["peak_rss_mb"] for answer in answers), process.versions,
               rounds=tuple(rounds))


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """The rows of one case with their ratios to the fastest peer, or to our fp32 reference where there is no peer."""
    others = [row for row in rows if row.name != OURS]
    first = [row for row in rows if row.backend == "reference" and row.precision == "fp32"]
    if not rows or not (others or first):
        return list(rows)
    base = min(others, key=lambda row: row.median_s) if others else first[0]
    out = []
    for row in rows:
        wall, cpu = zip(*((a / b, c / d) for (a, c), (b, d) in zip(row.rounds, base.rounds, strict=True)), strict=True)
        out.append(replace(row, against=base.label, ratio=statistics.median(wall), cpu_ratio=statistics.median(cpu)))
    return out


def table(rows: Sequence[Row]) -> str:
    """The rows as text, times in milliseconds below a second."""
    head = ("case", "row", "median", "min", "CPU", "peak MiB", "time ratio", "CPU ratio")
    body = [(row.case, row.label, _time(row.median_s), _time(row.min_s), _time(row.cpu_s), f"{row.peak_rss_mb:,.0f}",
             *("" if x is None else f"{x:.2f}" for x in (row.ratio, row.cpu_ratio))) for row in rows]
    return text_table([head, *body], right=range(2, 8))


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"
