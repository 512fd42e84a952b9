"""The report as one HTML page: styles, script and figures inside, nothing fetched."""

import html
import time
from collections.abc import Iterable, Sequence

from hdfast import scores
from hdfast.report import tables
from hdfast.report.figures import CSS, Plot, palette
from hdfast.report.style import SCRIPT, STYLE
from hdfast.report.summary import METRICS, OWN, PUBLISHED, Block, Group, Summary, title
from hdfast.run.progress import points


def page(summary: Summary, pictures: Sequence[tuple[Plot, list[str]]], *, files: Iterable[str],
         refresh: float = 0) -> str:
    """The HTML text; `pictures` are plots with their inline SVGs, `files` the names that lie beside the page."""
    by_name = {plot.name: (plot, panels) for plot, panels in pictures}
    own = [group for group in summary.groups if group.kind == OWN]
    name = "Atari 100K report" if set(summary.tasks) & set(scores.tasks()) else "hdfast report"
    parts = [f"<h1>{name}</h1>", f'<p class="muted">{_subtitle(summary, own)}</p>', _tiles(summary), _missing(summary)]
    if summary.notes:
        parts.append('<ul class="notes">' + "".join(f"<li>{_text(note)}</li>" for note in summary.notes) + "</ul>")
    for number, block in enumerate(summary.blocks):
        parts += _block(block, by_name, palette(summary.groups), f"-{number + 1}" if number else "")
    parts.append(f'<h2>Final scores</h2><div class="card"><div class="scroll">{_games(summary)}</div></div>')
    for picture in ("curves", "harmony"):
        if picture in by_name:
            parts.append(f"<h2>{by_name[picture][0].heading}</h2>{_figure(*by_name[picture], heading=False)}")
    if summary.runs or any(group.runs for group in summary.groups):
        parts.append(_runs(summary))
    parts.append(_method(summary, files))
    again = f'<meta http-equiv="refresh" content="{refresh:g}">' if refresh else ""
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{again}'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{name}</title>'
            f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body><main>{"".join(parts)}</main>'
            f"<script>{SCRIPT}</script></body></html>\n")


def _text(text: str) -> str:
    return html.escape(text)


def _subtitle(summary: Summary, own: list[Group]) -> str:
    runs = summary.runs
    done = sum(run.finished for run in runs)
    counted = f"{len(runs)} runs, {done} of them finished" if done < len(runs) else f"{len(runs)} finished runs"
    what = f"{counted}, of {_text(', '.join(g.name for g in own))}" if own else "Published scores"
    return f"{what}. {time.strftime('%Y-%m-%d %H:%M')}"


def _tiles(summary: Summary) -> str:
    """The four aggregates of the first method over its games, with the published ones below."""
    if not summary.blocks:
        return ""
    first, *others = summary.blocks[0].rows
    tiles = []
    for name, label in METRICS.items():
        below = "".join(f"<small>{_text(row.group.name)} {row.values[name]:.3f}</small>" for row in others)
        tiles.append(f'<div class="tile"><small>{label}, {_text(first.group.name)}</small>'
                     f"<b>{first.values[name]:.3f}</b>{below}</div>")
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _missing(summary: Summary) -> str:
    if not summary.missing:
        return ""
    lines = [f"<li>{_text(line)}</li>" for line in summary.missing]
    more = (f"<details><summary>{len(lines) - 8} more</summary><ul>{''.join(lines[8:])}</ul></details>"
            if len(lines) > 8 else "")
    return f'<div class="card missing"><h2>What is missing</h2><ul>{"".join(lines[:8])}</ul>{more}</div>'


def _block(block: Block, pictures: dict[str, tuple[Plot, list[str]]], colors: dict[str, str],
           suffix: str) -> list[str]:
    def shown(name: str, **options: bool) -> str:
        return _figure(*pictures[name + suffix], **options) if name + suffix in pictures else ""

    low, high = shown("improvement"), ""
    if len(block.tasks) < 10:  # a short list of games leaves room below it
        low, high = high, low
    few = 3 < len(block.tasks) < len(scores.tasks())
    games = f'<p class="muted">{_text(", ".join(map(title, block.tasks)))}.</p>' if few else ""
    return [f"<h2>{_text(tables.block_title(block))}</h2>{games}",
            f'<div class="card"><div class="scroll">{_aggregates(block, colors)}</div></div>',
            shown("aggregates", heading=False),
            f'<div class="pair"><div>{shown("profile")}{low}</div><div>{shown("games")}{high}</div></div>',
            shown("normalized")]


