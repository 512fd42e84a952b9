"""Evaluation: whole episodes in fresh environments, with the policy's own samples, as the official protocol has it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hdfast import scores
from hdfast.agent import Agent
from hdfast.config import RESUME_MAY_CHANGE, Config, differences
from hdfast.envs import Step, VectorEnv, make_envs
from hdfast.errors import ConfigError, EnvError, RunError
from hdfast.machine import pick_device, prepare, resolve_precision
from hdfast.protocol import comparable, longest_episode
from hdfast.run import checkpoint, fields
from hdfast.run.directory import load_config
from hdfast.run.pictures import save_animation
from hdfast.run.progress import points
from hdfast.run.stopping import Stopping
from hdfast.spaces import ActSpace, ObsSpace, spaces
from hdfast.tasks import task_of

VIDEO_FRAMES = 1000
"""Longest policy video in frames: over a minute of an Atari game at 15 actions per second."""


@dataclass(frozen=True)
class Evaluation:
    """Scores (sums of rewards) and lengths (actions) of whole episodes, and how many of them a time limit cut;
    human_normalized is 0 for random play, 1 for human, None if the task has no reference scores or its episodes are not
    those of Atari 100K; success is the share of episodes with a successful step, None if the environment says nothing
    of it. If asked for, video is the file written, frames (T, h, w, c) uint8 the first episode."""

    task: str
    scores: list[float]
    lengths: list[int]
    cut: int
    score_mean: float
    score_std: float
    human_normalized: float | None
    success: float | None
    video: Path | None
    frames: np.ndarray | None = field(default=None, repr=False)


def evaluate(agent: "Agent | RandomAgent", config: Config | None = None, *, episodes: int, seed: int = 1,
             num_envs: int | None = None, video: Path | str | None = None, record: bool = False,
             envs: "VectorEnv | Callable[..., Any] | None" = None, stop: Stopping | None = None,
             failed: Callable[[EnvError], None] | None = None) -> Evaluation:
    """Play `episodes` whole episodes and return their scores; the agent's own random state does not change.

    The task and its environments are those of the agent's own configuration, or of `config` (a RandomAgent needs one).
    Rounds of `num_envs` parallel environments (run.eval_envs by default) play exactly one episode each: taking the
    first finishers instead would favor short episodes. The policy samples, as in training. `seed` fixes environments
    and samples. `video` (.gif or .mp4) shows the first episode of environment 0, its image or what it draws of itself;
    `record` keeps the frames, if there are any. `envs` makes a Gymnasium environment, or is a VectorEnv, which stays
    open. `stop` raises Stopped before any step and while waiting for environments. If an environment fails, `failed`
    gets the error and the round is played again; without `failed`, or if it raises, the evaluation ends. Raises
    ConfigError for another task than the agent's, for other spaces, and for a video of what nobody draws.
    """
    trained = getattr(agent, "config", config)
    config = config or trained
    if config is None:
        raise TypeError(f"a {type(agent).__name__} has no configuration of its own; pass one as the second argument")
    if envs is not None and not hasattr(envs, "num_envs"):
        config, envs = replace(config, task=task_of(envs)), None
    if config.task != trained.task:
        raise ConfigError(f"the agent was trained on {trained.task}, not on {config.task}; evaluate it on its own "
                          "task, or give it other environments on purpose: envs=hdfast.envs.from_gymnasium(make)")
    env_seed, act_seed = (int(s) >> 1 for s in np.random.SeedSequence([seed, 1]).generate_state(2))
    generator = torch.Generator(agent.device).manual_seed(act_seed)
    chosen = envs or make_envs(config.task, config.env, num_envs=min(num_envs or config.run.eval_envs, episodes),
                               seed=env_seed)
    count, limit, cut = chosen.num_envs, longest_episode(config), 0
    found_scores: list[float] = []
    found_lengths: list[int] = []
    successes: list[bool] = []
    film = _Film(needed=video is not None) if record or video is not None else None
    try:
        if (chosen.obs_space, chosen.act_space) != (agent.obs_space, agent.act_space):
            raise ConfigError(f"the agent was trained on {agent.obs_space} and {agent.act_space}, but these "
                              f"environments have {chosen.obs_space} and {chosen.act_space}; give it those it was "
                              "trained in")
        while len(found_scores) < episodes:
            wanted = min(count, episodes - len(found_scores))
            shown = film if not found_scores else None
            try:
                score, length, over, success = _round(agent, chosen, wanted, limit, generator, shown,
                                                      stop or Stopping())
            except EnvError as error:
                if failed is None:
                    raise
                failed(error)
                if shown is not None:
                    shown.frames.clear()
                continue
            found_scores += score[:wanted].tolist()
            found_lengths += length[:wanted].tolist()
            cut += int(over[:wanted].sum())
            successes += [] if success is None else success[:wanted].tolist()
    finally:
        if envs is None:
            chosen.close()
    kept = np.stack(film.frames) if film and film.frames else None
    mean = float(np.mean(found_scores))
    return Evaluation(config.task, found_scores, found_lengths, cut, mean, float(np.std(found_scores)),
                      scores.human_normalized(config.task, mean) if comparable(config, cut) else None,
                      float(np.mean(successes)) if successes else None,
                      None if video is None else save_animation(Path(video), kept), kept if record else None)


class RandomAgent:
    """Plays uniformly random actions: what `evaluate` takes in an agent's place."""

    def __init__(self, obs_space: ObsSpace, act_space: ActSpace):
        self.obs_space, self.act_space, self.device = obs_space, act_space, torch.device("cpu")

    def init_policy(self, num_envs: int) -> None:
        """There is no state to begin with."""

    def act(self, record: Step, state: None, generator: torch.Generator) -> tuple[np.ndarray, None]:
        """Actions (N, ...) of the generator's choice."""
        seed = torch.randint(2**31, (), generator=generator).item()
        return self.act_space.random(np.random.default_rng(int(seed)), len(record.reward)), None


