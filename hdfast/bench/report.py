"""The report of a run of bench/gpu.sh: `python -m hdfast.bench.report OUT` makes rows.csv and report.txt of what the
steps left in OUT. Standard library only."""

import csv
import sys
from pathlib import Path
from typing import Any

from hdfast.errors import cell, spelled_out
from hdfast.run.jsonl import is_number, read_rows
from hdfast.run.progress import text_table

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
        of_step = [row for row in rows if row["step"] == step]
        table = [("case", "", "measured", "expected", "ratio", "note"), *map(_cells, of_step + totals(of_step))]
        found += ["", f"{step}:", *text_table(table, right=range(2, 5)).splitlines()]
    return found


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    value, expected = row["value"], row["expected"]
    ratio = f"{value / expected:.2f}" if value is not None and expected else ""
    return (row["case"], row["precision"], "failed" if value is None else f"{value:.5g} {row['unit']}",
            "" if expected is None else f"{expected:g}", ratio, row["note"])


def totals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sums of the stages' rows that have a prediction, by precision."""
    found = []
    for precision in dict.fromkeys(row["precision"] for row in rows if row["step"] == "stages"):
        both = [row for row in rows if row["precision"] == precision and row["expected"] and row["value"] is not None]
        if both:
            sums = {key: sum(row[key] for row in both) for key in ("value", "expected")}
            found.append(rows[0] | sums | {"case": "sum of the stages above that have a prediction",
                                           "precision": precision, "note": ""})
    return found


if __name__ == "__main__":
    report(Path(sys.argv[1]))
