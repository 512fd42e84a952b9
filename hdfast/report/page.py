"""The report as one HTML page: styles, script and figures inside, nothing fetched."""

import time
from collections.abc import Iterable, Sequence
from html import escape

from hdfast import scores
from hdfast.report import tables
from hdfast.report.figures import Plot
from hdfast.report.style import CSS, SCRIPT, STYLE
from hdfast.report.summary import METRICS, OWN, PUBLISHED, Block, Group, Summary, title
from hdfast.run.progress import points


def page(summary: Summary, pictures: Sequence[tuple[Plot, list[str]]], *, files: Iterable[str],
         refresh: float = 0) -> str:
    """The HTML text; `pictures` are plots with their inline SVGs, `files` the names that lie beside the page."""
    by_name = {plot.name: (plot, panels) for plot, panels in pictures}
    name = "Atari 100K report" if set(summary.tasks) & set(scores.tasks()) else "hdfast report"
    parts = [f"<h1>{name}</h1>", f'<p class="muted">{_subtitle(summary)}</p>', _tiles(summary), _missing(summary)]
    if summary.notes:
        parts.append('<ul class="notes">' + "".join(f"<li>{escape(note)}</li>" for note in summary.notes) + "</ul>")
    for number, block in enumerate(summary.blocks):
        parts += _block(block, by_name, f"-{number + 1}" if number else "")
    games = _table(*tables.game_cells(summary, escape=escape, bold="<b>{}</b>".format))
    parts.append(f'<h2>Final scores</h2><div class="card"><div class="scroll">{games}</div></div>')
    for picture in ("curves", "success", "harmony"):
        if picture in by_name:
            parts.append(f"<h2>{by_name[picture][0].heading}</h2>{_figure(*by_name[picture], heading=False)}")
    if any(group.runs for group in summary.groups):
        parts.append(_runs(summary))
    parts.append(_method(summary, files))
    again = f'<meta http-equiv="refresh" content="{refresh:g}">' if refresh else ""
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{again}'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{name}</title>'
            f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body><main>{"".join(parts)}</main>'
            f"<script>{SCRIPT}</script></body></html>\n")


def _subtitle(summary: Summary) -> str:
    own = [group for group in summary.groups if group.kind == OWN]
    runs = [run for group in own for run in group.runs]
    done = sum(run.finished for run in runs)
    counted = f"{len(runs)} runs, {done} of them finished" if done < len(runs) else f"{len(runs)} finished runs"
    what = f"{counted}, of {escape(', '.join(g.name for g in own))}" if own else "Published scores"
    return f"{what}. {time.strftime('%Y-%m-%d %H:%M')}"


def _tiles(summary: Summary) -> str:
    """The four aggregates of the first method over its games, with the published ones below."""
    if not summary.blocks:
        return ""
    first, *others = summary.blocks[0].rows
    tiles = []
    for name, label in METRICS.items():
        below = "".join(f"<small>{escape(row.group.name)} {row.aggregates[name].value:.3f}</small>" for row in others)
        tiles.append(f'<div class="tile"><small>{label}, {escape(first.group.name)}</small>'
                     f"<b>{first.aggregates[name].value:.3f}</b>{below}</div>")
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _missing(summary: Summary) -> str:
    if not summary.missing:
        return ""
    lines = [f"<li>{escape(line)}</li>" for line in summary.missing]
    more = (f"<details><summary>{len(lines) - 8} more</summary><ul>{''.join(lines[8:])}</ul></details>"
            if len(lines) > 8 else "")
    return f'<div class="card missing"><h2>What is missing</h2><ul>{"".join(lines[:8])}</ul>{more}</div>'


