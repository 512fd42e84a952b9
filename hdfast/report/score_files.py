"""Score files in DreamerV3's schema: records of task, method, seed, xs (environment frames), ys (scores), as JSON.

One list of records, or a single record; gzipped where the name ends in .gz. A record may say more: see OPTIONAL.
"""

import gzip
import io
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hdfast.errors import ConfigError, RunError
from hdfast.report.run import TERMS, Curve, Run, evaluated
from hdfast.run.durable import READ_LIMIT, read_bounded
from hdfast.run.jsonl import is_number, plain, replace
from hdfast.tasks import canonical_task

LONGEST_NAME = 200
LARGEST = 10**15  # of a score or a number of frames in an optional key
SUITE = "atari100k_"
SCHEMA = "a list of records with task, method, seed, xs, ys"
OPTIONAL = {
    "episodes": "a list of finite numbers: the scores of the last evaluation, whose mean is the final score",
    "random": 'an object with "episodes", a list of finite numbers: scores of random play by the same evaluation',
    "harmony": f'an object with {{"xs": [...], "ys": [...]}} of finite numbers by loss term, of {", ".join(TERMS)}',
    "shares": "as harmony: the part of each loss in the sum of losses times coefficients",
    "finished": "true or false", "frames": "a whole number, how far the run came",
    "total": "a whole number, the frames that the run is to reach"}
"""{key of a record that it may lack: what stands there}; one that holds something else is named and not used."""


def read(path: Path) -> tuple[list[Run], list[str]]:
    """Runs of a score file, and a note for each kind of record left out; RunError where the file cannot be used."""
    try:
        data = read_bounded(path)
        if data[:2] == b"\x1f\x8b":
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(READ_LIMIT + 1)
            if len(data) > READ_LIMIT:
                raise ValueError(f"it is larger than {READ_LIMIT} bytes once decompressed")
        records = json.loads(data)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"cannot read the score file {path}: {reason}; it must hold JSON, {SCHEMA}") from error
    records = [records] if isinstance(records, dict) else records
    if not isinstance(records, list):
        raise RunError(f"the score file {path} must hold {SCHEMA}, got a {type(records).__name__}")
    runs: dict[tuple[str, str, str], Run] = {}
    refused: Counter[str] = Counter()
    spoiled: Counter[str] = Counter()
    for record in records:
        try:
            run, unused = _run(record, str(path))
        except (ConfigError, KeyError, TypeError, ValueError, OverflowError) as error:
            refused[f"no {error} in it" if isinstance(error, KeyError) else str(error)] += 1
            continue
        if (key := (run.method, run.task, run.seed)) in runs:
            refused[f"{run.method} has {run.task} seed {run.seed} twice"] += 1
        runs.setdefault(key, run)
        spoiled.update(unused)
    return list(runs.values()), [
        *(f"{path}: {count} of {len(records)} records left out: {reason}" for reason, count in refused.items()),
        *(f"{path}: {key} of {count} of {len(records)} records is not used, it must be {OPTIONAL[key]}"
          for key, count in spoiled.items())]


def write(path: Path, runs: Iterable[Run]) -> Path:
    """Write the curves of runs; RunError where there are none or the disk refuses."""
    records = [{"task": run.task, "method": run.method, "seed": run.seed, "xs": run.curve[0], "ys": run.curve[1]}
               for run in runs if len(run.curve[0])]
    if not records:
        raise RunError(f"nothing to write to {path}: no run has a score yet")
    text = json.dumps(plain(records)).encode()
    replace(path, gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    return path


def _run(record: Any, path: str) -> tuple[Run, list[str]]:
    """The run of a record, and the keys of OPTIONAL that cannot be used."""
    if not isinstance(record, dict):
        raise TypeError(f"a record must be an object, got a {type(record).__name__}")
    task, xs, ys = record["task"], record["xs"], record["ys"]
    method, seed = _name(record["method"]), _name(record.get("seed", "0"))
    if isinstance(task, str):
        _name(task)
    if not (isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys)):
        raise ValueError("xs and ys must be lists of the same length")
    points = sorted((float(x), float(y)) for x, y in zip(xs, ys, strict=True)
                    if x is not None and y is not None and math.isfinite(float(x)) and math.isfinite(float(y)))
    if not points:
        raise ValueError("it has no finite point")
    if isinstance(task, str) and task.startswith(SUITE):
        task = "atari_" + task.removeprefix(SUITE)
    curve = tuple(np.array(points).T)
    more = {key: value for key in OPTIONAL if (value := _optional(key, record)) is not None}
    unused = [key for key in OPTIONAL if record.get(key) is not None and key not in more]
    frames, episodes = max(int(curve[0][-1]), more.get("frames", 0)), more.get("episodes", ())
    final, how = (math.fsum(episodes) / len(episodes), evaluated(len(episodes), frames)) if episodes else (
        float(curve[1][-1]), f"last point of the curve, at {int(curve[0][-1]):,} frames")
    return Run(canonical_task(task), method, seed, final, how, curve, frames,
               max(frames, more.get("total", frames)), more.get("finished", True), path, more.get("harmony", {}),
               more.get("shares", {}), episodes, more.get("random", ())), unused


def _optional(key: str, record: dict[str, Any]) -> Any:
    """The value of a key of OPTIONAL as Run has it; None where it is missing or something else."""
    value = record.get(key)
    if key == "episodes":
        return _numbers(value)
    if key == "random":
        return _numbers(value.get("episodes")) if isinstance(value, dict) else None
    if key in ("harmony", "shares"):
        curves = {term: _curve(value.get(term)) for term in TERMS if term in value} if isinstance(value, dict) else {}
        return curves if all(curve is not None for curve in curves.values()) and isinstance(value, dict) else None
    return value if type(value) is (bool if key == "finished" else int) and 0 <= value <= LARGEST else None


def _numbers(value: Any) -> tuple[float, ...] | None:
    """A list of one or more finite numbers that a mean can be taken of."""
    if isinstance(value, list) and value and all(is_number(x) and abs(x) < LARGEST for x in value):
        return tuple(map(float, value))
    return None


def _curve(value: Any) -> Curve | None:
    xs, ys = (_numbers(value.get(key)) for key in ("xs", "ys")) if isinstance(value, dict) else (None, None)
    return (np.array(xs), np.array(ys)) if xs and ys and len(xs) == len(ys) and list(xs) == sorted(xs) else None


def _name(value: Any) -> str:
    text = str(value) if isinstance(value, str | int) else ""
    if not (text.isprintable() and 0 < len(text) <= LONGEST_NAME):
        raise ValueError(f"task, method and seed must be printable text of up to {LONGEST_NAME} characters, or numbers")
    return text
