"""Five updates on fixed batches, by one process or by the ranks of torchrun, each on its share; writes the result.

    python data_parallel_case.py OUT.npz KIND
    python -m torch.distributed.run --nproc_per_node 2 data_parallel_case.py OUT.npz KIND
"""

import os
import sys

import numpy as np
import torch

from agent_case import random_obs
from hdfast import distributed
from hdfast.agent import Agent
from hdfast.config import Config
from hdfast.learner import Uniforms
from hdfast.replay.ring import Batch
from hdfast.spaces import ActSpace, ObsSpace
from kinds import KINDS

T, B, UPDATES = 8, 6, 5
CONFIG = Config.preset("debug", task="dummy", device="cpu", **{
    "run.batch_size": B, "run.batch_length": T, "behavior.return_floor": 1e-3})


def make_batch(seed: int, space: ObsSpace, actions: ActSpace) -> Batch:
    rng = np.random.default_rng(seed)
    first = rng.random((T, B)) < 0.2
    first[0] = True
    frames = {name: torch.from_numpy(x) for name, x in random_obs(rng, space, 100).items()}
    fields = (rng.integers(0, 100, (T, B)), actions.encode(actions.random(rng, T * B)).reshape(T, B, -1),
              rng.normal(0, 3, (T, B)).astype(np.float32), first, np.zeros((T, B), bool), rng.random((T, B)) < 0.1)
    return Batch(frames, *map(torch.from_numpy, fields))


def columns(u: Uniforms, part: slice) -> Uniforms:
    """The uniforms of some of the batch's sequences; starts are numbered t * B + b."""
    def starts(x):
        return x.unflatten(1, (T, B))[:, :, part].flatten(1, 2)

    return Uniforms(u.post[:, part], starts(u.prior), starts(u.action))


def learn(team: distributed.Team | None, kind: str) -> tuple[Agent, dict[str, np.ndarray]]:
    agent = Agent(*KINDS[kind], CONFIG)
    torch.manual_seed(1)
    for head in (agent.learner.world_model.reward, agent.learner.actor_critic.critic):
        for p in head.parameters():
            p.data += 0.1 * torch.randn_like(p)  # heads that start at zero give no returns, and the percentiles matter
    part = slice(None)
    if team:
        part = slice(team.rank * B // team.size, (team.rank + 1) * B // team.size)
        team.connect(agent.learner)
        if team.rank:  # what rank 0 has must win
            agent.learner.model_opt.param.normal_()
        team.equalize(agent, CONFIG.seed)
    metrics = {}
    for update in range(UPDATES):
        batch = make_batch(update, *KINDS[kind])
        u = Uniforms.draw(T, B, CONFIG.behavior.horizon, CONFIG.model.stoch, agent.learner.actor_critic.actor,
                          generator=torch.Generator().manual_seed(update))
        shared = team.share(agent, T, B, None if team.rank else batch) if team else batch
        metrics = agent.learner.update(agent.sequences(shared), columns(u, part))
    values = {name: float(x) for name, x in metrics.items()}
    if team:
        values = team.average(values)
    return agent, {"names": np.array(list(values)), "metrics": np.array(list(values.values()))}


def main(out: str, kind: str) -> None:
    agent, found = learn(distributed.Team(CONFIG) if distributed.dist_size() > 1 else None, kind)
    found |= {f"state/{name}": x.numpy() for name, x in agent.learner.state_dict().items()}
    np.savez(out.replace("RANK", os.environ.get("RANK", "alone")), **found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
