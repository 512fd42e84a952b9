"""`make fuzz`: every target for its share of the time, then a table of executions, coverage and findings.

    python tests/fuzz/run.py [--seconds 600] [--only NAME,...] [--json FILE] [--folder build/fuzz]

Python targets (targets.py) run under atheris, the ops (native/) under clang's libFuzzer with AddressSanitizer and
UndefinedBehaviorSanitizer. An input that fails is kept in the folder. Corpora stay there too, so that the next run
continues from this one. Exit code 1 if something was found, or if something is missing for a target, which is said.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from hdfast.run.progress import text_table  # noqa: E402

NATIVE = "native"
NAMES = ("command", "checkpoint", "replay", NATIVE)
COLUMNS = ("target", "executions", "seconds", "edges", "features", "calls", "findings", "problem")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together, without the build")
    parser.add_argument("--only", default=",".join(NAMES), help="names of targets, with commas")
    parser.add_argument("--json", default=os.devnull, help="write the table to this file too")
    parser.add_argument("--folder", default=ROOT / "build" / "fuzz", type=Path, help="corpora, failures and the build")
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := set(names) - set(NAMES):
        sys.exit(f"unknown targets {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    rows = []
    for name in names:
        rows.append(run_target(name, given.folder.resolve(), max(1, given.seconds // len(names))))
        print(rows[-1], flush=True)
    Path(given.json).write_text(json.dumps(rows, indent=1) + "\n")
    print(text_table([COLUMNS, *([str(row[name]) for name in COLUMNS] for row in rows)]))
    return int(any(row["findings"] or row["problem"] for row in rows))


def run_target(name: str, folder: Path, seconds: int) -> dict:
    """A row of the table: libFuzzer's own figures, the inputs that failed, and why it could not run to its end."""
    place = folder / name
    (place / "corpus").mkdir(parents=True, exist_ok=True)
    env = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, HERE / "python_target.py", name, place]
    problem = ""
    if name == NATIVE:
        build = folder / "build"
        problem = prepared(["cmake", "-S", HERE / "native", "-B", build, "-G", "Ninja", "-DCMAKE_CXX_COMPILER=clang++"],
                           ["cmake", "--build", build, "-j", "2", "--target", "ops_fuzz"],
                           [sys.executable, HERE / "native_seeds.py", place / "corpus"], env=env)
        command = [build / "ops_fuzz", f"-artifact_prefix={place}/", "-entropic=0", "-use_value_profile=1",
                   "-malloc_limit_mb=1024", place / "corpus"]
    before, start, said, code = set(place.iterdir()), time.monotonic(), "", 0
    if not problem:
        done = subprocess.run([*map(str, command), f"-max_total_time={seconds}", "-timeout=10", "-print_final_stats=1",
                               "-rss_limit_mb=4096"], cwd=place, env=env, capture_output=True, text=True,
                              errors="replace")
        said, code = done.stderr + done.stdout, done.returncode
        (place / "log.txt").write_text(said)
        problem = f"exit code {code}, see {place / 'log.txt'}" if code else last(r"^never accepted: (.*)$", said)
    return {"target": name, "executions": last(r"number_of_executed_units:\s*(\d+)", said),
            "seconds": round(time.monotonic() - start), "edges": last(r"cov: (\d+)", said),
            "features": last(r"cov: \d+ ft: (\d+)", said), "calls": last(r"^calls: (.*)$", said),
            "findings": sorted(str(path) for path in set(place.iterdir()) - before
                               if path.is_file() and path.name != "log.txt"), "problem": problem}


def prepared(*commands: list, env: dict[str, str]) -> str:
    """Run commands in turn; what the first one says that fails, or ''."""
    for command in commands:
        try:
            done = subprocess.run([str(word) for word in command], env=env, capture_output=True, text=True)
        except OSError as error:
            return f"{error}; the native target needs clang, cmake and ninja (Debian: clang libclang-rt-14-dev)"
        if done.returncode:
            return f"{' '.join(map(str, command))} failed:\n{(done.stdout + done.stderr)[-2000:]}"
    return ""


def last(pattern: str, text: str) -> str:
    """The last thing that a pattern finds, or ''."""
    return next(reversed(re.findall(pattern, text, re.MULTILINE)), "")


if __name__ == "__main__":
    sys.exit(main())
