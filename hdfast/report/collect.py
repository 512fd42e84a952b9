"""Run directories and score files in folders -> Run; whatever is broken or unfinished becomes a note."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hdfast.config import MACHINE_SETTINGS, Config, differences
from hdfast.errors import ConfigError, RunError
from hdfast.paths import is_folder, walk
from hdfast.presets import OFFICIAL, PRESETS
from hdfast.protocol import frames_per_step, method_name
from hdfast.report import score_files
from hdfast.report.run import OURS, TERMS, Curve, Run, evaluated
from hdfast.run.durable import read_bounded
from hdfast.run.jsonl import RECORDS, content, is_number, read_object, read_rows
from hdfast.run.pictures import numeric, random_scores

Taken = defaultdict[str, list[dict[str, Any]]]  # by name of a method, the settings of those that have it
LAST_EPISODES = 20
CURVE_BINS = 20
SHARE_BINS = 60
MOST_OTHER = 2  # settings of a preset that a run may have otherwise and still be named after it
NO_METHOD = MACHINE_SETTINGS | {"run.log_every", "run.save_every", "run.eval_every", "run.video_every", "run.eval_envs",
                                "run.eval_episodes", "run.eval_random", "harmony.mode", "loss.reward_grad",
                                "loss.reward_scale", "loss.image_scale"}
"""Settings that need no words: where a run is, how often it reports, and what `method_name` names already."""


def collect(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Runs at or below the folders, and one note for each folder or file that gave less than it should.

    They come from run directories and from the score files (.json, .json.gz) that lie outside of these. Raises
    ConfigError for a folder that does not exist. Two runs of one method, task and seed count once: a run directory
    rather than a record of it, otherwise the one that came further.
    """
    runs: dict[tuple[str, str, str], Run] = {}
    notes: list[str] = []
    taken: Taken = defaultdict(list)
    places = set()
    for folder in folders:
        directories, files = search(folder)
        places |= set(map(str, directories))
        if not (directories or files):
            notes.append(f"{folder}: no run directory in it (a run has a config.json), and no score file")
        found = [run for path in directories if (run := _read(path, taken, notes)) is not None]
        for path in files:
            try:
                records, more = score_files.read(path)
            except RunError as error:
                records, more = [], [f"left out: {error}"]
            found += records
            notes += more
        for run in found:
            key = (run.method, run.task, run.seed)
            if key in runs:
                worse = min(run, runs[key], key=lambda r: (r.path in places, r.finished, r.frames))
                notes.append(f"{worse.path}: left out, {run.method} has {run.task} seed {run.seed} twice")
                if worse is run:
                    continue
            runs[key] = run
    return sorted(runs.values(), key=lambda r: (r.method, r.task, _natural(r.seed))), notes


def _natural(seed: str) -> tuple[int, str]:
    return (int(seed) if seed.isdecimal() else -1, seed)


def search(folder: Path) -> tuple[list[Path], list[Path]]:
    """Directories at or below `folder` with records of a run, and score files beside them; nothing inside a run is
    looked at. Raises ConfigError for a folder that does not exist."""
    if not is_folder(folder):
        raise ConfigError(f"there is no directory {folder}; give run directories, or folders that hold them")
    found, scored = [], []
    for where, below, files in walk(folder):
        if "config.json" in files or set(RECORDS) & set(files):
            found.append(where)
            below.clear()
        else:
            scored += [where / name for name in sorted(files) if name.endswith((".json", ".json.gz"))]
    return found, scored


def _read(path: Path, taken: Taken, notes: list[str]) -> Run | None:
    """The run in one directory; None, with a note, where its settings cannot be read."""
    try:
        config = Config.from_json(read_bounded(path / "config.json").decode())
    except OSError as error:
        notes.append(f"{path}: left out, its config.json cannot be read ({error.strerror})")
        return None
    except (ConfigError, RunError, UnicodeDecodeError) as error:
        notes.append(f"{path}: left out, its config.json cannot be used: {error}")
        return None
    rows = {name: _rows(path / name, notes) for name in RECORDS}
    evals = points(rows["eval.jsonl"], "eval/score")
    episodes = points(rows["scores.jsonl"], "episode/score")
    last = _last(evals, rows["eval.jsonl"])
    final, how = _final(evals, len(last), episodes)
    if final is None:
        notes.append(f"{path}: no score yet, no evaluation and no training episode has ended")
    meta = read_object(path / "meta.json")
    frames = max([int(xs[-1]) for xs, _ in (evals, episodes, points(rows["metrics.jsonl"], "step")) if len(xs)],
                 default=0)
    curve = binned(episodes) if len(evals[0]) <= 1 and len(episodes[0]) else evals
    harmony = {term: found for term in TERMS
               if len((found := points(rows["metrics.jsonl"], f"train/harmony/{term}_coeff"))[0])}
    shares = _shares(rows["metrics.jsonl"], config)
    return Run(config.task, _name(config, taken), str(config.seed), final, how, curve, frames,
               config.run.steps * frames_per_step(config), isinstance(meta.get("finished"), int), str(path), harmony,
               shares, last, tuple(random_scores(path)), points(rows["eval.jsonl"], "eval/success"))


