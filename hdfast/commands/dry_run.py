"""`hdfast train --dry_run`: build everything at full size, report it, time an update, write nothing."""

import resource
import sys
import time

import numpy as np
import torch

from hdfast import distributed, ops, trainer
from hdfast.agent import Agent
from hdfast.config import Config
from hdfast.envs import make_envs
from hdfast.machine import replay_device, resolve_precision
from hdfast.protocol import Schedule, frames_per_step
from hdfast.replay.ring import ring_bytes
from hdfast.replay.sequences import Replay
from hdfast.run.progress import duration

EXTRA = 8  # steps beyond one sequence, so that a batch has different windows
FLOATS_PER_PARAMETER = 4  # value, gradient and the two moments of Adam, float32 each


def dry_run(config: Config) -> None:
    """Print settings, parameters by part, memory, and the time and losses of one update on random play.

    Raises as `trainer.train` does.
    """
    with trainer.prepared(config) as (device, team):
        if team and team.rank:
            distributed.follow(config, team)
        else:
            _report(config, device)


def _report(config: Config, device: torch.device) -> None:
    print("".join(f"{name} {value}\n" for name, value in config.flat().items()))
    envs = make_envs(config.task, config.env, seed=config.seed)
    try:
        agent = Agent(envs.obs_space, envs.act_space, config, device=device)
        run, count, act_space = config.run, envs.num_envs, envs.act_space
        print_parameters(agent)
        print_memory(agent, config)
        rng, length = np.random.default_rng(config.seed), run.batch_length + EXTRA
        replay = Replay(length * count, count, envs.obs_space, act_space, directory=None, seed=config.seed,
                        learner=device)
        start = time.perf_counter()
        record = envs.reset()
        for _ in range(length):
            action = act_space.random(rng, count)
            replay.add(record, action)
            record = envs.step(action)
        played = time.perf_counter() - start
    finally:
        envs.close()
    for _ in range(2):  # the first one warms up
        start = time.perf_counter()
        agent.update(replay.sample(run.batch_size, run.batch_length))
        metrics = agent.read_metrics_sync()
        seconds = time.perf_counter() - start
    due = Schedule.of(run).updates_due(run.steps)
    print(f"random play: {count * length} steps of {config.task}, "
          f"{count * length * frames_per_step(config) / played:,.0f} frames/s, {act_space}")
    print(f"one update:  {seconds:.2f} s on {device} with {ops.backend()} operations in "
          f"{resolve_precision(config.precision, device)}; the whole run makes {due:,}, "
          f"about {duration(due * seconds)}")
    print("".join(f"  {name:<30} {value:12.5g}\n" for name, value in metrics.items() if "loss" in name), end="")
    where = "on the GPU" if device.type == "cuda" else "in this process"
    print(f"peak memory: {_peak_bytes(device) / 2**20:,.0f} MiB {where}, with activations, without a full replay")
    print("dry run: nothing was written")


def print_parameters(agent: Agent) -> None:
    """The trained parameters by part, and their sum; the slow critic is a copy and not among them."""
    parts = agent.num_params()
    print("parameters")
    for name, number in parts.items():
        print(f"  {name:<10} {number:>12,}")
    print(f"  {'total':<10} {sum(parts.values()):>12,}")


def print_memory(agent: Agent, config: Config) -> None:
    """Bytes of the parameters with gradients and moments, and of the replay when the run is at its end."""
    kept = min(config.replay.capacity, config.run.steps)
    size = ring_bytes(kept, agent.obs_space, agent.act_space)
    where = replay_device(config.replay.device, agent.device, size)
    trained = sum(agent.num_params().values())
    print("memory")
    print(f"  {FLOATS_PER_PARAMETER * 4 * trained / 2**20:>10,.0f} MiB  parameters, gradients and Adam moments")
    print(f"  {size / 2**20:>10,.0f} MiB  replay of {kept:,} steps, on {where}")


def _peak_bytes(device: torch.device) -> int:
    """Largest memory in use so far: allocated by torch on a GPU, resident for a CPU run."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
