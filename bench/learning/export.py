"""Run directories -> one score file for bench/results/learning, a record a run.

    python bench/learning/export.py runs/learning --out bench/results/learning/cpu.json

Folders are searched for runs as by `hdfast report`, which reads the file in turn. Beside that schema a record holds
evaluations (xs, mean, std), training (xs, ys: mean score of training episodes in 20 spans of frames), lengths of the
last evaluation's episodes, steps, updates, wall_seconds and cpu_seconds of the whole run, command (without its logdir),
commit, processor, hdfast and torch (versions). An unfinished run has "finished": false. A peer's record,
runs/sheeprl/krull-0/record.json of `peer_sheeprl.py`, is taken as it is where it is named beside the folders. A record
that is already in the file stays, unless a run of the same task, method and seed replaces it.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hdfast.errors import ConfigError, RunError
from hdfast.report import score_files
from hdfast.report.collect import binned, collect, numbers, points
from hdfast.report.run import Curve, Run
from hdfast.run.directory import read_meta
from hdfast.run.jsonl import plain, read_rows, replace

MOST_POINTS = 60  # of a harmony curve


def record(run: Run) -> dict[str, Any]:
    """The record of a run from its directory, without unknown fields.

    Numbers have the digits that are worth keeping, and nothing names a place on this machine.
    """
    path = Path(run.path)
    rows, evals = read_rows(path / "metrics.jsonl"), read_rows(path / "eval.jsonl")
    mean, std = points(evals, "eval/score"), points(evals, "eval/score_std")
    meta, reached = read_meta(path), {name: points(rows, name)[1] for name in ("agent_step", "update")}
    last = next((row for row in reversed(evals) if numbers(row.get("scores")) == run.episodes), {})
    lengths = {"lengths": last["lengths"]} if run.episodes and numbers(last.get("lengths")) else {}
    training = binned(points(read_rows(path / "scores.jsonl"), "episode/score"))
    found = {
        "task": run.task, "method": run.method, "seed": int(run.seed), "finished": run.finished,
        **_curve(run.curve), "frames": run.frames, "total": run.total,
        "episodes": run.episodes, **lengths,
        "random": {"episodes": run.random} if run.random else None,
        "evaluations": {"xs": mean[0], "mean": _short(mean[1]), "std": _short(std[1])} if len(mean[0]) else None,
        "training": _curve(training),
        "harmony": {term: _curve(thinned(curve)) for term, curve in run.harmony.items()},
        "shares": {term: _curve(curve) for term, curve in run.shares.items()},
        "steps": _most(reached["agent_step"]), "updates": _most(reached["update"]),
        "wall_seconds": meta.get("seconds"), "cpu_seconds": meta.get("cpu_seconds"), **_start(meta)}
    return {key: value for key, value in plain(found).items() if value not in (None, "", [], {})}


def thinned(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """At most `most` points of a curve, evenly spaced by number, the first and the last among them."""
    kept = np.unique(np.linspace(0, len(curve[0]) - 1, min(most, len(curve[0]))).round().astype(int))
    return curve[0][kept], curve[1][kept]


def _curve(curve: Curve) -> dict[str, Any]:
    return {"xs": curve[0].round().astype(int), "ys": _short(curve[1])}


def _short(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _most(values: np.ndarray) -> int | None:
    return int(values.max()) if len(values) else None


def _start(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What meta.json says of the starts of a run; if these differ, all of them, joined by a comma."""
    starts = meta.get("starts", [])

    def joined(values: Iterable[Any]) -> str:
        return ", ".join(dict.fromkeys(str(value) for value in values if value))

    versions = [start.get("versions") or {} for start in starts]
    words = next((start["argv"][1:] for start in starts if start.get("argv")), [])
    return {"command": shlex.join(["hdfast", *without_logdir(words)]) if words else "",
            "commit": joined(start.get("git") for start in starts),
            "processor": joined(start.get("cpu") for start in starts),
            "hdfast": joined(version.get("hdfast") for version in versions),
            "torch": joined(version.get("torch") for version in versions)}


def without_logdir(words: Sequence[str]) -> list[str]:
    """The words of a command, but for its logdir."""
    kept, left = [], list(words)
    while left:
        word = left.pop(0)
        if word == "--logdir":
            left[:1] = []
        elif not word.startswith("--logdir="):
            kept.append(word)
    return kept


def _key(found: Mapping[str, Any]) -> tuple[str, str, int]:
    return found["task"], found["method"], found["seed"]


def _earlier(out: Path) -> list[dict[str, Any]]:
    """The records that `out` holds already; ConfigError if it is another file."""
    if not out.exists():
        return []
    try:
        found = json.loads(out.read_text())
        list(map(_key, found))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{out} holds no records of runs ({error}); name another file with --out") from error
    return found


def _of_peer(path: Path) -> dict[str, Any]:
    """The record in a peer's file; RunError if it is none."""
    _, notes = score_files.read(path)
    found = json.loads(path.read_text()) if not notes else None
    if not isinstance(found, dict):
        raise RunError(f"{path} must hold one record of a run; {'; '.join(notes) or 'it holds a list'}")
    return found


def write(places: Sequence[Path], out: Path) -> list[str]:
    """Write the records of all runs below folders, and those in files, one a line; returns what was missing or is not
    finished.

    Records in `out` stay unless one of the same task, method and seed replaces them. Raises ConfigError if a folder
    does not exist or `out` is no list of records, RunError if there is nothing to write, a file holds no record or the
    disk refuses.
    """
    folders = [path for path in places if not path.is_file()]
    theirs = [_of_peer(path) for path in places if path not in folders]
    runs, notes = collect(folders)
    runs = [run for run in runs if Path(run.path).is_dir() and len(run.curve[0])]
    if not runs and not theirs:
        raise RunError(f"no run with a score lies below {', '.join(map(str, folders))}; give the --logdir of "
                       f"bench/learning/run.py{''.join(f'; {note}' for note in notes)}")
    records = {_key(found): found for found in [*_earlier(out), *map(record, runs), *theirs]}
    replace(out, ("[\n" + ",\n".join(map(json.dumps, records.values())) + "\n]\n").encode())
    return notes + [f"{run.path}: not finished, at {run.progress:.0%}" for run in runs if not run.finished]


def main(arguments: Sequence[str] | None = None) -> int:
    """Export; 0 if a file was written, else 2 or 1 with one sentence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", type=Path, metavar="RUNS")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    if given.out.suffix != ".json":
        parser.error(f"--out must name a .json file, got {given.out}")
    try:
        notes = write(given.places, given.out)
    except (ConfigError, RunError) as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    print("\n".join([*notes, f"wrote {given.out}; `make figures` draws it"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
