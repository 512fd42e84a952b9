"""Figures and table of the study, from its committed results alone: the same bytes from the same results.

Intervals are 95% percentile bootstraps over seeds.
"""

import functools
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from study_arms import ARMS, TERMS

from hdfast.errors import RunError
from hdfast.report.figures import RC
from hdfast.report.style import INK, METHODS, MUTED, OTHERS
from hdfast.run.jsonl import replace

Records = dict[str, list[dict[str, Any]]]  # by arm, in the order of ARMS

SAMPLES = 10_000
COLORS = {"rectified": METHODS["HarmonyDream"], "plain": OTHERS[3], "off": METHODS["DreamerV3"],
           "reward10": OTHERS[2], "reward100": OTHERS[0], "observation_only": OTHERS[1],
           "rectified_no_background": METHODS["HarmonyDream"], "off_no_background": METHODS["DreamerV3"]}
NAMES = {"rectified": "harmony", "plain": "harmony, plain", "off": "off (DreamerV3)", "reward10": "reward x10",
         "reward100": "reward x100", "observation_only": "observation only",
         "rectified_no_background": "harmony, no background", "off_no_background": "off, no background"}
TERM_COLORS = dict(zip(TERMS, (METHODS["HarmonyDream"], OTHERS[0], OTHERS[1], OTHERS[3]), strict=True))
FIGURES = {
    "harmony_scores": "Score by mode. Left: of the last evaluation; right: over steps. Dots are seeds, bars "
                      "and bands 95% bootstrap intervals of the mean over seeds.",
    "harmony_reward_error": "Error of the predicted reward. Left: on held-out random play at the end; 1 is a model "
                            "that does not see the ball, 0 knows every reward. Right: the reward loss in training, on "
                            "the batches of each run.",
    "harmony_shares": "Share of each loss term, times its weight, in the sum over time.",
}
BEGIN, END = "<!-- study: begin, written by bench/learning/study.py -->", "<!-- study: end -->"
NOTHING = "No results are committed yet: `make study` writes them, and this section.\n"


def load(results: Path) -> Records:
    """The records of every arm that has some; RunError for a file that holds none."""
    found = {}
    for name in ARMS:
        path = results / f"{name}.json"
        if not path.exists():
            continue
        try:
            records = json.loads(path.read_text())
            if not records or any(record["arm"] != name for record in records):
                raise ValueError(f"it has no records, or some of another arm than {name}")
            found[name] = sorted(records, key=lambda record: int(record["seed"]))
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"cannot use {path}: expected a list of the study's records, got {error!r}; write it again "
                           "with bench/learning/study.py") from error
    return found


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap interval of the mean over seeds: values (seeds, ...) -> low, high (...)."""
    low, high = np.percentile(np.tensordot(_weights(len(values)), values, 1), (2.5, 97.5), axis=0)
    return low, high


@functools.cache
def _weights(seeds: int) -> np.ndarray:
    """What each seed counts in each bootstrap sample, (SAMPLES, seeds)."""
    drawn = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), SAMPLES)
    return drawn / seeds


def finals(records: Sequence[dict[str, Any]]) -> np.ndarray:
    """Mean score of every run's last evaluation, (seeds,)."""
    return np.array([record["ys"][-1] for record in records], float)


