"""Atari backends beside each other: frames/s, latency of a vector step and CPU time, as rows of a Markdown table.

    python bench/envs_rate.py [--task pong] [--seconds 1] [--rounds 3]

Random actions; the backends take turns, and a figure is the median over rounds. CPU time is that of all threads of the
process, for one step of one environment: unlike the others it depends little on what else runs here. A step of an
environment is action repeat frames.
"""

import argparse
import statistics
import time
from contextlib import ExitStack, closing
from dataclasses import replace

import numpy as np

from hdfast import Config
from hdfast.envs import VectorEnv, make_envs
from hdfast.machine import cpu_name, git_revision, package_versions, usable_cores

BACKENDS = {"envpool": "envpool", "ale": "ale-py"}
COUNTS = (1, 8, 100)


def measure(envs: VectorEnv, seconds: float, rng: np.random.Generator) -> tuple[float, float]:
    """Wall and CPU seconds of one vector step."""
    steps, start, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        envs.step(rng.integers(0, envs.act_space.n, envs.num_envs))
        steps += 1
    return (time.perf_counter() - start) / steps, (time.process_time() - cpu) / steps


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="pong")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args(words)
    rng, versions, env = np.random.default_rng(0), package_versions(), Config.preset("atari100k", task=flags.task).env
    print(f"{cpu_name()}, {usable_cores()} cores, {time.strftime('%Y-%m-%d')}, commit {git_revision()}, {flags.task}, "
          + ", ".join(f"{name} {versions[name]}" for name in BACKENDS.values()))
    with ExitStack() as stack:
        made = {(count, name): stack.enter_context(closing(make_envs(flags.task, replace(env, backend=name),
                                                                     num_envs=count)))
                for count in COUNTS for name in BACKENDS}
        for envs in made.values():
            envs.reset()
        print("| Backend | Environments | Frames/s | Latency of a step | CPU time of a step of one |\n"
              "| --- | ---: | ---: | ---: | ---: |", flush=True)
        found: dict[tuple[int, str], list[tuple[float, float]]] = {key: [] for key in made}
        for _ in range(flags.rounds):
            for key, envs in made.items():
                measure(envs, flags.seconds / 4, rng)  # caches are warm
                found[key].append(measure(envs, flags.seconds, rng))
    for (count, name), taken in found.items():
        wall, cpu = map(statistics.median, zip(*taken, strict=True))
        print(f"| {name} | {count} | {env.frame_skip * count / wall:,.0f} | {1e3 * wall:.2f} ms | "
              f"{1e6 * cpu / count:.0f} us |")


if __name__ == "__main__":
    main()
