"""What more threads are worth: every stage of an update with one thread and with several, in turns.

    python bench/thread_scaling.py --preset full --threads 2 --rounds 5

A line a stage: milliseconds with one thread (median) and how many times as fast it is with several (median of the
rounds' ratios). The first three lines are what the machine gives to work that splits evenly. docs/notes/kernels.md says
what came out.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY") or "passive"  # before torch is imported

import torch

from hdfast import machine, ops
from hdfast.bench import ours, stages, workload
from hdfast.config import Config
from hdfast.learner import Uniforms


def limits() -> dict[str, Callable[[], object]]:
    """Work that splits evenly: in registers, in the caches, in memory."""
    a, b = torch.randn(2, 1024, 1024)
    x, large = torch.randn(2, 1 << 20), torch.zeros(2, 1 << 25)
    return {"matrix product of 1,024 x 1,024": lambda: a @ b,
            "exponential of a million numbers": lambda: torch.exp(x[0], out=x[1]),
            "copy of 128 MiB": lambda: large[0].copy_(large[1])}


def update_stages(config: Config) -> dict[str, tuple[Callable[[], object], str]]:
    """The stages of an update and the whole, each with the name of the stage that its time contains, if any."""
    learner = ours.build_learner(config)
    image, sequences = ours.tensors(config)
    data, run = sequences(image), config.run
    u = Uniforms.draw(run.batch_length, run.batch_size, config.behavior.horizon, config.model.stoch,
                      learner.actor_critic.actor, generator=torch.Generator().manual_seed(workload.SEED))
    learner.update(data, u)
    found = stages.model_stages(learner, image, data, u) | stages.behavior_stages(learner, data, u)
    return {name: (stage.run, stage.less) for name, stage in found.items()} | {
        "whole update": (ours.update(ours.build_learner(config), config), "")}


def seconds(run: Callable[[], object], threads: int) -> float:
    torch.set_num_threads(threads)
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=workload.SIZES, default="full")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    machine.keep_memory()
    ops.set_backend("native")
    work = {name: (run, "") for name, run in limits().items()} | update_stages(workload.sized(given.preset))
    times: dict[str, list[tuple[float, float]]] = {"": [(0.0, 0.0)] * given.rounds}
    print(f"{machine.cpu_name()}, {given.preset}, 1 and {given.threads} threads, {given.rounds} rounds")
    for name, (run, less) in work.items():
        pairs = [(seconds(run, 1), seconds(run, given.threads)) for _ in range(given.rounds + 1)][1:]
        times[name] = pairs
        net = [(one - a, many - b) for (one, many), (a, b) in zip(pairs, times[less], strict=True)]
        print(f"{name:56} {1e3 * statistics.median(one for one, _ in net):9.2f} ms  "
              f"{statistics.median(one / many for one, many in net):5.2f} x")


if __name__ == "__main__":
    main()
