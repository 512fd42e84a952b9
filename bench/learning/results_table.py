"""The tables of docs/results.md, made of the committed learning results."""

import re
from collections.abc import Sequence

from learning_records import Result, interval, methods, of, official, tasks

from hdfast import scores
from hdfast.report.summary import NAMES, random_play, title
from hdfast.run.progress import points

BEGIN = "<!-- made by bench/learning/figures.py: everything from here to the end is generated -->"
END = "<!-- end -->"
NOTHING = "No learning run has been committed yet."


def put(text: str, results: Sequence[Result]) -> str:
    """The page with new tables between its markers; ValueError if it has not exactly one pair of them."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"docs/results.md must hold the lines {BEGIN} and {END} once each")
    made = f"{BEGIN}\n\n{tables(results)}\n\n{END}"
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: made, text, flags=re.DOTALL)


def tables(results: Sequence[Result]) -> str:
    """Scores by game and method, then every run with what it cost, as Markdown."""
    if not tasks(results):
        return NOTHING
    return f"{_table(SCORES, score_rows(results))}\n\n{_table(RUNS, run_rows(results))}"


SCORES = ["Game", "Method", "Seeds", "Score [95%]", "Random, measured [95%]", "Random, published", "Human",
          *(f"Official {name}, same frames" for name in reversed(NAMES.values())), "CPU minutes a run"]
RUNS = ["Game", "Method", "Seed", "Score [95%]", "Frames", "Updates", "CPU minutes", "Wall minutes", "Processor",
        "Commit or version"]


def score_rows(results: Sequence[Result]) -> list[list[str]]:
    """One row a game and method: its finished runs."""
    rows = []
    for task in tasks(results):
        reference = scores.reference(task) or {}
        measured = random_play([result.run for result in results], task)
        for method in methods(results):
            found = of(results, task, method)
            if not found:
                continue
            frames = min(result.run.frames for result in found)
            ranges = [official(results, task, name, frames) for name in reversed(NAMES.values())]
            minutes = [spent for result in found if (spent := result.minutes("cpu")) is not None]
            rows.append([
                title(task), method, str(len(found)), _interval(_episodes(found)),
                _interval([measured]) if len(measured) else "not measured",
                *(points(reference[key]) if reference else "" for key in ("random", "human")),
                *(f"{points(of.min())} to {points(of.max())}" if len(of) else "" for of in ranges),
                f"{sum(minutes) / len(minutes):.0f}" if minutes else "not recorded"])
    return rows


def run_rows(results: Sequence[Result]) -> list[list[str]]:
    """One row a run."""
    rows = []
    for task in tasks(results):
        for method in methods(results):
            for result in of(results, task, method, finished=False):
                run, raw = result.run, result.raw
                score = _interval(_episodes([result])) if run.finished else f"not finished, at {run.progress:.0%}"
                made = ", ".join(re.sub(r"\b([0-9a-f]{10})[0-9a-f]{30}", r"\1", str(raw.get(key)))
                                 for key in ("commit", "version") if raw.get(key))
                rows.append([title(task), method, run.seed, score, f"{run.frames:,}",
                             f"{raw['updates']:,}" if isinstance(raw.get("updates"), int) else "",
                             *("" if (spent := result.minutes(clock)) is None else f"{spent:.0f}"
                               for clock in ("cpu", "wall")), str(raw.get("processor") or ""), made])
    return rows


def _episodes(found: Sequence[Result]) -> list[Sequence[float]]:
    """Scores of the last evaluation, one list a run; only the final score if a record has no episodes."""
    return [result.run.episodes or (result.run.final,) for result in found]


def _interval(groups: Sequence[Sequence[float]]) -> str:
    mean, low, high = interval(groups)
    return f"{points(mean)} [{points(low)}, {points(high)}]" if max(map(len, groups)) > 1 else points(mean)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
