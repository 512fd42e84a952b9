"""A measured process: it builds a case when asked, runs it and reports times. Standard library only.

One JSON object a line. Request {"case": name, "count": n}; answer {"seconds": [...], "cpu": [...], "peak_rss_mb": x},
CPU time being that of all threads. The first line, unasked, is {"versions": {...}}. Answers begin with MARK: whatever
else a library prints is no answer. Between requests the process sleeps, so that several can take turns on one machine.
"""

import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

MARK = "@answer "

Work = Callable[[], object]
"""What is timed: a call that returns when it is done."""
Cases = Mapping[str, Callable[[], Work]]
"""{name: builder}: calling the builder sets a case up and returns the function to be timed, which blocks until done."""


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Python and the given installed packages; those that are not there are left out."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def peak_rss_mb() -> float:
    """Largest resident set since `timed` began, in MiB.

    From VmHWM: getrusage would count what the parent process had resident when it forked this one.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 1024)


def timed(run: Work, count: int) -> dict[str, object]:
    """Run `count` times -> wall and CPU seconds of each run, and the peak memory over all of them."""
    with suppress(OSError):  # the peak starts again from what is resident now (Linux)
        Path("/proc/self/clear_refs").write_text("5")
    seconds, cpu = [], []
    for _ in range(count):
        start, start_cpu = time.perf_counter(), time.process_time()
        run()
        cpu.append(time.process_time() - start_cpu)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "cpu": cpu, "peak_rss_mb": peak_rss_mb()}


def serve(cases: Cases, found: Mapping[str, str]) -> None:
    """Answer requests until standard input ends; `found` are the versions to report.

    Whatever else the process prints from now on goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print(MARK + json.dumps({"versions": dict(found)}), file=answers)
    name, run = None, None
    for line in sys.stdin:
        request = json.loads(line)
        if request["case"] != name:
            name, run = request["case"], None
            run = cases[name]()
        print(MARK + json.dumps(timed(run, request["count"])), file=answers)
