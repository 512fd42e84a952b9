"""How long a run will take on a CPU, before it has begun."""

import time
from itertools import pairwise

import torch

from hdfast.agent import Agent
from hdfast.config import Config
from hdfast.model.encoders import channels, stage_depths
from hdfast.protocol import Schedule

DAY = 86_400.0
SHARE = 0.6  # roughly, of the speed of one large product that an update reaches


def slow(config: Config, agent: Agent) -> str:
    """A sentence for a run on a CPU that would take more than a day, with an estimate; else empty."""
    updates = Schedule.of(config.run).updates_due(config.run.steps)
    work = products(config, agent)
    if agent.device.type != "cpu" or updates * work < 1e15:  # at most hours on a slow core
        return ""
    seconds = work / (SHARE * product_speed())
    return "" if updates * seconds < DAY else (
        f"on this CPU the run will take about {updates * seconds / DAY:.0f} days: {updates:,} updates of some "
        f"{seconds:.1f} s each; take a GPU, or a small run (--configs atari100k cpu, about an hour)")


def products(config: Config, agent: Agent) -> float:
    """Multiplications and additions of one update: each parameter meets every row forward and twice backward, those of
    convolutions every pixel, and those of the imagination every imagined step."""
    rows = config.run.batch_size * config.run.batch_length
    images, size = agent.obs_space.images, 0
    dense = sum(count for name, count in agent.num_params().items() if not images or name not in ("encoder", "decoder"))
    depths = []
    if images:
        size = images[0].shape[0]
        depths = [channels(agent.obs_space), *stage_depths(size, config.model.cnn_depth)]
    convolutions = 2 * 16 * sum((size >> i + 1) ** 2 * a * b for i, (a, b) in enumerate(pairwise(depths)))
    return rows * (6 * (dense + convolutions) + 2 * config.behavior.horizon * dense)


def product_speed() -> float:
    """Multiplications and additions a second of a large float32 product on this CPU, now."""
    a = torch.ones(512, 512)
    a @ a
    start = time.perf_counter()
    for _ in range(4):
        a @ a
    return 4 * 2 * 512**3 / (time.perf_counter() - start)
