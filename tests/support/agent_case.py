"""A small agent, and steps and batches for it."""

import numpy as np
import torch

from hdfast.agent import Agent
from hdfast.config import Config
from hdfast.cuda_graph import Graphs
from hdfast.envs import Step
from hdfast.replay.ring import Batch
from hdfast.spaces import ActSpace, ObsSpace

IMAGE = ObsSpace((16, 16, 3), "uint8")
VECTOR = ObsSpace((5,), "float32")
ACTIONS = 4


def make_agent(space: ObsSpace = IMAGE, **overrides) -> Agent:
    return Agent(space, ActSpace(ACTIONS), Config.preset("debug", task="dummy", **overrides))


def captured(agent: Agent) -> Agent:
    """The agent with graphs, as on CUDA; `tape.record` plays their part."""
    graphs = Graphs(torch.device("cpu"), True)
    agent.build_steps(graphs, graphs)
    return agent


def copied(agent: Agent) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in agent.state_dict().items()}


def unequal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> set[str]:
    """Names of the tensors in which two states differ."""
    return one.keys() ^ two.keys() | {name for name in one.keys() & two.keys() if not torch.equal(one[name], two[name])}


def make_step(n: int, space: ObsSpace = IMAGE, first: bool = False, seed: int = 0) -> Step:
    rng, flags = np.random.default_rng(seed), np.zeros(n, bool)
    obs = rng.integers(0, 256, (n, *space.shape)).astype(space.dtype)
    return Step(obs=obs, reward=np.zeros(n, np.float32), is_first=flags | first, is_last=flags, is_terminal=flags)


def make_batch(length: int = 8, batch: int = 4, space: ObsSpace = IMAGE, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    first, last = rng.random((length, batch)) < 0.1, rng.random((length, batch)) < 0.1
    first[0] = True
    action = np.where(last, -1, rng.integers(0, ACTIONS, (length, batch)))
    frames = rng.integers(0, 256, (length * batch, *space.shape)).astype(space.dtype)
    reward = rng.normal(size=(length, batch)).astype(np.float32)
    return Batch(torch.from_numpy(frames), torch.arange(length * batch).view(length, batch),
                 *(torch.from_numpy(x) for x in (action, reward, first, last, last)))
