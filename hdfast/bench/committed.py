"""Measured ops beside those of the committed tables: bench/results/ops-KIND.csv, one for each kind of processor.

A table holds ratios to eager PyTorch. They survive another clock and a busy machine, which times do not: both rows of a
ratio were measured in turns. A row is too slow above eager's time, or above `SLACK` times its committed ratio.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

from hdfast import processor
from hdfast.bench.peers import ROOT
from hdfast.bench.rows import OURS, Row
from hdfast.errors import ConfigError, RunError
from hdfast.machine import cpu_name, git_revision
from hdfast.ops import library

COLUMNS = ("preset", "threads", "case", "ratio", "native_us", "eager_us", "processor", "torch", "commit", "date")
RESULTS = ROOT / "bench" / "results"
SLACK = 1.1
BACKENDS = {"reference", "native"}


def table() -> Path:
    """The table of the kind of processor that this is, or that HDFAST_CPU_ARCH makes of it."""
    return RESULTS / f"ops-{processor.kind(library.vector_width())}.csv"


def can_compare(only: str, backends: Sequence[str], *, save: bool) -> None:
    """ConfigError if --check and --save have nothing to work with: native ops and eager ones in one run, and, to
    `save`, the source tree."""
    if only not in ("all", "ops") or not BACKENDS <= set(backends):
        raise ConfigError("--check and --save are about the ops of native beside those of reference; add --only ops "
                          "--backends reference,native")
    if save and not RESULTS.is_dir():
        raise ConfigError(f"--save needs the source tree, whose tables are in bench/results; {RESULTS} is not there")


def native_ops(rows: Sequence[Row]) -> list[Row]:
    """Our native ops with a ratio to eager."""
    return [row for row in rows if row.name == OURS and row.backend == "native" and "." in row.case and row.ratio]


def geometric_means(rows: Sequence[Row]) -> Iterator[str]:
    """Of the ratios of ops, for each of ours beside the reference."""
    ops = [row for row in rows if "." in row.case and row.ratio and row.label != row.against]
    for label in dict.fromkeys(row.label for row in ops):
        ratios = [row.ratio for row in ops if row.label == label]
        yield f"{label}: geometric mean of the time ratios of {len(ratios)} ops {geometric_mean(ratios):.3f}"


def geometric_mean(numbers: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, numbers)) / len(numbers))


def read(preset: str, threads: int) -> dict[str, float]:
    """{case: ratio} of a table; empty where nothing is committed; RunError for a table that is none."""
    path = table()
    if not path.exists():
        return {}
    try:
        with path.open(newline="") as file:
            return {row["case"]: float(row["ratio"]) for row in csv.DictReader(file)
                    if (row["preset"], row["threads"]) == (preset, str(threads))}
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path} is no table of ops ({error!r}); `git checkout` it, or make it with --save") from error


def too_slow(rows: Sequence[Row], committed: Mapping[str, float]) -> dict[str, str]:
    """{case: a sentence} of the native ops that are too slow."""
    found = {}
    for row in native_ops(rows):
        before = committed.get(row.case, math.inf)
        limit = min(1.0, SLACK * before)
        if row.ratio > limit:
            why = "eager" if limit == 1 else f"{SLACK:g} times the committed {before:.3f}"
            found[row.case] = f"{row.case}: {row.ratio:.3f} of eager's time, the limit is {limit:.3f} ({why})"
    return found


def verdict(slow: Mapping[str, str], before: Mapping[str, float], preset: str, threads: int) -> Iterator[str]:
    """The sentences of --check: what was compared, which ops are too slow, what to do."""
    path = table()
    yield ""
    if before:
        yield f"check: ops against eager, and against {SLACK:g} times the {len(before)} ratios committed in {path}"
    else:
        yield f"check: ops against eager alone; {path} has none of {preset} with {threads} threads, --save adds them"
    yield from slow.values()
    if slow:
        yield ("check: failed, twice. Run it again with nothing beside it and --rounds 20; if it stays, `git bisect` "
               "finds the commit; where that is meant, run with --save and commit the table with the reason")
    else:
        yield "check: passed"


def save(rows: Sequence[Row]) -> Path:
    """Put native ops in place of those that the table has of their preset and threads; returns the table's path."""
    path = table()
    eager = {row.case: row.median_s for row in rows if row.label == f"{OURS} reference"}
    fresh = [dict(zip(COLUMNS, (
        row.preset, str(row.threads), row.case, f"{row.ratio:.3f}", f"{row.median_s * 1e6:.1f}",
        f"{eager[row.case] * 1e6:.1f}", cpu_name(), row.versions["torch"], git_revision(),
        date.today().isoformat()), strict=True)) for row in native_ops(rows)]
    measured = {(row["preset"], row["threads"]) for row in fresh}
    old = csv.DictReader(path.read_text().splitlines()) if path.exists() else ()
    kept = [row for row in old if (row["preset"], row["threads"]) not in measured]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(kept + fresh, key=lambda row: (row["preset"], int(row["threads"]))))
    return path
