"""Every committed picture, and the tables of docs/results.md, regenerated from the committed data: `make figures`.

    python bench/learning/figures.py [--results bench/results] [--out docs]

Equal data give equal bytes in one environment: no dates, no versions, a fixed random state. diagrams.py draws the
pictures of docs/how_it_works.md, study_figures.py those of the study.
"""

import argparse
import csv
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diagrams
import numpy as np
from learning_records import Result, interval, methods, of, official, read, tasks
from results_table import put

from hdfast import scores
from hdfast.report.figures import RC
from hdfast.report.run import OURS
from hdfast.report.style import INK, METHODS, MUTED, OTHERS
from hdfast.report.summary import SEEDS, mean_curve, random_play, title
from hdfast.run.jsonl import replace
from hdfast.run.progress import short

ROOT = Path(__file__).resolve().parents[2]
STYLE = RC | {"font.size": 11, "axes.titlesize": 12, "figure.dpi": 150, "savefig.dpi": 150, "lines.linewidth": 2.2,
              "svg.fonttype": "path", "figure.facecolor": "white", "axes.facecolor": "white"}
WIDTH = 12.5  # inches; a README is 900 pixels wide, 72 of them an inch, so that a point is a pixel
MOST_GAMES = 3
OFFICIAL = "HarmonyDream"  # of the published methods, the one whose seeds are drawn
GRAY = "#b4bac4"


def make(results: Path, docs: Path) -> list[Path]:
    """Write every picture below `docs`/figures and the tables in `docs`/results.md; returns the files.

    Raises RunError if the data are not whole or the disk refuses.
    """
    found, updates = read(results / "learning"), update_rows(results)
    pictures, page = docs / "figures", docs / "results.md"
    longest, beside = long_runs(found), beside_peers(found)
    atari, others = games(longest)
    replace(pictures / "learning.png", learning(found, updates))
    if atari and others:
        replace(pictures / "continuous.png", picture(longest, others, []))
    if beside:
        published = [result for result in found if result.run.method in SEEDS]
        replace(pictures / "peers.png", picture([*beside, *published], tasks(beside)[:MOST_GAMES], run_bars(beside)))
    diagrams.figures(pictures)
    replace(page, put(page.read_text(), found).encode())
    if Path(__file__).with_name("study_figures.py").is_file() and (results / "study").is_dir():
        importlib.import_module("study_figures").figures(results / "study", pictures)
    return [page, *sorted(pictures.iterdir())]


def update_rows(results: Path) -> list[dict[str, str]]:
    """Rows of the tables in `results` that time whole updates: preset, row, median_s, threads, processor, ..."""
    rows = []
    for path in sorted(results.glob("*.csv")):
        with path.open(newline="") as file:
            rows += [row for row in csv.DictReader(file) if row.get("median_s") and row.get("preset")]
    return rows


def games(results: Sequence[Result]) -> tuple[list[str], list[str]]:
    """The tasks to draw, those with the most runs first: Atari games, which have other curves beside them, and others
    but Catch, a check alone."""
    found = sorted(tasks(results), key=lambda task: (-_runs(results, task), task))
    atari = [task for task in found if task.startswith("atari_")]
    return atari[:MOST_GAMES], [task for task in found if task not in atari and "catch" not in task][:MOST_GAMES]


def long_runs(results: Sequence[Result]) -> list[Result]:
    """The runs with at least half of the frames that the longest on the same game has."""
    most: dict[str, float] = {}
    for result in results:
        if result.run.method not in SEEDS:
            most[result.run.task] = max(result.run.frames, most.get(result.run.task, 0))
    return [result for result in results if 2 * result.run.frames >= most.get(result.run.task, 0)
            or result.run.method in SEEDS]


def beside_peers(results: Sequence[Result]) -> list[Result]:
    """The runs of peers, and ours with as many updates on the same games."""
    made = {(result.run.task, result.raw.get("updates")) for result in results
            if not result.run.method.startswith(OURS) and result.run.method not in SEEDS}
    return [result for result in results if (result.run.task, result.raw.get("updates")) in made]


def learning(results: Sequence[Result], updates: Sequence[dict[str, str]]) -> bytes:
    """The picture of the README: Atari games, or others where there are none, and the time of updates and runs."""
    longest = long_runs(results)
    atari, others = games(longest)
    return picture(longest, atari or others, [*update_bars(updates), *run_bars(beside_peers(results))])


