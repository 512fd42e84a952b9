"""The committed learning results as figures and tables use them: read from bench/results/learning, with intervals."""

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hdfast.errors import RunError
from hdfast.report import score_files
from hdfast.report.collect import binned, search
from hdfast.report.run import OURS, Curve, Run
from hdfast.report.summary import SEEDS
from hdfast.tasks import canonical_task

SAMPLES = 10_000  # of every bootstrap


@dataclass(frozen=True)
class Result:
    """A record: the run as the report reads it, and the record's own fields for what the report does not use."""

    run: Run
    raw: dict[str, Any]

    @property
    def training(self) -> Curve:
        """Mean score of training episodes over frames, in at most 20 spans; a peer's record has them as its curve."""
        curve = self.raw.get("training")
        if isinstance(curve, dict) and len(curve.get("xs", [])) == len(curve.get("ys", [])) > 0:
            return np.array(curve["xs"], float), np.array(curve["ys"], float)
        return binned(self.run.curve)

    def minutes(self, clock: str) -> float | None:
        """Minutes of the whole run, its evaluations included, by `cpu` or `wall`; None if unknown."""
        parts = [self.raw.get(name) for name in (f"{clock}_seconds", f"evaluation_{clock}_seconds")]
        return None if not isinstance(parts[0], int | float) else sum(part or 0 for part in parts) / 60


def read(folder: Path) -> list[Result]:
    """All records of the score files at or below `folder`, by task, method and seed.

    Raises RunError for a file or a record that cannot be used: what is committed must be whole.
    """
    found: dict[tuple[str, str, str], Result] = {}
    for path in search(folder)[1] if folder.is_dir() else []:
        runs, notes = score_files.read(path)
        if notes:
            raise RunError(f"a committed score file is not whole: {'; '.join(notes)}")
        data = path.read_bytes()
        records = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
        for run, raw in zip(runs, records if isinstance(records, list) else [records], strict=True):
            if (key := (run.task, run.method, run.seed)) in found:
                raise RunError(f"{path}: {run.method} has {run.task} seed {run.seed} in {found[key].run.path}, too; "
                               "take one of the two away")
            found[key] = Result(run, raw)
    return [found[key] for key in sorted(found)]


def methods(results: Iterable[Result]) -> list[str]:
    """Names of the methods that were run, ours first, HarmonyDream before the others; official seeds are none."""
    names = {result.run.method for result in results} - set(SEEDS)
    return sorted(names, key=lambda name: (not name.startswith(OURS), "HarmonyDream" not in name, name))


def tasks(results: Iterable[Result]) -> list[str]:
    """Tasks that were run by us."""
    return sorted({result.run.task for result in results if result.run.method.startswith(OURS)})


def of(results: Iterable[Result], task: str, method: str, *, finished: bool = True) -> list[Result]:
    """Results of one method on one task; by default only of finished runs."""
    return [result for result in results if (result.run.task, result.run.method) == (task, method)
            and (result.run.finished or not finished)]


def interval(groups: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Mean of the groups' means, and its 95% percentile bootstrap interval over the scores within each group.

    The groups, which are seeds, stay as they are: the interval says how well these agents are known, not how other
    seeds would do.
    """
    rng = np.random.default_rng(0)
    drawn = [np.array(group)[rng.integers(0, len(group), (SAMPLES, len(group)))].mean(1) for group in groups]
    low, high = np.percentile(np.mean(drawn, 0), [2.5, 97.5])
    return float(np.mean([np.mean(group) for group in groups])), float(low), float(high)


def official(results: Iterable[Result], task: str, method: str, frames: float) -> np.ndarray:
    """Scores (seeds,) of the official single seeds of a published method at some frames; empty if there are none."""
    curves = [result.run.curve for result in results
              if result.run.task == canonical_task(task) and SEEDS.get(result.run.method) == method]
    return np.array([np.interp(frames, *curve) for curve in curves if curve[0][0] <= frames <= curve[0][-1]])
