"""Figures of the report: matplotlib is imported here, inside `render`.

A Plot is a set of panels. As a file it is one picture (PNG, SVG); on the page every panel stands alone, so that a
narrow screen stacks them, and its colors are CSS variables, so that it follows the page's dark mode.
"""

import io
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import numpy as np

from hdfast import scores
from hdfast.report import statistics
from hdfast.report.run import TERMS, Curve
from hdfast.report.statistics import Estimate
from hdfast.report.style import CSS, GRID, INK, LOSSES, MUTED
from hdfast.report.summary import (
    METRICS,
    PUBLISHED,
    Block,
    Group,
    Summary,
    ended,
    mean_curve,
    normalized_curves,
    random_play,
    title,
)
from hdfast.run.progress import short

RC = {"font.family": "sans-serif", "font.size": 8.5, "axes.titlesize": 9.5, "axes.titleweight": "bold",
      "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
      "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.7, "axes.edgecolor": MUTED,
      "axes.labelcolor": INK, "text.color": INK, "axes.titlecolor": INK, "xtick.color": MUTED, "ytick.color": MUTED,
      "xtick.labelcolor": INK, "ytick.labelcolor": INK, "legend.frameon": False, "lines.linewidth": 1.8,
      "lines.solid_capstyle": "round", "svg.hashsalt": "hdfast", "axes.linewidth": 0.8, "figure.dpi": 200}