def against_random(task: str, scores_: Sequence[float], random: Sequence[float]) -> str:
    """One paragraph for a newcomer: the last evaluation against random play, and what the full preset reaches.

    The interval is that of the difference of two means by the normal approximation.
    """
    a, b = (np.asarray(x, float) for x in (scores_, random))
    better = float(a.mean() - b.mean())
    reach = 1.96 * float(np.sqrt(a.var() / len(a) + b.var() / len(b)))
    told = (f"the agent's {len(a)} episodes average {points(a.mean())}, random play's {len(b)} average "
            f"{points(b.mean())}: ")
    if better - reach > 0:
        told += f"better by {points(better)} (95% interval {points(better - reach)} to {points(better + reach)})"
    else:
        told += "no sign yet that it plays better"
    row = scores.reference(task)
    return told + ("" if row is None else (
        f". The full preset (--configs atari100k, on a GPU) is published at "
        f"{points(row['harmonydream']['final_mean'])} after 400K frames, human play at {points(row['human'])}"))


class Running:
    """Scores and lengths of the current training episodes in N environments."""

    def __init__(self, num_envs: int):
        self._score, self._length = np.zeros(num_envs), np.zeros(num_envs, np.int64)

    def add(self, record: Step) -> list[tuple[float, int]]:
        """Count in one record per environment; returns score and length, in actions, of the episodes that end."""
        self._score = np.where(record.is_first, 0, self._score + record.reward)
        self._length = np.where(record.is_first, 0, self._length + 1)
        return [(float(self._score[i]), int(self._length[i])) for i in np.flatnonzero(record.is_last)]


class _Film:
    """Frames of environment 0: its first image, or what it draws of itself. ConfigError if they are `needed` and there
    are none."""

    def __init__(self, needed: bool):
        self.needed, self.frames = needed, []

    def add(self, step: Step, envs: VectorEnv) -> None:
        """One frame more, up to VIDEO_FRAMES."""
        if len(self.frames) == VIDEO_FRAMES:
            return
        if images := envs.obs_space.images:
            self.frames.append(step.obs[images[0].name][0].copy())
            return
        drawn = getattr(envs, "picture", lambda: None)()
        if drawn is not None:
            self.frames.append(drawn)
        elif self.needed:
            raise ConfigError("the task has no images, and its environment draws none of itself; leave the video out, "
                              "or let a Gymnasium environment draw: --env.kwargs '{\"render_mode\": \"rgb_array\"}'")


