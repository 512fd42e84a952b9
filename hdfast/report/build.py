"""The verb `hdfast report`: reads runs and score files, computes, writes the folder, prints the aggregates."""

import time
from collections.abc import Sequence
from dataclasses import replace as replace_fields
from pathlib import Path

from hdfast.errors import ConfigError, RunError, spelled_out
from hdfast.report import figures, page, score_files, tables
from hdfast.report.collect import Run, collect
from hdfast.report.summary import Summary, summarize
from hdfast.run.jsonl import replace

SHOWN = 12  # lines of what is missing on a terminal


def report(folders: Sequence[Path], *, out: Path | None = None, score_paths: Sequence[Path] = (),
           export: Path | None = None, published: bool = False, unfinished: bool = False,
           samples: int = 10_000, watch: float = 0) -> None:
    """Write the report of the runs below `folders` and print its aggregates.

    `out` is the folder to write, by default `report` inside the only folder or here; with `published` alone nothing
    is written unless `out` is given. `watch` repeats it every so many seconds until interrupted. Raises ConfigError
    where there is nothing to report on or a folder does not exist, RunError for a file that cannot be read or written.
    """
    if export and not folders:
        raise ConfigError("--export writes the scores of run directories; name some, as in "
                          "`hdfast report runs --export scores.json`")
    if not (folders or score_paths or published):
        raise ConfigError("report needs run directories, as in `hdfast report runs`; --scores FILE for score files, "
                          "--published for the published scores alone")
    if out is None and (folders or score_paths):
        out = folders[0] / "report" if len(folders) == 1 else Path("report")
    while True:
        own, peers, notes = _read(folders, score_paths)
        if not (own or peers or published):
            raise ConfigError(f"nothing to report on: {'; '.join(notes)}")
        summary = summarize(own, peers, notes, samples=samples, unfinished=unfinished)
        print(spelled_out(_terminal(summary)), flush=True)
        if export:
            print(f"wrote {score_files.write(export, own)}")
        if out is not None:
            print(f"wrote {write(summary, out, refresh=watch)}", flush=True)
        if not watch:
            return
        time.sleep(watch)


def write(summary: Summary, out: Path, *, refresh: float = 0) -> Path:
    """Write page, figures and tables into `out`; returns the page's path, raises RunError where it cannot.

    A figure that cannot be drawn, as without matplotlib, is named among what is missing.
    """
    try:
        return _write(summary, out, refresh)
    except RunError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        raise RunError(f"cannot write the report in {out}: {reason}; choose another --out") from error


def _write(summary: Summary, out: Path, refresh: float) -> Path:
    texts = {"runs.csv": tables.runs_csv, "games.csv": tables.games_csv, "aggregates.csv": tables.aggregates_csv,
             "tables.md": tables.markdown, "tables.tex": tables.latex}
    for name, text in texts.items():
        replace(out / name, spelled_out(text(summary)).encode())
    pictures, files = [], list(texts)
    for plot in figures.plots(summary):
        try:
            pictured, panels = figures.render(plot)
        except ImportError as error:
            summary = replace_fields(summary, missing=(*summary.missing, f"all figures: {error}"))
            break
        for ending, data in pictured.items():
            replace(out / f"{plot.name}.{ending}", data)
            files.append(f"{plot.name}.{ending}")
        pictures.append((plot, panels))
    text = page.page(summary, pictures, files=files, refresh=refresh)
    replace(out / "index.html", spelled_out(text).encode())
    return out / "index.html"


def _read(folders: Sequence[Path], score_paths: Sequence[Path]) -> tuple[list[Run], list[Run], list[str]]:
    own, notes = collect(folders)
    peers: list[Run] = []
    for path in score_paths:
        runs, more = score_files.read(path)
        peers += runs
        notes += more
    return own, peers, notes


def _terminal(summary: Summary) -> str:
    lines = list(summary.missing)
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"{len(lines) - SHOWN} more, all of them on the page"]
    notes = [*summary.notes, *(f"missing: {line}" for line in lines)]
    return "\n\n".join(part for part in (tables.terminal(summary), "\n".join(notes)) if part)
