"""Compiler launcher of every nvcc call: fails the compilation of a kernel that spills or has a stack frame.

    check_ptxas.py TABLE nvcc ...            run the compiler and check what it reports
    check_ptxas.py TABLE --report FILE       check a saved `-Xptxas -v` report (- for standard input)

A local array indexed at run time shows as a stack frame and not as a spill; both live in slow memory, so both count.
The table allows exceptions by the kernel's demangled name. Standard library only.
"""

import fnmatch
import json
import re
import subprocess
import sys
from pathlib import Path

ENTRY = re.compile(r"Compiling entry function '(?P<name>\S+)' for '(?P<arch>\w+)'")
FRAME = re.compile(r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
                   r"(?P<loads>\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (?P<registers>\d+) registers")
NOISE = re.compile(r"ptxas info|bytes stack frame|^\s*$")


def demangle(names: list[str]) -> list[str]:
    """Readable names where c++filt is there, else the names as they are."""
    try:
        done = subprocess.run(["c++filt"], input="\n".join(names), text=True, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return names
    return done.stdout.splitlines()


def parse(report: str) -> list[dict]:
    """One record per kernel and architecture. Functions that are not kernels count for the kernel before them."""
    kernels: list[dict] = []
    for line in report.splitlines():
        if found := ENTRY.search(line):
            kernels.append({"name": found["name"], "arch": found["arch"], "stack": 0, "spill": 0, "registers": 0})
        elif kernels and (found := FRAME.search(line)):
            kernels[-1]["stack"] = max(kernels[-1]["stack"], int(found["stack"]))
            kernels[-1]["spill"] = max(kernels[-1]["spill"], int(found["stores"]) + int(found["loads"]))
        elif kernels and (found := REGISTERS.search(line)):
            kernels[-1]["registers"] = int(found["registers"])
    for kernel, name in zip(kernels, demangle([k["name"] for k in kernels]), strict=False):
        kernel["name"] = name
    return kernels


def violations(kernels: list[dict], allowed: dict[str, dict[str, int]]) -> list[str]:
    """A line for every kernel that uses more than nothing, or more than the table grants it."""
    found = []
    for kernel in kernels:
        grants = [grant for pattern, grant in allowed.items() if fnmatch.fnmatchcase(kernel["name"], pattern)]
        for what in ("stack", "spill"):
            limit = max((grant.get(what, 0) for grant in grants), default=0)
            if kernel[what] > limit:
                found.append(f"{kernel['name']} for {kernel['arch']}: {kernel[what]} bytes of {what}, "
                             f"{limit} allowed, {kernel['registers']} registers")
    return found


def main(table: str, *command: str) -> int:
    allowed = json.loads(Path(table).read_text())["allowed"]
    if command[0] == "--report":
        report, status = sys.stdin.read() if command[1] == "-" else Path(command[1]).read_text(), 0
    else:
        done = subprocess.run(command, text=True, stderr=subprocess.PIPE)
        report, status = done.stderr, done.returncode
        # The compiler's own words, without ptxas's statistics.
        sys.stderr.write("".join(f"{line}\n" for line in report.splitlines() if not NOISE.search(line)))
    if status:
        return status
    wrong = violations(parse(report), allowed)
    for line in wrong:
        print(f"ptxas gate: {line}", file=sys.stderr)
    if wrong:
        print("ptxas gate: make the kernel smaller, or grant it what it uses in cmake/ptxas.json", file=sys.stderr)
        if "-o" in command:
            Path(command[command.index("-o") + 1]).unlink(missing_ok=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