def _round(agent: "Agent | RandomAgent", envs: VectorEnv, wanted: int, limit: int, generator: torch.Generator,
           film: "_Film | None", stop: Stopping) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """One episode in each of the first `wanted` environments -> score (N,) float64, length (N,) int64, cut (N,) bool,
    success (N,) bool if it is known.

    The others, and those that are done, continue with zeros as actions and do not count. An environment without a time
    limit is left after `limit` steps.
    """
    with stop.interruptible():
        step, state = envs.reset(), agent.init_policy(envs.num_envs)
    playing = np.arange(envs.num_envs) < wanted
    score, length = np.zeros(envs.num_envs), np.full(envs.num_envs, -1)  # an episode has one record more than actions
    cut, success = np.zeros(envs.num_envs, bool), np.zeros(envs.num_envs, bool)
    while True:
        score += np.where(playing, step.reward, 0)
        length += playing
        if film is not None and playing[0]:
            film.add(step, envs)
        success |= playing & (False if step.is_success is None else step.is_success)
        cut |= playing & (False if step.is_cut is None else step.is_cut)
        cut |= playing & ~step.is_last & (length >= limit)
        playing = playing & ~step.is_last & (length < limit)
        if not playing.any():
            return score, length, cut, None if step.is_success is None else success
        stop.check()
        action, state = agent.act(step, state, generator)
        with stop.interruptible():
            step = envs.step(np.where(playing.reshape(-1, *(1 for _ in action.shape[1:])), action, 0))


def evaluate_run(logdir: Path | str, *, episodes: int, seed: int, envs: int = 0, video: Path | str | None = None,
                 device: str = "auto", backend: str = "auto", deterministic: bool = False, checkpoint: str = "latest",
                 random: bool = False) -> Evaluation:
    """Evaluate the agent of a run, rebuilt from its config.json and a checkpoint, the latest one or the one with this
    tag; with `random`, uniformly random actions in the same environments. `envs` 0 takes the run's own number.

    Prepares the process by the run's settings, with these `backend` and `deterministic`.
    Raises ConfigError if `logdir` is no run directory, RunError if it has no usable checkpoint.
    """
    config, chosen = load_config(Path(logdir)), pick_device(device)
    # A TF32 run plays anywhere: without CUDA auto is fp32.
    precision = "auto" if config.precision == "tf32" else config.precision
    prepare(replace(config, backend=backend, deterministic=deterministic, precision=precision), chosen)
    agent = load_agent(logdir, str(chosen), tag=None if checkpoint == "latest" else checkpoint)
    player = RandomAgent(agent.obs_space, agent.act_space) if random else agent
    return evaluate(player, config, episodes=episodes, seed=seed, num_envs=envs or None, video=video)


def load_agent(logdir: Path | str, device: str = "auto", *, tag: str | None = None) -> Agent:
    """The agent of a run, rebuilt from its config.json and latest checkpoint, or from the one tagged `tag` ('best').

    Raises ConfigError if `logdir` is no run directory, RunError if it has no usable checkpoint.
    """
    logdir = Path(logdir)
    config = load_config(logdir)
    latest = checkpoint.latest(logdir / "ckpt", tag=tag)
    if latest is None and tag:
        raise RunError(f"{logdir} has no checkpoint '{tag}' yet: its evaluations write it; take the latest one")
    if latest is None:
        raise RunError(f"{logdir} has no checkpoint yet; let `hdfast train` run until its first one (run.save_every "
                       f"{config.run.save_every} steps)")
    if saved := latest.manifest.get("config"):
        if said := fields.wrong(latest.manifest, {"config": fields.OBJECT}):
            raise RunError(f"{latest.path / checkpoint.MANIFEST}: {said}; take another checkpoint")
        found = differences(Config.from_flat(saved), config, ignore=RESUME_MAY_CHANGE)
        if found:
            listed = ", ".join(f"{name} (there {old}, here {new})" for name, (old, new) in found.items())
            raise RunError(f"{logdir / 'config.json'} is damaged or was changed: checkpoint {latest.path.name} was "
                           f"trained with other settings: {listed}; restore the file")
    obs_space, act_space = spaces(latest.manifest)
    chosen = pick_device(device)
    if config.precision == "bf16":
        resolve_precision("bf16", chosen)  # raises if the device lacks it
    agent = Agent(obs_space, act_space, config, device=chosen)
    agent.load_state_dict(latest.tensors)
    return agent