def _rows(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Rows of a record, with a note where lines are broken or the file cannot be read."""
    try:
        rows = read_rows(path)
        lines = len(content(path).splitlines())
    except (RunError, OSError) as error:
        notes.append(str(error))
        return []
    if lines > len(rows):
        notes.append(f"{path}: {lines - len(rows)} of {lines} lines are no JSON objects and are left out")
    return rows


def numbers(found: Any) -> tuple[float, ...]:
    """A list of finite numbers as JSON has it; empty for anything else."""
    return tuple(map(float, found)) if isinstance(found, list) and all(map(is_number, found)) else ()


def points(rows: list[dict[str, Any]], key: str) -> Curve:
    """Steps and values of the rows that have both as finite numbers, by step."""
    xs, ys = numeric(rows, "step", key).T
    return xs, ys


def _shares(rows: list[dict[str, Any]], config: Config) -> dict[str, Curve]:
    """Part of each harmonized loss in their sum, loss times coefficient; empty where some of that was not recorded."""
    names = (*(f"harmony/{term}_coeff" for term in TERMS), "loss/rew", "loss/image", "loss/dyn", "loss/rep")
    step, *values = numeric(rows, "step", *(f"train/{name}" for name in names)).T
    coeff, (reward, image, dyn, rep) = np.array(values[:3]), values[3:]
    scale = config.loss
    kl = (scale.dyn_scale * dyn + scale.rep_scale * rep) / (scale.dyn_scale + scale.rep_scale)
    weighted = coeff * np.array([reward, image, kl])
    total = weighted.sum(0)
    known = total > 0
    return {term: binned((step[known], found[known] / total[known]), SHARE_BINS)
            for term, found in zip(TERMS, weighted, strict=True)} if known.any() else {}


def _last(evals: Curve, rows: list[dict[str, Any]]) -> tuple[float, ...]:
    """Scores of the episodes of the last evaluation, where it names them."""
    last = [row for row in rows if len(evals[0]) and is_number(row.get("step")) and row["step"] == evals[0][-1]
            and is_number(row.get("eval/score"))]
    return numbers(last[-1].get("scores")) if last else ()


def _final(evals: Curve, count: int, episodes: Curve) -> tuple[float | None, str]:
    """Final score of a run and what it is; `count` are the episodes of the last evaluation."""
    if len(evals[0]):
        return float(evals[1][-1]), evaluated(count, evals[0][-1])
    last_scores = episodes[1][-LAST_EPISODES:]
    if len(last_scores):
        return float(last_scores.mean()), f"last {len(last_scores)} training episodes"
    return None, "no score yet"


def binned(curve: Curve, bins: int = CURVE_BINS) -> Curve:
    """At most `bins` points, each the mean of its span of frames."""
    xs, ys = curve
    if len(xs) <= bins:
        return curve
    edges = np.linspace(0, xs[-1], bins + 1)
    place = np.clip(np.searchsorted(edges, xs, "left") - 1, 0, bins - 1)
    filled = np.unique(place)
    return edges[filled + 1], np.array([ys[place == i].mean() for i in filled])


def _name(config: Config, taken: Taken) -> str:
    """Name of a method, with the presets and settings in which it differs from the official protocol.

    The same one for the same settings, another for others, by those that are `taken`.
    """
    changed, name = _changed(config), f"{OURS}{method_name(config)}{differs(config)}"
    same = taken[name]
    if changed not in same:
        same.append(changed)
    number = same.index(changed)
    return f"{name} #{number + 1}" if number else name


def differs(config: Config) -> str:
    """' [cpu, demo]': the presets and settings in which a run differs from the official protocol; '' where in none."""
    changed = _changed(config)
    return f" [{_described(changed)}]" if changed else ""


def _changed(config: Config) -> dict[str, Any]:
    """{setting: value} of what differs from the official protocol on this task and is part of the method."""
    official = Config.preset(OFFICIAL, task=config.task)
    return {name: new for name, (_, new) in differences(official, config, ignore=NO_METHOD).items()}


def _described(changed: dict[str, Any]) -> str:
    """Presets that are there but for at most two of their settings, largest first, and up to two settings by name. What
    one of them has, like demo, may differ in another, like cpu."""
    left, words = dict(changed), []
    defaults = Config().flat()
    blocks = {name: {k: v for k, v in preset.values.items() if k not in NO_METHOD and defaults[k] != v}
              for name, preset in PRESETS.items()}
    taken: set[str] = set()  # settings that a preset gave their values

    def near(block: dict[str, Any]) -> dict[str, Any] | None:
        """What is there instead of a block's settings; None if it is too much."""
        other = {k: left.get(k, defaults[k]) for k, v in block.items() if left.get(k, defaults[k]) != v}
        few = 2 * len(other) < len(block) and len(other.keys() - taken) <= MOST_OTHER
        return other if few else None

    taken.update(*(block.keys() - other.keys() for block in blocks.values() if (other := near(block)) is not None))
    for name, block in sorted(blocks.items(), key=lambda item: -len(item[1])):
        if (other := near(block)) is not None:
            words.append(name)
            left = other | {k: v for k, v in left.items() if k not in block}
    shown = [f"{name} {value}" for name, value in list(left.items())[:2]]
    more = len(left) - len(shown)
    return ", ".join([*words, *shown, *([f"{more} more"] if more > 0 else [])])
