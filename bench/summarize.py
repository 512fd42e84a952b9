"""pytest-benchmark's JSON -> rows of bench/results/<cpu>.csv: `python bench/summarize.py out.json [FOLDER]`.

Make the JSON with `pytest bench --benchmark-json out.json`. Rows are appended; times are seconds, p20 and p80 are
percentiles over rounds.
"""

import csv
import json
import re
import statistics
import sys
from pathlib import Path

FIELDS = ("name", "backend", "mode", "dtype", "shape", "median", "p20", "p80", "unit", "peak_mem", "gbs", "preset",
          "threads", "cpu", "torch", "sha", "date")
RESULTS = Path(__file__).parent / "results"


def rows(report: dict) -> list[dict]:
    """One row for each benchmark of a report."""
    out = []
    for measured in report["benchmarks"]:
        info, times = measured["extra_info"], measured["stats"]["data"]
        fifths = statistics.quantiles(times, n=5, method="inclusive") if len(times) > 1 else times * 4
        found = {key: info.get(key) for key in FIELDS}
        out.append(found | {
            "median": f"{statistics.median(times):.4g}", "p20": f"{fifths[0]:.4g}", "p80": f"{fifths[3]:.4g}",
            "unit": "s", "peak_mem": info.get("peak_mem_mb"), "date": report["datetime"][:10]})
    return out


def append(report: dict, folder: Path) -> list[Path]:
    """Append a report's rows to one file for each machine; returns the files."""
    found: dict[Path, list[dict]] = {}
    for row in rows(report):
        machine = re.sub(r"[^a-z0-9]+", "-", str(row["cpu"]).lower()).strip("-")
        found.setdefault(folder / f"{machine}.csv", []).append(row)
    folder.mkdir(parents=True, exist_ok=True)
    for path, of_machine in found.items():
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            if fresh:
                writer.writeheader()
            writer.writerows(of_machine)
    return list(found)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    for written in append(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]) if sys.argv[2:] else RESULTS):
        print(written)
