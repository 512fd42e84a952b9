"""What a run says about itself when it starts."""

from pathlib import Path

import torch

from hdfast import distributed, machine, ops
from hdfast.agent import Agent
from hdfast.config import Config
from hdfast.protocol import Schedule, frames_per_step


def banner(config: Config, agent: Agent, *, replay: torch.device, num_envs: int, logdir: Path) -> str:
    """Task, size of the agent, devices and libraries, and length of the run."""
    steps, ranks = config.run.steps, distributed.dist_size()
    return (f"hdfast: {config.task}, seed {config.seed}, harmony {config.harmony.mode}, "
            f"{sum(agent.num_params().values()):,} parameters\n  {agent.device} with {ops.backend()} operations in "
            f"{machine.resolve_precision(config.precision, agent.device)}, replay on {replay}, "
            f"CPU threads: {torch.get_num_threads()}, environments: {num_envs}"
            f"{f', ranks: {ranks}' if ranks > 1 else ''}\n  {steps:,} steps ({steps * frames_per_step(config):,} "
            f"frames), {Schedule.of(config.run).updates_due(steps):,} updates, in {logdir}")