def picture(results: Sequence[Result], games: Sequence[str], bars: Sequence["Bars"]) -> bytes:
    """A picture as PNG: learning curves of games on the left, times on the right, as far as there are data."""
    import io

    import matplotlib
    from matplotlib.figure import Figure

    colors = palette(methods(results))
    out = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must change nothing
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(WIDTH, 4.5 if games else 2.5), layout="constrained")
        if not games:
            for place, bar in enumerate(bars):
                _bars(figure.add_subplot(1, len(bars), place + 1), *bar, room=0.45)
        else:
            grid = figure.add_gridspec(1, len(games) + bool(bars), width_ratios=[1] * len(games) + [1.25] * bool(bars))
            for place, task in enumerate(games):
                _curves(figure.add_subplot(grid[place]), results, task, colors)
            column = grid[-1].subgridspec(len(bars), 1, height_ratios=[len(b[1]) + 1.4 for b in bars]) if bars else None
            for place, bar in enumerate(bars):
                _bars(figure.add_subplot(column[place]), *bar, room=1.3)
            _legend(figure, results, games, colors)
        figure.get_layout_engine().set(w_pad=0.09, h_pad=0.09, wspace=0.03, hspace=0.03)
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def palette(names: Sequence[str]) -> dict[str, str]:
    """{method: color}: ours as the report draws HarmonyDream and DreamerV3, others in turn."""
    found, free = {}, iter(OTHERS * 10)
    for name in names:
        base = name.removeprefix(OURS).partition(" [")[0]
        taken = name.startswith(OURS) and base in METHODS and METHODS[base] not in found.values()
        found[name] = METHODS[base] if taken else next(free)
    return found


def _runs(results: Sequence[Result], task: str) -> int:
    return sum(result.run.task == task for result in results if result.run.method.startswith(OURS))


def _curves(axes: Any, results: Sequence[Result], task: str, colors: dict[str, str]) -> None:
    """One game: seeds thin, their mean thick, final evaluations with 95% interval; random, human, official seeds."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    names = [name for name in colors if of(results, task, name, finished=False)]
    last = max(result.run.frames for name in names for result in of(results, task, name, finished=False))
    seen: list[float] = []
    for place, name in enumerate(names):
        found, color = of(results, task, name, finished=False), colors[name]
        single = [result.training for result in found]
        for xs, ys in single if len(single) > 1 else ():
            axes.plot(xs, ys, color=color, linewidth=0.9, alpha=0.4)
            seen += ys.tolist()
        xs, mean, _ = mean_curve([result.training for result in of(results, task, name) or found])
        axes.plot(xs, mean, color=color, solid_capstyle="butt")
        seen += mean.tolist()
        ended = [result.run.episodes for result in of(results, task, name) if result.run.episodes]
        if ended:
            middle, low, high = interval(ended)
            at = last * (1.05 + 0.045 * place)
            axes.plot([at] * len(ended), [np.mean(e) for e in ended], "o", color=color, markersize=3.6, alpha=0.5,
                      markeredgewidth=0)
            axes.errorbar([at], [middle], [[middle - low], [high - middle]], color=color, marker="D", markersize=6,
                          capsize=3.5, elinewidth=1.8, zorder=4)
            seen += [low, high, *(float(np.mean(e)) for e in ended)]
    for frames in (20_000, 40_000, 60_000, 80_000, 100_000):
        seeds = official(results, task, OFFICIAL, frames)
        if len(seeds) and frames <= last * 1.02:
            axes.plot([frames] * 2, [seeds.min(), seeds.max()], color=GRAY, linewidth=7, alpha=0.75, zorder=1,
                      solid_capstyle="butt")
            axes.plot([frames], [seeds.mean()], "_", color="white", markersize=7, markeredgewidth=2, zorder=1)
            seen += [float(seeds.min()), float(seeds.max())]
    _levels(axes, results, task, seen)
    axes.set_xlim(0, last * (1.08 + 0.045 * len(names)))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 4, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda x, _: short(x)))
    axes.set_xlabel("environment frames")
    axes.set_title(title(task))


def _levels(axes: Any, results: Sequence[Result], task: str, seen: list[float]) -> None:
    """Random play as measured, or as published if it was not, and human play: a line, or words if far above."""
    reference, measured = scores.reference(task) or {}, random_play([result.run for result in results], task)
    random = float(measured.mean()) if len(measured) else reference.get("random")
    if random is not None:
        axes.axhline(random, color=INK, linewidth=1.6, linestyle=":", zorder=3)
        seen.append(random)
    low, high = min(seen), max(seen)
    human = reference.get("human")
    if human is not None and human < low + 1.6 * (high - low):
        axes.axhline(human, color=MUTED, linewidth=1.4, linestyle="--", zorder=2)
        high = max(high, human)
    elif human is not None:
        axes.text(0.02, 0.985, f"human {human:,.0f} \N{UPWARDS ARROW}", transform=axes.transAxes, va="top", color=MUTED,
                  fontsize=10)
        high += 0.08 * (high - low)
    room = (high - low or 1.0) * 0.06
    axes.set_ylim(low - room, high + room)


Bars = tuple[str, list[tuple[str, float, str]]]  # title, (name, value, the value in words) from the least


def update_bars(rows: Sequence[dict[str, str]]) -> list[Bars]:
    """Time of one update by preset, hdfast and the peers; rows measured on the same machine at the same sizes."""
    names = {"reduced": "reduced size", "full": "full size"}
    found = []
    for preset, words in names.items():
        taken = [row for row in rows if row["preset"] == preset and row["row"] != "hdfast reference"]
        bars = [(row["row"].replace("hdfast native", "hdfast"), float(row["median_s"])) for row in taken]
        if bars:
            found.append((f"One update, {words}", [
                (name, value, f"{value:.3g} s" if value >= 1 else f"{value * 1000:.0f} ms")
                for name, value in sorted(bars, key=lambda bar: bar[1])]))
    return found


def run_bars(results: Sequence[Result]) -> list[Bars]:
    """Time of a whole run of ours and of the peers' with as many updates, on the games, seeds apart, that all have.

    CPU minutes; wall minutes where a record lacks them. A record with `unequal_load` says why its time is not compared.
    """
    results = [result for result in results if not result.raw.get("unequal_load")]
    ours = [name for name in methods(results) if name.startswith(OURS)][:1]
    work = {name: {result.raw.get("updates") for task in tasks(results) for result in of(results, task, name)}
            for name in methods(results)}
    names = [name for name in work if not name.startswith(OURS) and [work[name]] == [work[one] for one in ours]]
    shared = [task for task in tasks(results) if all(of(results, task, name) for name in (*ours, *names))]
    found = {name: [result for task in shared for result in of(results, task, name)] for name in (*ours, *names)}
    if not names or not shared or len(work[ours[0]]) != 1:
        return []
    for clock, words in (("cpu", "CPU"), ("wall", "wall")):
        minutes = {name: [result.minutes(clock) for result in runs] for name, runs in found.items()}
        if all(value is not None for values in minutes.values() for value in values):
            return [(f"One run, {words} time", [
                ("hdfast" if name in ours else name.partition(" [")[0], value, f"{value:.0f} min")
                for value, name in sorted((float(np.mean(values)), name) for name, values in minutes.items())])]
    return []


def _bars(axes: Any, heading: str, bars: Sequence[tuple[str, float, str]], *, room: float) -> None:
    """Horizontal bars, the shortest on top, each with its name on the left and its value in words.

    `room` is the names' width, as a part of the longest bar's.
    """
    longest = max(bar[1] for bar in bars)
    for place, (name, value, words) in enumerate(bars):
        ours = name.startswith("hdfast")
        weight = "bold" if ours else "normal"
        axes.barh(place, value, height=0.66, color=METHODS["HarmonyDream"] if ours else GRAY, linewidth=0)
        axes.annotate(words, (value, place), (4, 0), textcoords="offset points", va="center", fontsize=10,
                      fontweight=weight)
        axes.annotate(name, (0, place), (-5, 0), textcoords="offset points", va="center", ha="right", fontsize=10,
                      fontweight=weight)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(-room * longest, 1.34 * longest)  # names are inside, so the title begins where they do
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.set_title(heading, fontsize=11)


def _plain(name: str) -> str:
    """A method's name for a legend: hdfast HarmonyDream [cpu] is hdfast, HarmonyDream."""
    base = name.partition(" [")[0].removeprefix(OURS)
    return f"hdfast, {'harmony off' if base == 'DreamerV3' else base}" if name.startswith(OURS) else base


