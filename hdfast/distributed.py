"""Data parallel training of one run: `torchrun --nproc_per_node N -m hdfast train ...`.

Rank 0 is the run: it acts, owns environments, replay and logdir, and draws every batch. The other ranks lend their
processors: each gets a share of the batch, draws its own uniforms and takes the same step. The ranks average gradients
in the flat arenas, one call per optimizer, and take return percentiles over the returns of all: an update is that of
one process on the whole batch. torch.distributed carries everything: NCCL between GPUs, gloo between CPUs and for rank
0's commands. On GPUs each exchange runs between two captured graphs (cuda_graph.between).
"""

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from enum import IntEnum
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hdfast.agent import Agent
from hdfast.config import Config
from hdfast.cuda_graph import between
from hdfast.errors import ConfigError
from hdfast.learner import Learner
from hdfast.machine import pick_device
from hdfast.replay.ring import DTYPES, Batch
from hdfast.replay.sequences import Replay
from hdfast.run.stopping import SIGNALS
from hdfast.spaces import ActSpace, ObsSpace, described, spaces

PATIENCE = timedelta(days=7)  # how long a rank waits for a command: rank 0's evaluations take long
WORDS = 8  # numbers in a message
RANK_STREAM = 5  # of the run's random numbers, besides those in the trainer


class Word(IntEnum):
    """What rank 0 tells the others to do."""

    STOP, BUILD, TAKE, UPDATE, READ = range(5)


class Team:
    """The processes that train one run together."""

    def __init__(self, config: Config):
        self.rank, self.size = _number("RANK", 0), dist_size()
        if config.run.batch_size % self.size:
            raise ConfigError(f"run.batch_size ({config.run.batch_size}) must be a multiple of the {self.size} ranks "
                              "that torchrun started, so that all get the same share")
        self.device = self._device(config.device)
        try:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"WORLD_SIZE says that {self.size} processes train together, but they do not find each "
                              f"other ({error}); start them with torchrun, or unset WORLD_SIZE for a run of one "
                              "process") from error
        self._words = dist.new_group(backend="gloo", timeout=PATIENCE)

    @staticmethod
    def _device(name: str) -> torch.device:
        if name.startswith("cuda:"):
            raise ConfigError(f"--device {name} names one GPU for all ranks of torchrun; use --device cuda or auto, "
                              "which gives every rank its own")
        device = pick_device(name)
        if device.type == "cuda":
            device = pick_device(f"cuda:{_number('LOCAL_RANK', 0)}")
            torch.cuda.set_device(device)
        return device

    # Inside an update

    def connect(self, learner: Learner) -> None:
        """Let a learner average its gradients, and rank its returns, over all ranks."""
        for optimizer in learner.optimizers.values():
            optimizer.reduce = self.mean_
        learner.actor_critic.gather = self.gather

    def mean_(self, flat: Tensor) -> None:
        """Replace a tensor by its mean over the ranks."""
        def mean() -> None:
            dist.all_reduce(flat)
            flat.div_(self.size)

        between(mean)

    def gather(self, x: Tensor) -> Tensor:
        """(N, ...) of every rank -> (ranks * N, ...), the same everywhere."""
        own, parts = x.contiguous(), x.new_empty(self.size, *x.shape)
        between(lambda: dist.all_gather(list(parts.unbind()), own))
        return parts.flatten(0, 1)

    # Between rank 0 and the others

    def tell(self, word: Word, *numbers: int) -> None:
        """Rank 0: say what comes next."""
        dist.broadcast(torch.tensor([word, *numbers] + [0] * (WORDS - 1 - len(numbers))), 0, group=self._words)

    def hear(self) -> tuple[Word, list[int]]:
        """Other ranks: wait for what comes next."""
        message = torch.zeros(WORDS, dtype=torch.int64)
        dist.broadcast(message, 0, group=self._words)
        word, *numbers = message.tolist()
        return Word(word), numbers

    def describe(self, manifest: dict[str, Any] | None) -> dict[str, Any]:
        """The spaces that rank 0 gives; the other ranks pass None."""
        text = b"" if manifest is None else json.dumps(manifest).encode()
        size = torch.tensor([len(text)])
        dist.broadcast(size, 0, group=self._words)
        sent = torch.tensor([*text.ljust(int(size))], dtype=torch.uint8)
        dist.broadcast(sent, 0, group=self._words)
        return json.loads(bytes(sent.tolist()))

    def equalize(self, agent: Agent, seed: int) -> None:
        """Give every rank the learner of rank 0; the others draw their own uniforms from now on."""
        for value in agent.learner.state_dict().values():
            dist.broadcast(value, 0)
        if self.rank:
            entropy = np.random.SeedSequence([seed, RANK_STREAM, self.rank, agent.updates])
            agent.learn_rng.manual_seed(int(entropy.generate_state(1)[0]))

    def share(self, agent: Agent, length: int, batch_size: int, batch: Batch | None) -> Batch:
        """This rank's part of rank 0's batch (T, B, ...); the other ranks pass None."""
        own = batch_size // self.size

        def part(whole: Tensor | None, dtype: torch.dtype, *shape: int) -> Tensor:
            out = torch.empty(length, own, *shape, dtype=dtype, device=self.device)
            dist.scatter(_bytes(out), None if whole is None else [
                _bytes(x.contiguous()) for x in whole.to(out).chunk(self.size, 1)], 0)
            return out

        obs = {} if batch is None else batch.obs
        frames = {x.name: part(obs.get(x.name), DTYPES[x.dtype], *x.shape).flatten(0, 1)
                  for x in agent.obs_space.parts}
        kinds = {"action": (torch.float32, agent.act_space.width), "reward": (torch.float32,),
                 **dict.fromkeys(("is_first", "is_last", "is_terminal"), (torch.bool,))}
        return Batch(frames, torch.arange(length * own, device=self.device).view(length, own), **{
            name: part(None if batch is None else getattr(batch, name), *kind) for name, kind in kinds.items()})

    def average(self, values: dict[str, float]) -> dict[str, float]:
        """Mean of named numbers over the ranks."""
        flat = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(flat, group=self._words)
        return dict(zip(values, (flat / self.size).tolist(), strict=True))


