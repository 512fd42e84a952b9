"""The report as CSV, Markdown, LaTeX and terminal text."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hdfast import scores
from hdfast.errors import cell
from hdfast.report.statistics import Estimate
from hdfast.report.summary import METRICS, Block, Group, Summary, random_play, spread, title
from hdfast.run.progress import points, text_table

Cells = list[list[str]]
Table = tuple[list[str], Cells]  # head and rows


def runs_csv(summary: Summary) -> str:
    """One line a run of the user's own and of the score files."""
    return _csv(["method", "task", "seed", "final", "human_normalized", "success", "final_is", "frames", "total_frames",
                 "finished", "path"],
                [[run.method, run.task, run.seed, run.final, _normalized(run.task, run.final),
                  run.success[1][-1] if len(run.success[1]) else None, run.how, run.frames,
                  run.total, run.finished, run.path] for group in summary.groups for run in group.runs])


def games_csv(summary: Summary) -> str:
    """One line a game and method: mean, std, human-normalized mean, number of runs; random and human as methods.

    The std of random play that was measured is over its episodes.
    """
    rows: list[list[Any]] = []
    for task in summary.tasks:
        row = scores.reference(task)
        if row:
            rows += [[task, name, row[name], "", level, ""] for name, level in (("random", "0.0"), ("human", "1.0"))]
        measured = random_play([run for group in summary.groups for run in group.runs], task)
        found = [("random, measured", measured, "")] if len(measured) else []
        found += [(g.name, g.finals[task], len(g.finals[task])) for g in summary.groups if task in g.finals]
        rows += [[task, name, values.mean(), spread(values), _normalized(task, values.mean()), count]
                 for name, values, count in found]
    return _csv(["task", "method", "mean", "std", "human_normalized", "runs"], rows)


def aggregates_csv(summary: Summary) -> str:
    """One line a block of games, method and aggregate, with its interval; probabilities of improvement at the end."""
    rows = []
    for block in summary.blocks:
        rows += [[len(block.tasks), row.group.name, name, *row.aggregates[name]]
                 for row in block.rows for name in METRICS]
        rows += [[len(block.tasks), v.ours, f"probability_of_improvement over {v.other}", *v.chance]
                 for v in block.improvements]
    return _csv(["games", "method", "statistic", "value", "low_95", "high_95"], rows)


def markdown(summary: Summary) -> str:
    """The tables of the page as Markdown."""
    parts = ["# Scores\n"]
    for block in summary.blocks:
        parts += [f"## {block_title(block)}\n", _markdown(*aggregate_cells(block))]
        if block.improvements:
            parts += ["### Probability of improvement\n", _markdown(*improvement_cells(block))]
    parts += ["## Final scores\n", _markdown(*game_cells(summary))]
    for name, lines in (("To read with this", summary.notes), ("What is missing", summary.missing)):
        if lines:
            parts.append(f"## {name}\n\n" + "".join(f"- {line}\n" for line in lines))
    return "\n".join(parts)


def latex(summary: Summary) -> str:
    """Tables for a paper, best mean of a game in bold; needs the package booktabs."""
    parts = ["% Needs \\usepackage{booktabs}.\n"]
    for number, block in enumerate(summary.blocks):
        head, rows = aggregate_cells(block)
        parts.append(_latex(head, [list(map(_escaped, row)) for row in rows], [],
                            f"{block_title(block)}, with 95\\% stratified bootstrap intervals.",
                            f"aggregates{number or ''}"))
    head, rows = game_cells(summary, escape=_escaped, bold="\\textbf{{{}}}".format)
    parts.append(_latex(_without_normalized(head), list(map(_without_normalized, rows)), _latex_foot(summary),
                        "Final scores, mean and standard deviation over seeds.", "games"))
    return "\n".join(parts)


def _without_normalized(row: list[str]) -> list[str]:
    """A row of `game_cells`: game, random, human and the scores of the methods."""
    return row[:3] + row[3::2]


def _latex_foot(summary: Summary) -> Cells:
    """The aggregates of the largest block, as last lines of the table of games."""
    if not summary.blocks:
        return []
    rows = {row.group.name: row.aggregates for row in summary.blocks[0].rows}
    level = {"mean": 1, "median": 1, "iqm": 1, "optimality_gap": 0}
    return [[f"{label} ({len(summary.blocks[0].tasks)} games)", f"{1 - level[name]:.3f}", f"{level[name]:.3f}",
             *(f"{rows[g.name][name].value:.3f}" if g.name in rows else "" for g in summary.groups)]
            for name, label in METRICS.items()]


def terminal(summary: Summary) -> str:
    """Aggregates for a terminal."""
    parts = []
    for block in summary.blocks:
        head, rows = aggregate_cells(block)
        lines = text_table([head, *rows], right=range(1, 6)).splitlines()
        parts.append("\n  ".join([block_title(block), *lines]))
    return "\n\n".join(parts)