DASHED = {"color": MUTED, "linewidth": 1, "linestyle": "--"}
DOTTED = DASHED | {"linestyle": ":"}
HARMONY = {"harmony": "Coefficients", "shares": "Weighted shares"}
"""{field of a Run: what the harmony figure calls it}."""
NORMALIZED_TICKS = (0, 0.25, 0.5, 1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class Plot:
    """One picture: `panels` are (label for screen readers, function that draws on axes)."""

    name: str
    heading: str
    caption: str
    panels: list[tuple[str, Callable[[Any], None]]]
    legend: Sequence[Group]
    size: tuple[float, float] = (3.4, 2.4)  # inches of a panel
    columns: int = 4
    margins: tuple[float, float, float, float] | None = None  # left, bottom, right, top of one panel


def plots(summary: Summary) -> list[Plot]:
    """Every picture that the summary has data for."""
    found = []
    for number, block in enumerate(summary.blocks):
        found += _block_plots(block, summary.samples, f"-{number + 1}" if number else "")
    with_curves = [g for g in summary.groups if any(task in g.curves for task in summary.tasks)]
    own = [g for g in with_curves if g.kind != PUBLISHED] or with_curves
    tasks = [task for task in summary.tasks if any(task in g.curves for g in own)]
    if tasks:
        found.append(Plot(
            "curves", "Scores over frames",
            "Mean over the finished seeds, where there are any, with one standard deviation as band; single seeds as "
            "thin lines, without a band where there is one; published curves are means, with the range of their seeds "
            "where a score file has them. "
            "Dotted: random play as published, dash-dotted as measured beside the runs; dashed: human.",
            [(f"Scores of {title(t)} over frames", partial(_game, summary, t)) for t in tasks],
            with_curves, columns=min(4, len(tasks)), margins=(0.13, 0.17, 0.95, 0.9)))
    rated = [task for task in summary.tasks if any(len(run.success[0]) for g in summary.groups for run in g.runs
                                                   if run.task == task)]
    if rated:
        found.append(Plot(
            "success", "Success over frames",
            "Share of successful episodes of each evaluation: mean over runs with 95% bootstrap interval; one run has "
            "none.", [(f"Success in {title(t)} over frames", partial(_success, summary, t)) for t in rated],
            own, columns=min(4, len(rated))))
    panels = [(f"{what} of {g.name} over frames", partial(_harmony, g, name, what)) for g in summary.groups
              for name, what in HARMONY.items() if any(getattr(run, name) for run in ended(g.runs))]
    if panels:
        found.append(Plot(
            "harmony", "Harmony",
            "Coefficients: learned weight of each loss, 1 at the start; geometric mean over runs. Weighted shares: "
            "coefficient times loss, over the sum of the three; mean over runs. Bands: lowest and highest of several "
            "runs.", panels, (), size=(4.4, 3.1), columns=2))
    return found


def _block_plots(block: Block, samples: int, suffix: str) -> list[Plot]:
    groups, count = [row.group for row in block.rows], len(block.tasks)
    over = f"{count} games" if count > 1 else title(block.tasks[0])
    tall = 0.8 + sum(0.2 + 0.13 * len(_named(g, block).splitlines()) for g in groups)
    found = [Plot(f"aggregates{suffix}", f"Aggregates over {over}",
                  "Human-normalized, point estimate and 95% stratified bootstrap interval; one run has none. Of the "
                  "gap, less is better.",
                  [(f"{label} over {over}", partial(_aggregate, block, name))
                   for name, label in METRICS.items()], (), size=(3.4, tall))]
    if block.improvements:
        ours = {v.ours for v in block.improvements}
        found.append(Plot(f"improvement{suffix}", "Probability of improvement",
                          "Chance that a run of the method above beats one of the method on the left, on a game drawn "
                          "at random.",
                          [(f"Probability that {g.name} beats others", partial(_improvement, block, g))
                           for g in groups if g.name in ours], (), size=(3.4, tall + 0.2)))
    if suffix:  # the smaller sets of games come with numbers alone
        return found
    found.append(Plot("profile", "Performance profile",
                      "Share of runs above a human-normalized score, averaged over games, with 95% band; one run has "
                      "none.",
                      [(f"Performance profile over {over}", partial(_profile, block, samples))],
                      groups, size=(4.4, 3.0), columns=1))
    found.append(Plot("games", "Game by game", "Mean over seeds, human-normalized. 1 is human.",
                      [("Human-normalized score of every game", partial(_games, block))], groups,
                      size=(4.4, 1.0 + 0.19 * count), columns=1))
    if count > 1 and all(task in g.curves for g in groups for task in block.tasks):
        found.append(Plot("normalized", "Human-normalized score over frames",
                          f"Mean and median over {over} of each game's mean curve.",
                          [(f"{METRICS[name]} over frames", partial(_normalized, block, name))
                           for name in ("median", "mean")], groups, size=(4.4, 2.6), columns=2))
    return found


# From plots to bytes

def render(plot: Plot) -> tuple[dict[str, bytes], list[str]]:
    """({ending: file} of the whole picture, one inline SVG a panel). Raises ImportError where matplotlib is missing."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except Exception as error:  # a broken installation raises its own kinds
        raise ImportError(f"matplotlib cannot be imported ({error})") from error
    with rc_context(RC):
        figure = _whole(plot, Figure)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, for both files
        files = {ending: _saved(figure, ending) for ending in ("png", "svg")}
    with rc_context(RC | {"svg.fonttype": "none"}):
        panels = []
        for label, draw in plot.panels:
            figure = Figure(figsize=plot.size, layout=None if plot.margins else "constrained")
            if plot.margins:
                figure.subplots_adjust(*plot.margins)
            draw(figure.add_subplot())
            panels.append(_inline(_saved(figure, "svg", transparent=True).decode(), label))
    return files, panels


def _saved(figure: Any, ending: str, **options: bool) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format=ending, metadata={"Date": None, "Creator": None}, **options)
    return out.getvalue()


def _whole(plot: Plot, new_figure: Callable[..., Any]) -> Any:
    """All panels in one figure, with the legend below."""
    from matplotlib.lines import Line2D

    columns = min(plot.columns, len(plot.panels))
    rows = -(-len(plot.panels) // columns)
    width, height = columns * plot.size[0], rows * plot.size[1] + 0.35 * bool(plot.legend)
    figure = new_figure(figsize=(width, height), layout="constrained")
    for i, (_, draw) in enumerate(plot.panels):
        draw(figure.add_subplot(rows, columns, i + 1))
    if plot.legend:
        handles = [Line2D([], [], color=group.color, linewidth=2.2, label=group.name) for group in plot.legend]
        entry = max(1.7, 0.5 + 0.066 * max(len(group.name) for group in plot.legend))  # inches: its line, its letters
        figure.legend(handles=handles, loc="outside lower center", ncols=max(1, min(len(handles), int(width / entry))))
    return figure


def _inline(svg: str, label: str) -> str:
    """An SVG file as element of a page: no header, no fixed size, no ids but those referred to, CSS colors."""
    svg = svg[svg.index("<svg"):]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[^"]*_\d+"', "", svg)
    svg = re.sub(r"font: (\d+ )?([\d.]+px)[^;\"]*", lambda m: f"font: {m[1] or ''}{m[2]} var(--sans)", svg)
    for color, name in CSS.items():
        svg = re.sub(color, f"var({name})", svg, flags=re.IGNORECASE)
    box = re.search(r'viewBox="[^"]*"', svg)[0]
    return re.sub(r"<svg[^>]*>", lambda _: f'<svg {box} role="img" aria-label="{escape(label)}" '
                  'xmlns:xlink="http://www.w3.org/1999/xlink">', svg, count=1, flags=re.DOTALL)


# Panels

def _aggregate(block: Block, name: str, axes: Any) -> None:
    found = [row.aggregates[name] for row in block.rows]
    _intervals(axes, [(_named(row.group, block), row.group.color) for row in block.rows], found)
    ends = [end for x in found for end in ((x.value,) if x.low is None else x[1:])]
    low, high = min(ends), max(ends)
    room = (high - low or abs(high) or 1.0) * 0.08
    axes.set_xlim(low - room, high + room)
    axes.locator_params(axis="x", nbins=5)
    axes.set_title(METRICS[name])


def _intervals(axes: Any, names: Sequence[tuple[str, str]], found: Sequence[Estimate]) -> None:
    """A line for each (name, color): a bar from low to high where they are known, with a stroke at the value."""
    for place, ((_, color), (value, low, high)) in enumerate(zip(names, found, strict=True)):
        if low is not None:
            axes.barh(place, high - low, left=low, height=0.5, color=color, alpha=0.35, linewidth=0)
        axes.plot([value] * 2, [place - 0.25, place + 0.25], color=color, linewidth=2.2, solid_capstyle="butt")
    axes.set_yticks(range(len(names)), [name for name, _ in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    _names_alone(axes)
    axes.spines["left"].set_visible(False)


def _names_alone(axes: Any) -> None:
    """A y axis of names: no grid, no ticks."""
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def _wrapped(name: str) -> list[str]:
    return textwrap.wrap(name, 24)


def _named(group: Group, block: Block) -> str:
    """The name of a method on an axis, with the reason where it has no interval."""
    lone = group.lone(block.tasks)
    return "\n".join(_wrapped(group.name + (f" ({lone})" if lone else "")))


def _improvement(block: Block, group: Group, axes: Any) -> None:
    against = [v for v in block.improvements if v.ours == group.name]
    others = {row.group.name: _named(row.group, block) for row in block.rows}
    axes.axvline(0.5, **DASHED)
    _intervals(axes, [(others[v.other], group.color) for v in against], [v.chance for v in against])
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.set_title(f"{_named(group, block)} >")


def _profile(block: Block, samples: int, axes: Any) -> None:
    values = [(row.group, row.group.normalized(block.tasks)) for row in block.rows]
    top = max(1.5, *(float(runs.max()) for _, games in values for runs in games.values()))
    thresholds = np.concatenate([np.linspace(0, 1, 61)[:-1], np.geomspace(1, top * 1.05, 60)])
    for group, games in values:
        share, low, high = statistics.profile(games, thresholds, samples=min(samples, 2000))
        if low is not None:
            axes.fill_between(thresholds, low, high, color=group.color, alpha=0.15, linewidth=0)
        axes.plot(thresholds, share, color=group.color)
    axes.axvline(1, **DASHED)
    _normalized_scale(axes, 0, top * 1.05)
    axes.set(ylim=(0, 1.02), xlabel="human-normalized score τ", ylabel="share of runs above τ")


def _normalized_scale(axes: Any, low: float, high: float) -> None:
    """x axis of human-normalized scores: linear up to human, logarithmic beyond."""
    axes.set_xscale("symlog", linthresh=1, linscale=1.2)
    axes.set_xlim(low, high)
    shown = [tick for tick in NORMALIZED_TICKS if low <= tick <= high]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.minorticks_off()


def _normalized(block: Block, name: str, axes: Any) -> None:
    last = max([run.total for row in block.rows for run in row.group.runs], default=scores.curve_frames()[-1])
    for row in reversed(block.rows):
        xs, values = normalized_curves(row.group, block.tasks)
        if len(xs):
            axes.plot(xs[xs <= last], values[name][xs <= last], color=row.group.color)
    _frames_axis(axes, last)
    axes.axhline(0, **DOTTED)
    if axes.get_ylim()[1] > 0.8:
        axes.axhline(1, **DASHED)
    axes.set_title(f"{METRICS[name]} of {len(block.tasks)} games")


def _games(block: Block, axes: Any) -> None:
    means = [{task: float(runs.mean()) for task, runs in row.group.normalized(block.tasks).items()}
             for row in block.rows]
    order = sorted(block.tasks, key=lambda task: max(games[task] for games in means))
    every = np.array([[games[task] for task in order] for games in means])  # (methods, games)
    for place, found in enumerate(every.T):
        axes.plot([found.min(), found.max()], [place, place], color=GRID, linewidth=2.2, zorder=1)
    for row, found in reversed(list(zip(block.rows, every, strict=True))):
        axes.scatter(found, range(len(order)), s=22, color=row.group.color, zorder=2, linewidth=0)
    axes.axvline(1, **DASHED, zorder=0)
    axes.set_yticks(range(len(order)), list(map(title, order)))
    axes.set_ylim(-0.7, len(order) - 0.3)
    _normalized_scale(axes, min(-0.05, every.min() - 0.1), max(1.2, every.max() * 1.15))
    _names_alone(axes)
    axes.set_xlabel("human-normalized score")


def _game(summary: Summary, task: str, axes: Any) -> None:
    groups = [g for g in summary.groups if task in g.curves]
    last = max([run.total for g in groups for run in g.runs if run.task == task], default=scores.curve_frames()[-1])
    seen: list[np.ndarray] = []
    for group in reversed(groups):  # the user's own come last, on top
        curves = [(xs[xs <= last], ys[xs <= last]) for xs, ys in group.curves[task]]
        curves = [curve for curve in curves if len(curve[0])]
        if not curves:
            continue
        color = group.color
        single = [run.curve for run in group.runs if run.task == task]
        for one in single if len(single) > 1 else ():
            axes.plot(*one, color=color, linewidth=0.6, alpha=0.45)
        xs, mean, std = mean_curve(curves)
        axes.plot(xs, mean, color=color, marker="o" if len(xs) == 1 else None, markersize=4)
        seeds = group.seeds.get(task)
        xs, low, high = extent(seeds, last) if seeds else (xs, mean - std, mean + std)
        if seeds or len(curves) > 1:
            axes.fill_between(xs, low, high, color=color, alpha=0.16, linewidth=0)
        seen += [low, high, *(ys for _, ys in curves)]
    measured = random_play([run for g in groups for run in g.runs], task)
    if len(measured):
        seen.append(np.array([measured.mean()]))
        axes.axhline(measured.mean(), **DASHED | {"linestyle": "-."})
    _levels(axes, task, np.concatenate(seen) if seen else np.zeros(1))
    _frames_axis(axes, last)
    axes.set_title(title(task))


def _success(summary: Summary, task: str, axes: Any) -> None:
    last = 1.0
    for group in reversed(summary.groups):
        curves = [run.success for run in ended([run for run in group.runs if run.task == task]) if len(run.success[0])]
        if not curves:
            continue
        xs = mean_curve(curves)[0]
        rate = statistics.mean_over_runs(np.array([np.interp(xs, *curve) for curve in curves]), samples=summary.samples)
        axes.plot(xs, rate.value, color=group.color, marker="o" if len(xs) == 1 else None, markersize=4)
        if rate.low is not None:
            axes.fill_between(xs, rate.low, rate.high, color=group.color, alpha=0.16, linewidth=0)
        last = max(last, *(float(xs[-1]) for xs, _ in curves))
    _frames_axis(axes, last)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    axes.set_title(title(task))


def extent(curves: Sequence[Curve], last: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames up to `last`, and the lowest and highest of some curves there, (n,) each; where all of them are."""
    xs = mean_curve(curves)[0]
    values = np.array([np.interp(xs, *curve) for curve in curves]).reshape(len(curves), len(xs))
    return xs[xs <= last], values.min(0)[xs <= last], values.max(0)[xs <= last]


def _levels(axes: Any, task: str, values: np.ndarray) -> None:
    """Lines of random and human play, and the limits: human play far above is said in words."""
    low, high = float(values.min()), float(values.max())
    row = scores.reference(task)
    if row:
        low, high, gap = min(low, row["random"]), max(high, row["random"]), abs(row["human"] - row["random"])
        if high - low < 0.01 * gap:  # noise around random play is not blown up
            high = low + 0.1 * gap
        axes.axhline(row["random"], **DOTTED)
        if row["human"] < low + 2 * (high - low):
            axes.axhline(row["human"], **DASHED)
            high = max(high, row["human"])
        else:
            axes.set_title(f"human {row['human']:,.0f} ↑", loc="right", color=MUTED, fontsize=7.5, fontweight="normal")
    room = (high - low or max(1.0, abs(high))) * 0.06
    axes.set_ylim(low - room, high + room * 1.5)


def _frames_axis(axes: Any, last: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0, last * 1.01)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 4, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda x, _: short(x))
    axes.set_xlabel("frames")


