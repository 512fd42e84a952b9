"""`make fuzz`: every target for its share of the time, then a table of executions, coverage and findings.

    python tests/fuzz/run.py [--seconds 600] [--only NAME,...] [--json FILE] [--folder build/fuzz]

Python targets (targets.py) run under atheris, the ops (native/) under clang's libFuzzer with AddressSanitizer and
UndefinedBehaviorSanitizer; what is missing for one of them is said and fails. An input that fails is kept in the
folder. Corpora stay there too, so that the next run goes on from this one. Exit code 1 where something was found or is
missing.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NATIVE = "native"
SLOWEST = 10  # seconds that one input may take


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together, without the build")
    parser.add_argument("--only", default="", help="names of targets, with commas")
    parser.add_argument("--json", default="", help="write the table to this file too")
    parser.add_argument("--folder", default=str(ROOT / "build" / "fuzz"), help="corpora, failures and the native build")
    given = parser.parse_args()
    folder = Path(given.folder).resolve()
    names = given.only.split(",") if given.only else [*python_targets(), NATIVE]
    if unknown := set(names) - {*python_targets(), NATIVE}:
        sys.exit(f"unknown targets {', '.join(sorted(unknown))}; there are {', '.join([*python_targets(), NATIVE])}")
    rows = []
    for name in names:
        rows.append(run_target(name, folder, max(1, given.seconds // len(names))))
        print(line(rows[-1]), flush=True)
    if given.json:
        Path(given.json).write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(["", HEADER, *map(line, rows)]))
    return int(any(row["findings"] or row["problem"] for row in rows))


def python_targets() -> list[str]:
    """Names in targets.py, read without importing it: that takes torch and seconds."""
    text = (HERE / "targets.py").read_text()
    return re.findall(r'^    "(\w+)": Target\(', text, re.MULTILINE)


def run_target(name: str, folder: Path, seconds: int) -> dict:
    row = {"target": name, "executions": 0, "seconds": 0.0, "edges": 0, "features": 0, "calls": "", "findings": [],
           "problem": ""}
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    flags = [f"-max_total_time={seconds}", f"-timeout={SLOWEST}", "-print_final_stats=1", "-rss_limit_mb=4096"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT)}
    if name == NATIVE:
        try:
            program = build(folder / "build")
            seeds(place, env)
        except RuntimeError as error:
            return row | {"problem": str(error)}
        command = [program, f"-artifact_prefix={place}/", "-entropic=0", "-use_value_profile=1",
                   "-malloc_limit_mb=1024", *flags, place / "corpus"]
    elif importlib.util.find_spec("atheris") is None:
        return row | {"problem": "needs atheris (pip install 'hdfast[fuzz]'; it has wheels for Python up to 3.13)"}
    else:
        command = [sys.executable, HERE / "python_target.py", name, place, *flags]
    before, start = set(place.iterdir()), time.monotonic()
    done = subprocess.run([str(word) for word in command], cwd=place, env=env, capture_output=True, text=True,
                          errors="replace")
    row["seconds"] = round(time.monotonic() - start, 1)
    row |= figures(done.stderr + done.stdout)
    row["findings"] = sorted(str(path) for path in set(place.iterdir()) - before if path.is_file())
    if missed := re.findall(r"^never accepted: (.*)$", done.stderr, re.MULTILINE):
        row["problem"] = f"ops that no call reached: {missed[-1]}"
    if done.returncode:
        log = place / "log.txt"
        log.write_text(done.stdout + done.stderr)
        row["problem"] = f"exit code {done.returncode}, see {log}"
    return row


def figures(text: str) -> dict:
    """Executions, edges and features as libFuzzer says them."""
    count = re.findall(r"number_of_executed_units:\s*(\d+)", text)
    cover = re.findall(r"cov: (\d+) ft: (\d+)", text)
    calls = re.findall(r"^calls: (.*)$", text, re.MULTILINE)
    return {"executions": int(count[-1]) if count else 0, "edges": int(cover[-1][0]) if cover else 0,
            "features": int(cover[-1][1]) if cover else 0, "calls": calls[-1] if calls else ""}


def build(folder: Path) -> Path:
    """The program of the native target; RuntimeError saying what is missing or does not compile."""
    for tool, package in (("clang++", "clang libclang-rt-14-dev"), ("cmake", "cmake"), ("ninja", "ninja-build")):
        if shutil.which(tool) is None:
            raise RuntimeError(f"the native target needs {tool} (Debian: apt install {package})")
    configure = ["cmake", "-S", HERE / "native", "-B", folder, "-G", "Ninja", "-DCMAKE_CXX_COMPILER=clang++"]
    for command in (configure, ["cmake", "--build", folder, "-j", "2", "--target", "ops_fuzz"]):
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the native target does not build:\n{(done.stdout + done.stderr)[-2000:]}")
    return folder / "ops_fuzz"


def seeds(place: Path, env: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, str(HERE / "native_seeds.py"), str(place / "corpus")], env=env,
                          capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the native target has no seeds: {done.stderr[-500:]}")


HEADER = f"{'target':<14} {'executions':>11} {'seconds':>8} {'edges':>7} {'features':>9}  found"


def line(row: dict) -> str:
    found = "; ".join([*row["findings"], *filter(None, [row["problem"]])]) or "nothing"
    calls = f" ({row['calls']})" if row["calls"] else ""
    return (f"{row['target']:<14} {row['executions']:>11,} {row['seconds']:>8} {row['edges']:>7,} {row['features']:>9,}"
            f"  {found}{calls}")


if __name__ == "__main__":
    sys.exit(main())