def _block(block: Block, pictures: dict[str, tuple[Plot, list[str]]], suffix: str) -> list[str]:
    def shown(name: str, **options: bool) -> str:
        return _figure(*pictures[name + suffix], **options) if name + suffix in pictures else ""

    low, high = shown("improvement"), ""
    if len(block.tasks) < 10:  # a short list of games leaves room below it
        low, high = high, low
    few = 3 < len(block.tasks) < len(scores.tasks())
    games = f'<p class="muted">{escape(", ".join(map(title, block.tasks)))}.</p>' if few else ""
    return [f"<h2>{escape(tables.block_title(block))}</h2>{games}",
            f'<div class="card"><div class="scroll">{_aggregates(block)}</div></div>',
            shown("aggregates", heading=False),
            f'<div class="pair"><div>{shown("profile")}{low}</div><div>{shown("games")}{high}</div></div>',
            shown("normalized")]


def _figure(plot: Plot, panels: list[str], *, heading: bool = True) -> str:
    legend = "".join(f"<span>{_marked(group)}</span>" for group in plot.legend)
    width = (1240 - 2 * 40) // plot.columns - 20
    head = f"<h3>{escape(plot.heading)}</h3>" if heading else ""
    return (f"<figure>{head}<figcaption>{escape(plot.caption)}</figcaption>"
            + (f'<div class="legend">{legend}</div>' if legend else "")
            + f'<div class="panels" style="--panel:{width}px;--most:{plot.size[0] * 72 * 1.55:.0f}px">'
            + f'{"".join(panels)}</div></figure>')


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, sortable: bool = True) -> str:
    """A table with a head of texts, and of cells that are HTML already."""
    button = '<button type="button">{}</button>' if sortable else "{}"
    heads = "".join(f'<th scope="col">{button.format(escape(name))}</th>' for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    kind = ' class="sortable"' if sortable else ""
    return f"<table{kind}><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _aggregates(block: Block) -> str:
    head, rows = tables.aggregate_cells(block)
    marked = [[_marked(row.group), *cells[1:]] for row, cells in zip(block.rows, rows, strict=True)]
    return _table(head, marked, sortable=len(rows) > 2)


def _marked(group: Group) -> str:
    """The name of a method, behind its color."""
    return f'<i style="background:var({CSS[group.color]})"></i>{escape(group.name)}'


def _runs(summary: Summary) -> str:
    rows = [[*map(escape, (run.method, title(run.task), run.seed, "" if run.final is None else points(run.final),
                           run.how, f"{run.frames:,}", "finished" if run.finished else f"{run.progress:.0%}")),
             f"<code>{escape(run.path)}</code>"] for group in summary.groups for run in group.runs]
    head = ["Method", "Task", "Seed", "Score", "The score is", "Frames", "Progress", "Path"]
    return (f'<h2>Runs</h2><div class="card"><details><summary>{len(rows)} runs, with their scores and paths</summary>'
            f'<div class="scroll">{_table(head, rows)}</div></details></div>')


def _method(summary: Summary, files: Iterable[str]) -> str:
    links = ", ".join(f'<a href="{escape(name)}">{escape(name)}</a>' for name in files)
    published = any(group.kind == PUBLISHED for group in summary.groups)
    return ("<h2>How this is computed</h2><div class='card'>"
            "<p>Human-normalized: (score \u2212 random) / (human \u2212 random). Mean and median are over games, of "
            "the mean over runs; IQM is the mean of the middle half of all runs; the optimality gap is the mean "
            "shortfall below human. Intervals: 95%, percentile bootstrap stratified by game, "
            f"{summary.samples:,} samples (Agarwal et al. 2021); none where a game has one run. Tables show mean ± "
            "sample standard deviation over runs, and in brackets the number of runs where other games have more. The "
            "final score of a run is the mean over the episodes of its last evaluation, unless the list of runs says "
            "otherwise.</p>"
            "<p>Methods named hdfast are own runs; in square brackets stands what else differs from the official Atari "
            "100K protocol.</p>"
            + (f"<p>Published scores: {escape(scores.source())}.</p>" if published else "")
            + (f"<p>Files: {links}.</p>" if links else "") + "</div>")