def _harmony(group: Group, name: str, what: str, axes: Any) -> None:
    """The curves of one method's losses in a field of Run: coefficients on a logarithmic scale, or shares."""
    from matplotlib.ticker import LogLocator, PercentFormatter

    log, last = name == "harmony", 1.0
    into, back = (np.log, np.exp) if log else (np.asarray, np.asarray)
    for (term, words), color in zip(TERMS.items(), LOSSES, strict=True):
        curves = [(xs[ys > 0], into(ys[ys > 0])) if log else (xs, ys) for run in ended(group.runs)
                  for xs, ys in [getattr(run, name).get(term, (np.empty(0), np.empty(0)))]]
        curves = [curve for curve in curves if len(curve[0])]
        if not curves:
            continue
        xs, mean, _ = mean_curve(curves)
        if len(curves) > 1:
            _, low, high = extent(curves, np.inf)
            axes.fill_between(xs, back(low), back(high), color=color, alpha=0.16, linewidth=0)
        axes.plot(xs, back(mean), color=color, label=words)
        last = max(last, *(float(curve[0][-1]) for curve in curves))
    _frames_axis(axes, last)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.minorticks_off()
        axes.axhline(1, **DASHED)
    else:
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylabel("coefficient" if log else "share of the weighted sum")
    axes.set_title("\n".join(textwrap.wrap(f"{what}, {group.name}", 44)))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, title="loss")