class LeadingAgent(Agent):
    """The agent of rank 0: acts as any other, and learns with the help of the other ranks."""

    def __init__(self, obs_space: ObsSpace, act_space: ActSpace, config: Config, *, team: Team):
        super().__init__(obs_space, act_space, config, device=team.device)
        self._team, self._equal = team, False
        team.tell(Word.BUILD)
        team.describe(described(obs_space, act_space))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        self._equal = False

    def draw_from(self, replay: Replay, batch_size: int, length: int) -> bool:
        """No: rank 0 divides every batch among the ranks, outside graphs."""
        return False

    def update(self, batch: Batch) -> None:
        """One update on a batch (T, B, ...); every rank takes a share."""
        if not self._equal:
            self._team.connect(self.learner)
            self._team.tell(Word.TAKE)
            self._team.equalize(self, self.config.seed)
            self._equal = True
        shape = batch.reward.shape
        self._team.tell(Word.UPDATE, *shape)
        super().update(self._team.share(self, *shape, batch))

    def read_metrics_sync(self) -> dict[str, float]:
        """Means of the metrics since the last call, over all ranks."""
        values = super().read_metrics_sync()
        if values:
            self._team.tell(Word.READ)
            values = self._team.average(values)
        return values


def follow(config: Config, team: Team) -> None:
    """Other ranks: do what rank 0 says until it says stop. Only rank 0 answers signals."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    agent = None
    while True:
        word, numbers = team.hear()
        if word == Word.STOP:
            return
        if word == Word.BUILD:
            agent = Agent(*spaces(team.describe(None)), config, device=team.device)
            team.connect(agent.learner)
        elif word == Word.TAKE:
            team.equalize(agent, config.seed)
        elif word == Word.UPDATE:
            agent.update(team.share(agent, *numbers[:2], None))
        else:
            team.average(agent.read_metrics_sync())


@contextmanager
def team(config: Config) -> Iterator[Team | None]:
    """The team that torchrun started, or None in a single process; at the end rank 0 stops the others."""
    if dist_size() <= 1:
        yield None
        return
    together = Team(config)
    try:
        yield together
    finally:
        if together.rank == 0:
            with suppress(RuntimeError):  # they are gone already
                together.tell(Word.STOP)
        dist.destroy_process_group()


def dist_size() -> int:
    return _number("WORLD_SIZE", 1)


def _number(name: str, default: int) -> int:
    """What torchrun said in an environment variable, `default` in a process that it did not start."""
    text = os.environ.get(name) or str(default)
    if not re.fullmatch("[0-9]{1,5}", text):
        raise ConfigError(f"the environment variable {name} must be a number that torchrun sets, got {text!r:.40}; "
                          "start with torchrun, or unset it")
    return int(text)


def _bytes(x: Tensor) -> Tensor:
    """bool as uint8, the same memory: not every backend carries bool."""
    return x.view(torch.uint8) if x.dtype is torch.bool else x