def _legend(figure: Any, results: Sequence[Result], games: Sequence[str], colors: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    drawn = [name for name in colors if any(of(results, task, name, finished=False) for task in games)]
    forms = _plain, lambda name: re.sub(r",.*\]", "]", name), str  # the shortest that no other name has
    handles = [Line2D([], [], color=colors[name],
                      label=next(form(name) for form in forms if [*map(form, drawn)].count(form(name)) == 1))
               for name in drawn]
    if any(result.run.episodes and result.run.finished for result in results):
        handles.append(Line2D([], [], color=INK, linestyle="", marker="D", markersize=6,
                              label="final evaluation, 95% interval; dots: seeds"))
    measured = any(result.run.random for result in results)
    handles.append(Line2D([], [], color=INK, linestyle=":", linewidth=1.6,
                          label="random play, measured" if measured else "random play, published"))
    if any(scores.reference(task) for task in games):
        handles.append(Line2D([], [], color=MUTED, linestyle="--", linewidth=1.4, label="human play"))
    if any(len(official(results, task, OFFICIAL, 20_000)) for task in games):
        handles.append(Line2D([], [], color=GRAY, linewidth=7, alpha=0.75, solid_capstyle="butt",
                              label=f"official {OFFICIAL}, 18M parameters: range of 5 seeds"))
    figure.legend(handles=handles, loc="outside lower left", ncols=2, fontsize=10, handlelength=1.8, columnspacing=1.6)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make everything and print the names of the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    given = parser.parse_args(arguments)
    for path in make(given.results, given.out):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
