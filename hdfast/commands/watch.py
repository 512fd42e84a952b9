"""`hdfast watch`: how far the runs below a directory are, read from their files alone. Needs no torch."""

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdfast.config import Config
from hdfast.errors import ConfigError, RunError, spelled_out
from hdfast.paths import is_folder, walk
from hdfast.run.durable import read_bounded
from hdfast.run.jsonl import is_number, last_rows
from hdfast.run.progress import LiveTable, compact, duration, points, text_table

REFRESH = 2.0  # seconds between readings
EPISODES = 10  # training episodes whose mean is the score
HEADER = ("run", "method", "state", "step", "score", "eval", "steps/s", "left")
ORDER = ("failed", "died", "retried", "running", "stopped", "waiting", "finished")  # what needs a person comes first

Table = tuple[str, list[tuple[str, ...]]]  # a line that counts the runs, a row of text for each under HEADER


@dataclass(frozen=True)
class RunState:
    """One run as its files tell: steps are agent steps, score the mean of the last ten training episodes, evaluation
    the last one's mean score, rate in steps/s, left in seconds; None where it is not known. detail: why it failed."""

    path: Path
    method: str = ""
    state: str = "waiting"
    step: int = 0
    total: int = 0
    score: float | None = None
    evaluation: float | None = None
    rate: float | None = None
    left: float | None = None
    detail: str = ""


def read_run(path: Path) -> RunState:
    """State of the run at `path`: running, finished, stopped (by a signal), failed, died (killed without a word), or
    waiting where no run lies there yet. Files that cannot be read make a failed run, never an error."""
    try:
        config = Config.from_json(read_bounded(path / "config.json").decode())
        meta = json.loads(read_bounded(path / "meta.json"))
        status, method = spelled_out(str(meta["status"])), spelled_out(str(meta.get("method", "")))
        start = dict(meta["starts"][-1])
    except FileNotFoundError:
        return RunState(path)
    except (OSError, ValueError, RecursionError, KeyError, IndexError, TypeError, RunError) as error:
        return RunState(path, state="failed", detail=f"unreadable: {error}")
    rows = [row for row in last_rows(path / "metrics.jsonl") if is_number(row.get("agent_step"))
            and is_number(row.get("seconds"))]
    step = int(max([0, *(n for n in (rows and rows[-1]["agent_step"], meta.get("finished")) if is_number(n))]))
    state, _, detail = status.partition(" ")
    state = state.rstrip(":")
    if state == "running" and start.get("host") == platform.node() and not _alive(start.get("pid")):
        state = "died"
    if state == "finished" and step < config.run.steps:
        state = "waiting"
    rate = _rate(rows)
    episodes = [row["episode/score"] for row in rows if is_number(row.get("episode/score"))][-EPISODES:]
    evaluations = [row["eval/score"] for row in last_rows(path / "eval.jsonl") if is_number(row.get("eval/score"))]
    return RunState(
        path, method, state, step, config.run.steps,
        score=sum(episodes) / len(episodes) if episodes else None,
        evaluation=evaluations[-1] if evaluations else None, rate=rate,
        left=max(0, config.run.steps - step) / rate if rate and state == "running" else None, detail=detail)


def _alive(pid: Any) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError, TypeError):
        return False
    except PermissionError:
        pass
    return True


def _rate(rows: list[dict[str, Any]]) -> float | None:
    """Steps per second over the rows; evaluations and pauses count."""
    if not rows or (seconds := rows[-1]["seconds"] - rows[0]["seconds"]) <= 0:
        return None
    return (rows[-1]["agent_step"] - rows[0]["agent_step"]) / seconds or None


def find_runs(root: Path) -> list[Path]:
    """Run directories at or below `root`, in order: those that hold a config.json and a meta.json; ConfigError where
    there are too many folders."""
    found = []
    for folder, below, files in walk(root):
        if {"config.json", "meta.json"} <= set(files):
            found.append(folder)
            below.clear()
    return sorted(found)


def table(root: Path, states: Iterable[RunState]) -> Table:
    """The runs by their states, what needs a person first."""
    states = list(states)
    rank = {name: place for place, name in enumerate(ORDER)}
    states.sort(key=lambda run: (rank.get(run.state, -1), run.path))
    counts = Counter(run.state for run in states)
    title = f"{len(states)} run{'s' * (len(states) != 1)}: " + ", ".join(f"{n} {name}" for name, n in counts.items())
    return title, [_cells(root, run) for run in states]


def _cells(root: Path, run: RunState) -> tuple[str, ...]:
    name = str(run.path.relative_to(root)) if run.path.is_relative_to(root) and run.path != root else str(run.path)
    return (spelled_out(name), run.method, run.state, f"{compact(run.step)}/{compact(run.total)}" if run.total else "-",
            *(text(value) if value is not None else "-" for text, value in (
                (points, run.score), (points, run.evaluation), (compact, run.rate), (duration, run.left))))


def watch(root: Path, *, once: bool) -> None:
    """Show the runs at or below `root` until Ctrl-C; `once`, or where no terminal is, print them as text and return.

    Raises ConfigError where `root` is no directory.
    """
    root = Path(root)
    if not is_folder(root):
        raise ConfigError(f"there is no directory {root}; give the --logdir of a train or sweep command")

    def now() -> Table:
        return table(root, map(read_run, find_runs(root)))

    live = None if once else LiveTable.on_terminal(HEADER)
    if live is None:
        title, rows = now()
        print(text_table([HEADER, *rows]) + "\n" + title)
        return
    with live:
        while True:
            live.show(*now())
            time.sleep(REFRESH)
