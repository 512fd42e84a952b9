"""The report of a run of bench/gpu.sh: `python -m hdfast.bench.report OUT` makes rows.csv and report.txt of what the
steps left in OUT. Standard library only."""

import csv
import sys
from pathlib import Path
from typing import Any

from hdfast.errors import cell, spelled_out
from hdfast.run.jsonl import is_number, read_rows

COLUMNS = ("step", "case", "precision", "value", "unit", "expected", "note")


def report(out: Path) -> None:
    """Write rows.csv and report.txt; a folder in which a step wrote nothing still gets both."""
    rows = [found for row in read_rows(out / "rows.jsonl") if (found := _row(row))]
    with (out / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: cell(x) if isinstance(x, str) else x for name, x in row.items()} for row in rows)
    (out / "report.txt").write_text("\n".join(lines(rows, out)) + "\n")


def _row(row: dict[str, Any]) -> dict[str, Any] | None:
    """The columns of a row; None where one is missing or no number stands where one should."""
    numbers = (row.get("value"), row.get("expected"))
    if not set(COLUMNS) <= row.keys() or not all(x is None or is_number(x) for x in numbers):
        return None
    return {name: row[name] if name in ("value", "expected") else spelled_out(str(row[name])) for name in COLUMNS}


def lines(rows: list[dict[str, Any]], out: Path) -> list[str]:
    done = out / "steps.csv"
    found = ["steps (name, status, seconds):", *(done.read_text().splitlines() if done.exists() else [])]
    for step in dict.fromkeys(row["step"] for row in rows):
        found += ["", f"{step}:", f"  {'case':<58} {'':<5} {'measured':>12} {'expected':>10} {'ratio':>6}  note"]
        for row in (row for row in rows if row["step"] == step):
            value, expected = row["value"], row["expected"]
            measured = "failed" if value is None else f"{value:.5g} {row['unit']}"
            ratio = f"{value / expected:.2f}" if value is not None and expected else ""
            found.append(f"  {row['case']:<58} {row['precision']:<5} {measured:>12} "
                         f"{'' if expected is None else format(expected, 'g'):>10} {ratio:>6}  {row['note']}".rstrip())
        found += totals([row for row in rows if row["step"] == step])
    return found


def totals(rows: list[dict[str, Any]]) -> list[str]:
    """Sums of the stages' rows that have a prediction, by precision."""
    if not rows or rows[0]["step"] != "stages":
        return []
    found = []
    for precision in dict.fromkeys(row["precision"] for row in rows):
        both = [(row["value"], row["expected"]) for row in rows if row["precision"] == precision and row["expected"]
                and row["value"] is not None]
        if both:
            measured, expected = (sum(column) for column in zip(*both, strict=True))
            found.append(f"  {'sum of the stages above that have a prediction':<58} {precision:<5} "
                         f"{measured:>9.5g} us {expected:>10g} {measured / expected:>6.2f}")
    return found


if __name__ == "__main__":
    report(Path(sys.argv[1]))
