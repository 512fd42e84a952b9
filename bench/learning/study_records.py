"""From a finished run of the study to a record: its scores, its losses over time, its errors on held-out episodes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from study_arms import TERMS

import hdfast
from hdfast.agent import Agent
from hdfast.config import Config
from hdfast.envs import make_envs
from hdfast.model.world_model import Sequences
from hdfast.ops import twohot_mean
from hdfast.protocol import method_name
from hdfast.run.durable import read_bounded
from hdfast.run.jsonl import is_number, read_rows

SPANS = 20  # points of a curve over time
DIGITS = 4  # that a number keeps
HELD_OUT = dict(num_envs=64, records=60, seed=2**31 - 7)  # the seed is no training seed's and no evaluation's


def record(arm: str, folder: Path, facts: dict[str, Any], command: str) -> dict[str, Any]:
    """A finished run as JSON types: `xs`, `ys` are agent steps and mean scores of its evaluations.

    `at` are the ends of up to SPANS equal spans of steps; `loss` and `weighted` the mean of each loss in nats (image:
    squared error) in them, alone and times its weight; `facts` bring `cpu_seconds` and `held_out`.
    """
    config = Config.from_json(read_bounded(folder / "config.json").decode())
    start = json.loads(read_bounded(folder / "meta.json"))["starts"][-1]
    evaluations = [row for row in read_rows(folder / "eval.jsonl") if is_number(row.get("eval/score"))]
    at, loss, weighted = curves(read_rows(folder / "metrics.jsonl"), config)
    return {
        "task": config.task, "method": method_name(config) + ("" if config.env.background != "none" else
                                                              ", no background"),
        "seed": str(config.seed), "xs": [row["agent_step"] for row in evaluations],
        "ys": [short(row["eval/score"]) for row in evaluations], "arm": arm, "background": config.env.background,
        "steps": config.run.steps, "at": at, "loss": loss, "weighted": weighted,
        **{name: {k: short(v) for k, v in value.items()} if isinstance(value, dict) else short(value)
           for name, value in facts.items()},
        "command": command, "commit": start.get("git"), "processor": start.get("cpu"),
    }


def curves(rows: list[dict[str, Any]], config: Config) -> tuple[list[int], dict[str, list], dict[str, list]]:
    """Rows of metrics.jsonl -> ends of spans in steps, and by term the mean loss and weighted loss in each span.

    The KL counts as one term with the fixed or harmonized weight that it has in the total; what harmony adds to
    the weighted losses, log(1 + e^s) or s, moves no network and is left out.
    """
    rows = [row for row in rows if is_number(row.get("train/loss/rew"))]
    steps = np.array([row["agent_step"] for row in rows], float)
    values = {name: np.array([row[f"train/loss/{name}"] for row in rows], float)
              for name in ("rew", "image", "dyn", "rep", "con")}
    scale, harmony = config.loss, config.harmony.mode != "off"
    kl = scale.dyn_scale * values["dyn"] + scale.rep_scale * values["rep"]
    if harmony:
        kl = kl / (scale.dyn_scale + scale.rep_scale)
    loss = dict(zip(TERMS, (values["rew"], values["image"], kl, values["con"]), strict=True))
    fixed = dict(zip(TERMS, (scale.reward_scale, scale.image_scale, 1.0, scale.cont_scale), strict=True))
    if harmony:
        fixed |= {"continue": 1.0} | {term: np.array([row[f"train/harmony/{name}_coeff"] for row in rows], float)
                                      for term, name in zip(TERMS, ("rew", "image", "kl"), strict=False)}
    edges = np.linspace(0, config.run.steps, SPANS + 1)
    place = np.clip(np.searchsorted(edges, steps) - 1, 0, SPANS - 1)
    filled = np.unique(place)

    def spans(values: np.ndarray) -> list[float]:
        return [short(values[place == i].mean()) for i in filled]

    return ([round(edge) for edge in edges[filled + 1]], {term: spans(loss[term]) for term in TERMS},
            {term: spans(loss[term] * fixed[term]) for term in TERMS})


@torch.no_grad()
def reward_error(folder: Path) -> dict[str, float]:
    """How well the finished agent's world model knows the rewards of random play that it never saw.

    `loss`: nats a record, as in training, where the data of a better policy flatter. Of the last records of episodes,
    the only ones with a reward: `unexplained`, the squared error of the expected reward over the rewards' variance, 1
    for a model that knows how often the ball is caught and not where it is; `right`, the share whose sign is right,
    mean of those caught and those missed, 0.5 for such a model.
    """
    agent = hdfast.load(folder, device="cpu")
    data = random_play(agent, **HELD_OUT)
    u = torch.rand(*data.reward.shape, agent.config.model.stoch, generator=torch.Generator().manual_seed(0))
    out = agent.learner.world_model(data, u)
    last = data.cont == 0
    reward, expected = data.reward[last], twohot_mean(out.reward_logit)[last]
    right = [((expected > 0) == (reward > 0))[reward == found].float().mean() for found in (-1, 1)]
    return {"loss": float(out.losses["reward"].mean()), "right": float(sum(right) / 2),
            "unexplained": float((expected - reward).square().mean() / reward.var(correction=0))}


def random_play(agent: Agent, *, num_envs: int, records: int, seed: int) -> Sequences:
    """Records (records, num_envs, ...) of uniformly random actions in the agent's own kind of environment."""
    envs = make_envs(agent.config.task, agent.config.env, num_envs=num_envs, seed=seed)
    rng = np.random.default_rng(seed)
    steps, actions = [envs.reset()], [np.zeros(num_envs, np.int64)]
    while len(steps) < records:
        actions.append(envs.act_space.random(rng, num_envs))
        steps.append(envs.step(actions[-1]))
    envs.close()

    def stacked(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([getattr(step, name) for step in steps]))

    prev = torch.from_numpy(envs.act_space.encode(np.stack(actions)))
    prev[0] = 0
    images = torch.from_numpy(np.stack([step.image for step in steps]))
    return Sequences(agent.observation([images]), prev, stacked("reward"), 1 - stacked("is_terminal").float(),
                     stacked("is_first"))


def short(value: float) -> float:
    """The value with DIGITS significant digits."""
    return float(f"{value:.{DIGITS}g}")
