"""The protocol of a run: what is due at which step, by exact integer arithmetic, and the name of its method."""

from dataclasses import dataclass
from fractions import Fraction

from hdfast.config import Config, EnvConfig, RunConfig
from hdfast.tasks import TASK_EXCEPTIONS

ENDLESS = 27_000  # steps


@dataclass(frozen=True)
class Schedule:
    """The official schedule. A step is one record of one environment; prefill and reset records count."""

    steps: int
    prefill: int
    updates_per_step: Fraction

    @classmethod
    def of(cls, run: RunConfig) -> "Schedule":
        """The schedule of a configuration; the train ratio is the decimal number as written."""
        return cls(run.steps, run.prefill, Fraction(repr(run.train_ratio)) / (run.batch_size * run.batch_length))

    def updates_due(self, step: int) -> int:
        """Updates that a run has made once `step` steps are done: floor((step - prefill) * train_ratio / (B * T))."""
        return max(0, step - self.prefill) * self.updates_per_step.numerator // self.updates_per_step.denominator

    def random_actions(self, step: int) -> bool:
        """Whether the action after `step` counted steps is a uniformly random one, without updates after it."""
        return step < self.prefill


def frames_per_step(config: Config) -> int:
    """Environment frames per step: how often an action is played."""
    return config.env.frame_skip if config.task.startswith("atari_") else config.env.action_repeat


def longest_episode(config: Config) -> int:
    """Steps after which an evaluation leaves an episode that does not end: in Atari the limit that ends it in training,
    too; elsewhere env.max_episode_steps, or if there is none, those of the official Atari limit."""
    env = config.env
    atari = config.task.startswith("atari_")
    return env.max_episode_frames // env.frame_skip if atari else env.max_episode_steps or ENDLESS


def comparable(config: Config, cut: int) -> bool:
    """Whether scores may be held against those of Atari 100K: the same episodes, of which `cut` met a time limit."""
    official = EnvConfig(**{name.removeprefix("env."): value for name, value
                            in TASK_EXCEPTIONS.get(config.task, {}).items() if name.startswith("env.")})
    same = ["frame_skip", "noop_max", "sticky", "full_action_space", *(["max_episode_frames"] if cut else [])]
    return all(getattr(config.env, name) == getattr(official, name) for name in same)


def crossed(every: int, before: int, now: int) -> bool:
    """Whether a multiple of `every` is in (before, now]; never for 0."""
    return every > 0 and now // every > before // every


def method_name(config: Config) -> str:
    """'HarmonyDream', 'HarmonyDream (plain)', 'DreamerV3', 'DreamerV3 (reward x100)', ...: how the world model's
    losses are balanced. Sizes, protocol and everything else are not in the name."""
    loss, fixed = config.loss, config.harmony.mode == "off"
    notes = ["plain"] if config.harmony.mode == "plain" else []
    if not loss.reward_grad:
        notes.append("observation only")
    for name, scale in (("reward", loss.reward_scale), ("image", loss.image_scale)) if fixed else ():
        if scale != 1:
            notes.append("reward only" if (name, scale) == ("image", 0) else f"{name} x{scale:g}")
    return ("DreamerV3" if fixed else "HarmonyDream") + (f" ({', '.join(notes)})" if notes else "")