def block_title(block: Block) -> str:
    """What a block is over."""
    if len(block.tasks) > 3:
        return f"Human-normalized scores over {len(block.tasks)} games"
    return f"Human-normalized scores on {', '.join(map(title, block.tasks))}"


def aggregate_cells(block: Block) -> Table:
    """Head and rows: method, runs a game, the four aggregates with their intervals."""
    rows = []
    for row in block.rows:
        counts = [len(row.group.finals[task]) for task in block.tasks]
        low, high = min(counts), max(counts)
        found = [row.aggregates[name] for name in METRICS]
        rows.append([row.group.name, f"{low}" if low == high else f"{low}-{high}",
                     *(_estimated(x, 4, row.group.lone(block.tasks)) for x in found)])
    return ["Method", "Runs", *METRICS.values()], rows


def improvement_cells(block: Block) -> Table:
    """Head and rows: two methods, and the probability that the first beats the second."""
    lone = {row.group.name: row.group.lone(block.tasks) for row in block.rows}
    return ["Method", "Over", "Probability"], [
        [v.ours, v.other, _estimated(v.chance, 3, lone[v.ours] or lone[v.other])] for v in block.improvements]


def _estimated(found: Estimate, digits: int, lone: str) -> str:
    """A value with its interval, or with the reason that it has none."""
    return f"{found.value:.{digits}f} " + (f"({lone})" if lone else f"[{found.low:.3f}, {found.high:.3f}]")


def game_cells(summary: Summary, *, escape: Callable[[str], str] = str,
               bold: Callable[[str], str] = str) -> Table:
    """Head and rows: game, random, human, then score and human-normalized score of every method.

    Every cell but the head is escaped, then the best score of a game made bold.
    """
    head = ["Game", "Random", "Human"]
    for group in summary.groups:
        head += [group.name, "norm."]
    rows = []
    for task in summary.tasks:
        row, winner = scores.reference(task) or {}, best(summary, task)
        cells = [escape(title(task)), *(points(row[key]) if row else "" for key in ("random", "human"))]
        for group in summary.groups:
            text = escape(score_text(group, task))
            cells += [bold(text) if group.name == winner else text, normalized_text(group, task)]
        rows.append(cells)
    return head, rows


def score_text(group: Group, task: str) -> str:
    """Mean ± standard deviation of a method on a task, with the number of runs where other games have more.

    Where no run has ended, how far they are.
    """
    if task not in group.finals:
        going = [run.progress for run in group.runs if run.task == task]
        return f"at {np.mean(going):.0%}" if going else ""
    found = group.finals[task]
    digits = 0 if abs(found.mean()) >= 1000 else 1
    std = spread(found)
    text = f"{found.mean():,.{digits}f}" + ("" if std is None else f" ± {std:,.{digits}f}")
    return text + (f" ({len(found)})" if len(found) < max(map(len, group.finals.values())) else "")


def normalized_text(group: Group, task: str) -> str:
    """Human-normalized mean of a method on a task."""
    value = _normalized(task, group.finals[task].mean()) if task in group.finals else None
    return "" if value is None else f"{value:.2f}"


def best(summary: Summary, task: str) -> str | None:
    """Name of the one method with the highest mean on a task, where there is something to compare."""
    means = {g.name: g.finals[task].mean() for g in summary.groups if task in g.finals}
    top = [name for name in means if means[name] == max(means.values())]
    return top[0] if len(top) == 1 < len(means) else None


def _normalized(task: str, score: float | None) -> float | None:
    return None if score is None else scores.human_normalized(task, float(score))


def _csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([head, *(map(_csv_cell, row) for row in rows)])
    return out.getvalue()


def _csv_cell(value: Any) -> Any:
    """Ten digits of a float, no formula in a text."""
    return f"{value:.10g}" if isinstance(value, float) else cell(value) if isinstance(value, str) else value


def _markdown(head: list[str], rows: Cells) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"

    return line(head) + "|" + " --- |" + " ---: |" * (len(head) - 1) + "\n" + "".join(map(line, rows))


def _latex(head: list[str], rows: Cells, foot: Cells, caption: str, label: str) -> str:
    """One table; the cells of `rows` are LaTeX already."""
    def lines(cells: Cells) -> str:
        return "".join(" & ".join(row) + " \\\\\n" for row in cells)

    columns = "l" + "r" * (len(head) - 1)
    body = "\\midrule\n".join(lines(part) for part in ([list(map(_escaped, head))], rows, foot) if part)
    return (f"\\begin{{table}}\n\\centering\n\\small\n\\caption{{{caption}}}\n\\label{{tab:{label}}}\n"
            f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n")


_LATEX = str.maketrans({"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
                        **{c: f"\\{c}" for c in "&%$#_{}"}})


def _escaped(text: str) -> str:
    return text.translate(_LATEX)
