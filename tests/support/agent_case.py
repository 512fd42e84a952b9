"""A small agent, and steps and batches for it."""

import numpy as np
import torch

from hdfast.agent import Agent
from hdfast.config import Config
from hdfast.cuda_graph import Graphs
from hdfast.envs import Step
from hdfast.replay.ring import Batch
from hdfast.spaces import ActSpace, ObsSpace
from kinds import IMAGE, KINDS

ACTIONS = KINDS["image"][1]


def make_agent(space: ObsSpace = IMAGE, actions: ActSpace = ACTIONS, **overrides) -> Agent:
    return Agent(space, actions, Config.preset("debug", task="dummy", **overrides))


def captured(agent: Agent) -> Agent:
    """The agent with graphs, as on CUDA; `tape.record` plays their part."""
    graphs = Graphs(torch.device("cpu"), True)
    agent.build_steps(graphs, graphs)
    agent.learner._taped = agent.learner._update
    return agent


def copied(agent: Agent) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in agent.state_dict().items()}


def unequal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> set[str]:
    """Names of the tensors in which two states differ."""
    return one.keys() ^ two.keys() | {name for name in one.keys() & two.keys() if not torch.equal(one[name], two[name])}


def make_step(n: int, space: ObsSpace = IMAGE, first: bool = False, seed: int = 0) -> Step:
    rng, flags = np.random.default_rng(seed), np.zeros(n, bool)
    obs = random_obs(rng, space, n)
    return Step(obs=obs, reward=np.zeros(n, np.float32), is_first=flags | first, is_last=flags, is_terminal=flags)


def random_obs(rng: np.random.Generator, space: ObsSpace, n: int) -> dict[str, np.ndarray]:
    return {part.name: rng.integers(0, 256, (n, *part.shape)).astype(part.dtype) for part in space.parts}


def make_batch(length: int = 8, batch: int = 4, space: ObsSpace = IMAGE, seed: int = 0,
               actions: ActSpace = ACTIONS) -> Batch:
    rng = np.random.default_rng(seed)
    first, last = rng.random((length, batch)) < 0.1, rng.random((length, batch)) < 0.1
    first[0] = True
    action = actions.random(rng, length * batch).reshape(length, batch, *actions.shape)
    code = np.where(last[..., None], 0, actions.encode(action)).astype(np.float32)
    frames = {name: torch.from_numpy(x) for name, x in random_obs(rng, space, length * batch).items()}
    reward = rng.normal(size=(length, batch)).astype(np.float32)
    return Batch(frames, torch.arange(length * batch).view(length, batch),
                 *(torch.from_numpy(x) for x in (code, reward, first, last, last)))