def held_out(records: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    """What `reward_error` found of every run, (seeds,)."""
    return np.array([record["held_out"][name] for record in records], float)


def common(records: Sequence[dict[str, Any]], xs: str, ys: Sequence[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps that all runs have, and their curves at them: (points,), (seeds, points)."""
    steps = sorted(set.intersection(*(set(record[xs]) for record in records)))
    return np.array(steps, float), np.array([[curve[record[xs].index(step)] for step in steps]
                                             for record, curve in zip(records, ys, strict=True)], float)


def shares(records: Sequence[dict[str, Any]], term: str) -> tuple[np.ndarray, np.ndarray]:
    """A term's share of the weighted sum: steps (points,), shares (seeds, points)."""
    steps, one = common(records, "at", [record["weighted"][term] for record in records])
    return steps, one / sum(common(records, "at", [record["weighted"][name] for record in records])[1]
                            for name in TERMS)


# Figures

def figures(results: Path, out: Path) -> list[Path]:
    """Draw docs/figures/harmony_*.png into `out` from the results in a folder; returns their paths, none without
    results. Raises RunError for an unusable file, ImportError if matplotlib is missing."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    records = load(results)
    paths = []
    for name, draw in (zip(FIGURES, (_scores, _reward_error, _shares), strict=True) if records else ()):
        with rc_context(RC):
            figure = Figure(layout="constrained")
            draw(figure, records)
            out.mkdir(parents=True, exist_ok=True)
            figure.savefig(out / f"{name}.png", dpi=150, metadata={"Software": None})
        paths.append(out / f"{name}.png")
    return paths


def _scores(figure: Any, records: Records) -> None:
    figure.set_size_inches(7.6, 1.1 + 0.3 * len(records))
    left, right = figure.subplots(1, 2)
    _rows(left, {name: finals(runs) for name, runs in records.items()})
    left.set(title="Final score", xlabel="mean of the last evaluation, -1 to 1", xlim=(-1.05, 1.05))
    for name, runs in records.items():
        _curve(right, name, *common(runs, "xs", [run["ys"] for run in runs]))
    right.set(title="Score over steps", xlabel="environment steps", ylim=(-1.05, 1.05))


def _reward_error(figure: Any, records: Records) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure.set_size_inches(7.6, 1.1 + 0.3 * len(records))
    left, right = figure.subplots(1, 2)
    _rows(left, {name: held_out(runs, "unexplained") for name, runs in records.items()})
    left.axvline(1, color=MUTED, linewidth=1, linestyle="--")
    left.set(title="Unexplained reward, held out", xlabel="squared error over variance", xlim=(0, None))
    for name, runs in records.items():
        _curve(right, name, *common(runs, "at", [run["loss"]["reward"] for run in runs]))
    right.set(title="Reward loss in training", xlabel="environment steps", ylabel="nats a record", yscale="log")
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    right.yaxis.set_minor_locator(NullLocator())


def _shares(figure: Any, records: Records) -> None:
    from matplotlib.lines import Line2D

    columns = min(4, len(records))
    rows = -(-len(records) // columns)
    figure.set_size_inches(1.9 * columns, 1.7 * rows + 0.4)
    for place, (name, runs) in enumerate(records.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        for term in TERMS:
            steps, values = shares(runs, term)
            _band(axes, steps, values, TERM_COLORS[term])
        axes.set_title(NAMES[name], fontsize=8)
        axes.set_ylim(0, 1)
        axes.locator_params(axis="x", nbins=3)
        if place >= len(records) - columns:
            axes.set_xlabel("environment steps")
    handles = [Line2D([], [], color=color, label=term) for term, color in TERM_COLORS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(TERMS))


def _rows(axes: Any, values: dict[str, np.ndarray]) -> None:
    """One line an arm: interval as bar, mean as stroke, seeds as dots."""
    for place, (name, found) in enumerate(values.items()):
        low, high = interval(found)
        axes.barh(place, high - low, left=low, height=0.5, color=COLORS[name], alpha=0.35, linewidth=0)
        axes.plot([found.mean()] * 2, [place - 0.25, place + 0.25], color=COLORS[name], linewidth=2.2)
        axes.scatter(found, np.full(len(found), place), s=7, color=INK, alpha=0.6, linewidth=0, zorder=3)
    axes.set_yticks(range(len(values)), [NAMES[name] for name in values])
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def _curve(axes: Any, name: str, steps: np.ndarray, values: np.ndarray) -> None:
    _band(axes, steps, values, COLORS[name], "--" if name.endswith("no_background") else "-")
    axes.locator_params(axis="x", nbins=4)


def _band(axes: Any, steps: np.ndarray, values: np.ndarray, color: str, style: str = "-") -> None:
    axes.fill_between(steps, *interval(values), color=color, alpha=0.15, linewidth=0)
    axes.plot(steps, values.mean(0), color=color, linestyle=style, linewidth=1.4)


# Table and page

def table(results: Path) -> str:
    """The results as a Markdown table, a line an arm; a sentence if there are none."""
    records = load(results)
    if not records:
        return NOTHING
    lines = ["| Mode | Background | Seeds | Score | Seeds above 0.5 | Unexplained reward | Right sign | Image share, "
             "first to last | CPU seconds |", "| --- | --- |" + " ---: |" * 7]
    for name, runs in records.items():
        image = shares(runs, "image")[1].mean(0)
        score = finals(runs)
        lines.append("| " + " | ".join([
            NAMES[name].removesuffix(", no background"), runs[0]["background"], str(len(runs)), _spread(score),
            str(int((score > 0.5).sum())), _spread(held_out(runs, "unexplained")),
            f"{held_out(runs, 'right').mean():.2f}", f"{image[0]:.0%} to {image[-1]:.0%}",
            f"{np.mean([run['cpu_seconds'] for run in runs]):.0f}"]) + " |")
    return "\n".join(lines) + "\n"


def _spread(values: np.ndarray) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f} (one run)"
    low, high = interval(values)
    return f"{values.mean():.2f} [{low:.2f}, {high:.2f}]"


def section(results: Path) -> str:
    """The text between the markers of the page: how it was run, the table, the figures."""
    records = load(results)
    if not records:
        return NOTHING
    runs = [run for found in records.values() for run in found]
    steps, commits, processors = (sorted({str(run[key]) for run in runs}) for key in ("steps", "commit", "processor"))
    commits = sorted({one[:7] + "-dirty" * one.endswith("-dirty") for one in commits})
    how = (f"{len(runs)} runs of {' and '.join(steps)} environment steps, one thread each, on "
           f"{' and '.join(processors)}; commit {', '.join(commits)}. Each record holds its run's command.")
    parts = [textwrap.fill(how, 118), "", table(results)]
    for name, caption in FIGURES.items():
        title = caption.split(".")[0]
        parts += [f"![{title}](figures/{name}.png)", "", textwrap.fill(f"*{caption}*", 118), ""]
    return "\n".join(parts)


def write_page(page: Path, results: Path) -> None:
    """Put the section between the markers of a Markdown page; RunError if it has none."""
    replace(page, filled(page.read_text(), results).encode())


def filled(text: str, results: Path) -> str:
    """A page's text with the section of these results; RunError if it has no markers."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise RunError(f"the page must hold the lines '{BEGIN}' and '{END}'; add them where the results belong")
    return f"{head}{BEGIN}\n\n{section(results).rstrip()}\n\n{END}{tail}"
