"""The sequence ops on the CPU in their two executions, one C++ call and the launches of CUDA, in turns.

    python bench/scan_executions.py --preset reduced --threads 2 --rounds 10

One line an op: medians in ms, and how many times as long the launches take. docs/notes/kernels.md says what it decided.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from unittest import mock

os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY") or "passive"  # before torch is imported

import torch

from hdfast import machine
from hdfast.bench import cases, ours, workload
from hdfast.ops import execution


def milliseconds(run: Callable[[], object], launches: bool) -> float:
    """One timed run; with `launches` as on CUDA."""
    with mock.patch.object(execution, "on_cuda", lambda x: launches):
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=workload.SIZES, default="reduced")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    machine.keep_memory()
    config = workload.sized(given.preset)
    learner = ours.build_learner(config)
    for name, case in (("observe_scan", cases.observe), ("imagine", cases.rollout)):
        run = case(learner, config)
        times = [[milliseconds(run, launches) for launches in (False, True)] for _ in range(given.rounds + 1)][1:]
        call, launches = (statistics.median(row[i] for row in times) for i in range(2))
        print(f"{given.preset:8} {given.threads} threads  {name:12} call {call:7.1f} ms  launches {launches:7.1f} ms  "
              f"ratio {launches / call:.2f}  {machine.cpu_name()}")


if __name__ == "__main__":
    main()