def _figure(plot: Plot, panels: list[str], *, heading: bool = True) -> str:
    legend = "".join(f'<span><i style="background:var({CSS[color]})"></i>{_text(name)}</span>'
                     for name, color in plot.legend)
    width = (1240 - 2 * 40) // plot.columns - 20
    head = f"<h3>{_text(plot.heading)}</h3>" if heading else ""
    return (f"<figure>{head}<figcaption>{_text(plot.caption)}</figcaption>"
            + (f'<div class="legend">{legend}</div>' if legend else "")
            + f'<div class="panels" style="--panel:{width}px;--most:{plot.size[0] * 72 * 1.55:.0f}px">'
            + f'{"".join(panels)}</div></figure>')


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, sortable: bool = True) -> str:
    """A table of cells that are HTML already."""
    button = '<button type="button">{}</button>' if sortable else "{}"
    heads = "".join(f'<th scope="col">{button.format(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    kind = ' class="sortable"' if sortable else ""
    return f"<table{kind}><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _aggregates(block: Block, colors: dict[str, str]) -> str:
    head, rows = tables.aggregate_cells(block)
    marked = [[f'<i style="background:var({CSS[colors[name]]})"></i>{_text(name)}', *cells] for name, *cells in rows]
    return _table(head, marked, sortable=len(rows) > 2)


def _games(summary: Summary) -> str:
    """Scores of every method on every game, best mean in bold."""
    head, rows = tables.game_cells(summary)
    names, shown = [group.name for group in summary.groups], []
    for task, row in zip(summary.tasks, rows, strict=True):
        cells, winner = list(map(_text, row)), tables.best(summary, task)
        if winner:
            place = head.index("norm.") - 1 + 2 * names.index(winner)
            cells[place] = f"<b>{cells[place]}</b>"
        shown.append(cells)
    return _table(map(_text, head), shown)


def _runs(summary: Summary) -> str:
    rows = [[_text(run.method), _text(title(run.task)), _text(run.seed), "" if run.final is None else points(run.final),
             _text(run.how), f"{run.frames:,}", "finished" if run.finished else f"{run.progress:.0%}",
             f"<code>{_text(run.path)}</code>"] for group in summary.groups for run in group.runs]
    head = ["Method", "Task", "Seed", "Score", "The score is", "Frames", "Progress", "Path"]
    return (f'<h2>Runs</h2><div class="card"><details><summary>{len(rows)} runs, with their scores and paths</summary>'
            f'<div class="scroll">{_table(head, rows)}</div></details></div>')


def _method(summary: Summary, files: Iterable[str]) -> str:
    links = ", ".join(f'<a href="{_text(name)}">{_text(name)}</a>' for name in files)
    published = any(group.kind == PUBLISHED for group in summary.groups)
    return ("<h2>How this is computed</h2><div class='card'>"
            "<p>Human-normalized: (score \u2212 random) / (human \u2212 random). Mean and median are over games, of "
            "the mean over runs; IQM is the mean of the middle half of all runs; the optimality gap is the mean "
            "shortfall below human. Intervals: 95%, percentile bootstrap stratified by game, "
            f"{summary.samples:,} samples (Agarwal et al. 2021). Tables show mean ± sample standard deviation over "
            "runs, and in brackets the number of runs where other games have more. The final score of a run is the "
            "mean over the episodes of its last evaluation, unless the list of runs says otherwise.</p>"
            "<p>Methods named hdfast are own runs; in square brackets stands what else differs from the official Atari "
            "100K protocol.</p>"
            + (f"<p>Published scores: {_text(scores.source())}.</p>" if published else "")
            + (f"<p>Files: {links}.</p>" if links else "") + "</div>")
