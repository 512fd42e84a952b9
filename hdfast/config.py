"""Configuration: frozen dataclasses, the presets, and the checks that hold between fields.

Every field is a command-line flag (`--run.steps 1000`), and its `help` is what `--help` prints. The default
of every field is the official `atari100k` value; docs/parity.md says where it comes from. A Config that
exists is valid: every way to build one runs the same checks. Standard library only.
"""

import dataclasses
import functools
import json
import math
import numbers
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

from hdfast.errors import ConfigError, RunError, nearest
from hdfast.paths import expanded
from hdfast.presets import OFFICIAL, PRESETS
from hdfast.tasks import TASK_EXCEPTIONS, canonical_task, only_for

IMAGE_SIDES = (8, 16, 32, 64, 128)  # of the square images that the networks take


def opt(default: Any, help: str, *, low: float | None = None, high: float | None = None,
        choices: tuple[Any, ...] | None = None, bare: str | None = None) -> Any:
    """Dataclass field with help text, inclusive bounds, allowed values, and the text that a flag alone means."""
    return field(default=default, metadata={"help": help, "low": low, "high": high, "choices": choices, "bare": bare})


@dataclass(frozen=True)
class EnvConfig:
    """Environments: which library plays, how many, and the protocol of an episode."""

    backend: str = opt("auto", "what plays Atari, dmc_ and metaworld_ tasks: envpool (C++ threads), ale (Atari by "
                       "ale-py), mujoco (the others, by their packages), or auto: envpool where it is installed",
                       choices=("auto", "envpool", "ale", "mujoco"))
    num_envs: int = opt(1, "parallel training environments", low=1, high=4096)
    size: int = opt(64, "side of the square image in pixels", choices=IMAGE_SIDES)
    frame_skip: int = opt(4, "emulator frames per action (action repeat) in Atari", low=1, high=64)
    noop_max: int = opt(30, "random no-op frames at an episode's start: 1 to this many; with ale 0 to one less",
                        low=1, high=1000)
    max_episode_frames: int = opt(108_000, "emulator frames after which an Atari episode is cut, no-ops not counted",
                                  low=1, high=2**31 - 1)
    sticky: float = opt(0.0, "probability that the emulator repeats the previous action", low=0.0, high=1.0)
    full_action_space: bool = opt(False, "all 18 actions instead of the game's minimal set")
    grayscale: bool = opt(False, "one gray channel instead of RGB")
    background: str = opt("none", "behind the images: noise, a texture new every record; moving, one that drifts; "
                          "videos:FOLDER, films; or none")
    terminal_on_limit: bool = opt(True, "treat a time-limit end as a true terminal (as the official code)")
    num_threads: int = opt(0, "environment threads; 0: one per environment up to the cores", low=0, high=1024)
    timeout: float = opt(60.0, "seconds after which an environment that does not answer has failed; 0: never", low=0.0)
    workers: int = opt(0, "processes that step Gymnasium environments, and those of the backend mujoco, in parallel; "
                       "0: this one, in turn; one for the backend mujoco", low=0, high=1024)
    action_repeat: int = opt(1, "times that an environment of a gym_, env_ or dmc_ task plays an action",
                             low=1, high=1000)
    max_episode_steps: int = opt(0, "steps after which an episode of a gym_, env_, dmc_ or metaworld_ task is cut; 0: "
                                 "the environment's own limit", low=0, high=2**31 - 1)
    observe: str = opt("image", "what is seen of a dmc_ or metaworld_ task: its image, its state, or both",
                       choices=("image", "state", "both"))
    camera: int = opt(-1, "camera of the images of a dmc_ or metaworld_ task; -1: the usual one", low=-1, high=99)
    kwargs: str = opt("{}", "arguments of the environment's constructor as a JSON object, as in '{\"level\": 3}'")
    retries: int = opt(0, "times that a start replaces environments that fail; then the run saves and stops",
                       low=0, high=10**9)


@dataclass(frozen=True)
class ReplayConfig:
    """The replay: how many steps are kept, and where."""

    capacity: int = opt(1_000_000, "environment steps kept; the oldest go first", low=64, high=10**12)
    device: str = opt("auto", "where the steps are kept: cuda is the learner's GPU, cpu host memory, auto the GPU if "
                      "they take at most half of its free memory", choices=("auto", "cpu", "cuda"))


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the networks."""

    deter: int = opt(512, "size of the deterministic GRU state", low=1, high=65536)
    units: int = opt(512, "width of every hidden layer", low=1, high=65536)
    stoch: int = opt(32, "number of categorical latents", low=1, high=1024)
    classes: int = opt(32, "classes per latent", low=2, high=1024)
    cnn_depth: int = opt(32, "channels of the first encoder stage; doubles per stage", low=1, high=1024)
    mlp_layers: int = opt(2, "hidden layers of every head", low=1, high=16)
    vector_layers: int = opt(0, "hidden layers of encoder and decoder of vectors; 0: mlp_layers", low=0, high=16)
    vector_units: int = opt(0, "width of these layers; 0: units", low=0, high=65536)
    bins: int = opt(255, "two-hot bins of reward head and critic, over symlog -20..20; odd", low=3, high=65535)
    unimix: float = opt(0.01, "share of the uniform distribution in latents and actions", low=0.0, high=0.5)
    actor_outscale: float = opt(1.0, "scale of the actor's first output weights; 0: it begins with random play",
                                low=0.0, high=10.0)


@dataclass(frozen=True)
class HarmonyConfig:
    """Learned weights of the world model's losses."""

    mode: str = opt("rectified", "rectified: the method; plain: the paper's Eq. 4; off: fixed DreamerV3 scales",
                    choices=("rectified", "plain", "off"))
    speed: float = opt(1.0, "how many times as fast as the model's other parameters the harmony scalars learn",
                       low=1e-3, high=1e3)
    parts: str = opt("image", "observations with a learned weight: image, a part of that name alone, as in the "
                     "official code; or all", choices=("image", "all"))


@dataclass(frozen=True)
class LossConfig:
    """Fixed weights of the world model's losses."""

    free_nats: float = opt(1.0, "KL below this many nats per step is not trained", low=0.0)
    dyn_scale: float = opt(0.5, "weight of the dynamics KL (with harmony: relative to rep_scale)", low=0.0)
    rep_scale: float = opt(0.1, "weight of the representation KL", low=0.0)
    image_scale: float = opt(1.0, "weight of the reconstruction loss of images when harmony is off", low=0.0)
    vector_scale: float = opt(1.0, "weight of the reconstruction loss of vectors when harmony is off", low=0.0)
    reward_scale: float = opt(1.0, "weight of the reward loss when harmony is off", low=0.0)
    cont_scale: float = opt(1.0, "weight of the continue loss", low=0.0)
    reward_grad: bool = opt(True, "the reward loss shapes the model's states, not only its own head")
    cont_grad: bool = opt(True, "the continue loss shapes the model's states, not only its own head")


@dataclass(frozen=True)
class BehaviorConfig:
    """Imagination, actor and critic."""

    horizon: int = opt(15, "imagined steps", low=1, high=1000)
    discount_horizon: float = opt(333.0, "gamma = 1 - 1 / discount_horizon", low=1.0)
    lam: float = opt(0.95, "lambda of the lambda returns", low=0.0, high=1.0)
    actor_gradient: str = opt("auto", "reinforce; dynamics: backpropagation through imagined states, for continuous "
                              "actions; auto: dynamics for these, else reinforce",
                              choices=("auto", "reinforce", "dynamics"))
    entropy: float = opt(3e-4, "weight of the actor's entropy bonus", low=0.0)
    slow_fraction: float = opt(0.02, "share of the critic mixed into the slow one per update", low=0.0, high=1.0)
    slow_reg: float = opt(1.0, "weight of the critic's regression to the slow critic", low=0.0)
    return_decay: float = opt(0.99, "decay of the return range's moving average", low=0.0, high=1.0)
    return_low: float = opt(5.0, "lower percentile of the return range", low=0.0, high=100.0)
    return_high: float = opt(95.0, "upper percentile of the return range", low=0.0, high=100.0)
    return_floor: float = opt(1.0, "smallest divisor of the advantage", low=1e-8)


@dataclass(frozen=True)
class OptimConfig:
    """Adam for the world model, the actor and the critic."""

    model_lr: float = opt(1e-4, "learning rate of the world model and the harmony scalars", low=0.0)
    model_eps: float = opt(1e-8, "Adam epsilon of the world model", low=0.0)
    model_clip: float = opt(1000.0, "global gradient norm of the world model", low=0.0)
    actor_lr: float = opt(3e-5, "learning rate of the actor", low=0.0)
    actor_eps: float = opt(1e-5, "Adam epsilon of the actor", low=0.0)
    actor_clip: float = opt(100.0, "global gradient norm of the actor", low=0.0)
    critic_lr: float = opt(3e-5, "learning rate of the critic", low=0.0)
    critic_eps: float = opt(1e-5, "Adam epsilon of the critic", low=0.0)
    critic_clip: float = opt(100.0, "global gradient norm of the critic", low=0.0)
    beta1: float = opt(0.9, "Adam's first moment decay", low=0.0, high=0.999999)
    beta2: float = opt(0.999, "Adam's second moment decay", low=0.0, high=0.9999999)


@dataclass(frozen=True)
class RunConfig:
    """How long a run is, its batches, and how often it evaluates, reports and saves."""

    steps: int = opt(101_000, "environment steps in all, prefill and resets included", low=1, high=10**12)
    prefill: int = opt(1100, "random-action steps before the first update", low=1, high=10**12)
    batch_size: int = opt(16, "sequences per batch", low=1, high=65536)
    batch_length: int = opt(64, "steps per sequence", low=2, high=65536)
    train_ratio: float = opt(1024.0, "replayed steps trained on per environment step", low=0.0)
    eval_every: int = opt(5000, "steps between evaluations; 0 evaluates only at the end", low=0, high=10**12)
    eval_episodes: int = opt(100, "episodes per evaluation", low=1, high=10**12)
    eval_envs: int = opt(100, "parallel evaluation environments, one episode each at a time", low=1, high=4096)
    eval_random: bool = opt(False, "before training, play the episodes of one evaluation with random actions, too")
    log_every: int = opt(500, "steps between log rows", low=1, high=10**12)
    save_every: int = opt(2500, "steps between checkpoints", low=1, high=10**12)
    video_every: int = opt(5000, "steps between open-loop prediction strips; 0: none", low=0, high=10**12)
    max_seconds: float = opt(0.0, "wall time after which a start saves and ends, to be continued; 0: no limit",
                             low=0.0)
    max_skipped: int = opt(10, "updates skipped because of numbers that are not finite, since a log row without any, "
                           "after which the run stops", low=1, high=10**12)
    threads: int = opt(0, "torch CPU threads; 0 leaves torch's choice", low=0, high=1024)


@dataclass(frozen=True)
class Config:
    """Every setting of a run. Build it with `preset`, or from dotted names with `from_flat`."""

    task: str = opt("atari_pong", "atari_GAME (also Pong-v5, ALE/Pong-v5, pong), dmc_DOMAIN_TASK, metaworld_NAME, "
                    "gym_ID, env_MODULE:NAME (a class or function of yours), catch_HxW, pendulum, dummy")
    seed: int = opt(0, "seed of parameters, sampling, replay and environments", low=0, high=2**31 - 1)
    logdir: str = opt("runs/{task}/{seed}", "run directory; {task}, {seed} and {timestamp} expand")
    device: str = opt("auto", "auto, cpu, cuda or cuda:N")
    backend: str = opt("auto", "implementation of the ops", choices=("auto", "reference", "native"))
    cuda_graphs: bool = opt(True, "record acting and updates once and replay them: on the CPU as a list of ops")
    logger: str = opt("none", "also send the rows of metrics.jsonl to wandb or mlflow (pip install hdfast[wandb])",
                      choices=("none", "wandb", "mlflow"))
    deterministic: bool = opt(False, "equal bits from equal runs on CUDA, at some cost in time")
    precision: str = opt("auto", "operands of matmuls and convolutions: fp32, tf32 (CUDA only), bf16; auto: tf32 on "
                         "CUDA, fp32 on the CPU", choices=("auto", "fp32", "tf32", "bf16"))
    env: EnvConfig = field(default_factory=EnvConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    harmony: HarmonyConfig = field(default_factory=HarmonyConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    behavior: BehaviorConfig = field(default_factory=BehaviorConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        for name, value in self.flat().items():
            head, _, tail = name.rpartition(".")
            object.__setattr__(getattr(self, head) if head else self, tail, checked(name, value))
        check_together(self)

    @classmethod
    def preset(cls, *names: str, **overrides: Any) -> "Config":
        """Stack preset blocks, later wins, then `overrides`.

        A task's own exceptions (TASK_EXCEPTIONS) replace the defaults and what `atari100k` says; the other
        presets and `overrides` win over them. Override keys are flag names with dots
        (`**{"run.steps": 100}`) or top-level fields (`task="pong"`). Raises ConfigError for an unknown preset or
        setting, or a value out of bounds.
        """
        for name in names:
            if name not in PRESETS:
                raise ConfigError(f"unknown preset '{name}' (presets: {', '.join(PRESETS)})"
                                  f"{nearest(name, PRESETS)}")
        official: dict[str, Any] = {name: rule.default for name, rule in settings().items()
                                    if name not in MACHINE_SETTINGS}
        blocks = [official if name == OFFICIAL else PRESETS[name].values for name in names]
        named = {name: value for block in (*blocks, overrides) for name, value in block.items()}
        exceptions = TASK_EXCEPTIONS.get(canonical_task(named.get("task", cls.task)), {})
        flat = dict(exceptions)
        for block in blocks:
            flat |= block | (exceptions if block is official else {})
        return cls.from_flat(flat | overrides)

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> "Config":
        """Build a config from {dotted name: value}; settings not named keep their defaults.

        Raises ConfigError for an unknown name, a wrong type, a value out of bounds or values that clash.
        """
        groups: dict[str, dict[str, Any]] = defaultdict(dict)
        for name, value in flat.items():
            head, _, tail = name.rpartition(".")
            groups[head][tail] = checked(name, value)
        top, kinds = groups.pop("", {}), get_type_hints(cls)
        return cls(**top, **{name: kinds[name](**values) for name, values in groups.items()})

    def flat(self) -> dict[str, Any]:
        """{dotted name: value} of every setting, in declaration order."""
        out: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if dataclasses.is_dataclass(value):
                out |= {f"{f.name}.{g.name}": getattr(value, g.name) for g in dataclasses.fields(value)}
            else:
                out[f.name] = value
        return out

    def to_json(self) -> str:
        """The settings as indented JSON, one object per group: the text of a run's config.json."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """Read back what `to_json` wrote; a setting that the text lacks keeps its default.

        Raises RunError if the text is not such a JSON object, ConfigError for an unknown setting or a value
        that cannot be used.
        """
        try:
            data = json.loads(text, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise RunError(f"config.json does not hold valid JSON ({error}); restore the file, or start a new run "
                           "in another --logdir") from error
        if not isinstance(data, dict):
            raise RunError(f"config.json must hold a JSON object of settings, got a {type(data).__name__}; "
                           "restore the file, or start a new run in another --logdir")
        flat: dict[str, Any] = {}
        for name, value in data.items():
            flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
        return cls.from_flat(flat)

    def run_dir(self) -> Path:
        """`logdir` with {task}, {seed}, {timestamp} (the local time now) and a leading ~ expanded."""
        values = {"task": self.task.replace("/", "_"), "seed": str(self.seed),
                  "timestamp": time.strftime("%Y%m%dT%H%M%S")}
        return expanded(re.sub(r"{(\w+)}", lambda match: values[match[1]], self.logdir))


@functools.cache
def settings() -> Mapping[str, dataclasses.Field]:
    """{dotted name: dataclass field} of every setting, in declaration order."""
    out: dict[str, dataclasses.Field] = {}
    for f in dataclasses.fields(Config):
        kind: Any = f.type
        if dataclasses.is_dataclass(kind):
            out |= {f"{f.name}.{g.name}": g for g in dataclasses.fields(kind)}
        else:
            out[f.name] = f
    return MappingProxyType(out)


MACHINE_SETTINGS = frozenset({"task", "seed", "logdir", "device", "backend", "cuda_graphs", "logger", "deterministic",
                              "precision", "env.backend", "env.num_threads", "env.timeout", "env.retries",
                              "env.workers", "env.action_repeat", "env.max_episode_steps", "env.observe",
                              "env.camera", "env.kwargs",
                              "replay.device", "run.max_seconds", "run.max_skipped", "run.threads"})
"""What to run and where: not part of the official protocol, so `atari100k` leaves these alone."""

RESUME_MAY_CHANGE = frozenset({"logdir", "device", "backend", "cuda_graphs", "logger", "deterministic",
                               "env.num_threads", "env.timeout", "env.retries", "env.workers", "replay.device",
                               "run.threads", "run.steps", "run.log_every", "run.save_every", "run.eval_every",
                               "run.eval_random", "run.video_every", "run.max_seconds", "run.max_skipped"})
"""Settings that a resumed run may change: where it runs, how long, and how often it reports."""


def differences(old: Config, new: Config, *,
                ignore: frozenset[str] = frozenset()) -> dict[str, tuple[Any, Any]]:
    """{dotted name: (old value, new value)} of the settings that differ, without those in `ignore`.

    A resume check passes `ignore=RESUME_MAY_CHANGE`.
    """
    after = new.flat()
    return {name: (value, after[name]) for name, value in old.flat().items()
            if value != after[name] and name not in ignore}


def checked(name: str, value: Any, rule: dataclasses.Field | None = None) -> Any:
    """The value of a setting in the setting's own type: 1e5 as integer, 1 as number, a task in canonical form.

    `rule` is the field that describes it; without one, `name` is looked up among the settings. Raises
    ConfigError for an unknown name, a wrong type, a value out of bounds or not among the choices.
    """
    if rule is None:
        rule = settings().get(name)
        if rule is None:
            raise ConfigError(f"unknown setting '{name}'; `hdfast configs` lists all settings"
                              f"{nearest(name, settings())}")
    kind: Any = rule.type
    out = _in_type(kind, canonical_task(value) if name == "task" and callable(value) else value)
    low, high, choices = (rule.metadata[key] for key in ("low", "high", "choices"))
    if (out is None or (low is not None and out < low) or (high is not None and out > high)
            or (choices and out not in choices)):
        hint = nearest(value, choices) if isinstance(value, str) and choices and kind is str else ""
        raise ConfigError(f"{name} must be {_expected(rule)}, got {value!r:.60} ({rule.metadata['help']}; "
                          f"default {rule.default}){hint}")
    special = _SPECIAL.get(name)
    return special(out) if special else out


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no name may occur twice: which of the two counts would be a guess."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name!r:.40} occurs twice")
        found[name] = value
    return found


def _in_type(kind: Any, value: Any) -> Any:
    """`value` as `kind`, or None if that would change it."""
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind is str:
        return value if isinstance(value, str) and value.isprintable() else None
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        number = float(value) if real else math.nan
    except OverflowError:
        return None
    if not math.isfinite(number):
        return None
    if kind is float:
        return number
    return int(value) if value == int(value) else None


def _expected(rule: dataclasses.Field) -> str:
    low, high, choices = (rule.metadata[key] for key in ("low", "high", "choices"))
    if choices:
        return "one of " + ", ".join(map(str, choices))
    if rule.type not in (int, float):
        return "True or False" if rule.type is bool else "printable text"
    noun = "an integer" if rule.type is int else "a number"
    if low is None:
        return noun
    return f"{noun} >= {low}" if high is None else f"{noun} from {low} to {high}"


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N (as in cuda:0), got {value!r:.60}")
    return value


def _logdir(value: str) -> str:
    if not value.strip():
        raise ConfigError("logdir must be a path, got an empty one; as in --logdir runs/{task}/{seed}")
    for name in re.findall(r"{([^}]*)}?", value):
        if name not in ("task", "seed", "timestamp") or "{" + name + "}" not in value:
            raise ConfigError(f"logdir {value!r:.60} holds the unknown placeholder '{name}'; {{task}}, {{seed}} "
                              "and {timestamp} can be used")
    return value


def _kwargs(value: str) -> str:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"env.kwargs must be a JSON object of the constructor's arguments, got {value!r:.60}; as in "
                          """--env.kwargs '{"level": 3}'""")
    return value


def _background(value: str) -> str:
    if value not in ("none", "noise", "moving") and not re.fullmatch("videos:.+", value):
        raise ConfigError(f"env.background must be one of none, noise, moving or videos:<folder>, got {value!r:.60}")
    return value


_SPECIAL = {"task": canonical_task, "device": _device, "logdir": _logdir, "env.background": _background,
            "env.kwargs": _kwargs}


def check_together(config: Config) -> None:
    """Raise ConfigError for values that are valid alone and wrong together."""
    env, run, behavior, loss = config.env, config.run, config.behavior, config.loss
    span = run.batch_length * env.num_envs
    rules = (
        (config.model.bins % 2 == 1,
         f"model.bins must be odd, so that one bin is exactly zero, got {config.model.bins}; take "
         f"{config.model.bins + 1}"),
        (behavior.return_low < behavior.return_high,
         f"behavior.return_low must be below behavior.return_high, got {behavior.return_low} and "
         f"{behavior.return_high}; the official percentiles are 5 and 95"),
        (config.harmony.mode == "off" or loss.dyn_scale + loss.rep_scale > 0,
         "loss.dyn_scale and loss.rep_scale are both 0, and harmony divides by their sum; give one of them a "
         "weight, or turn harmony off with --no-harmony"),
        (env.max_episode_frames >= env.frame_skip,
         f"env.max_episode_frames ({env.max_episode_frames}) is less than one step of env.frame_skip "
         f"({env.frame_skip}) frames; raise it"),
        (config.replay.capacity >= span,
         f"replay.capacity ({config.replay.capacity}) cannot hold one sequence of run.batch_length "
         f"{run.batch_length} for each of env.num_envs {env.num_envs}; it must be at least {span}"),
        (run.prefill >= span,
         f"run.prefill ({run.prefill}) must fill one sequence of run.batch_length {run.batch_length} in each of "
         f"env.num_envs {env.num_envs} before training starts; it must be at least {span}"),
        (run.prefill <= run.steps,
         f"run.prefill ({run.prefill}) must not exceed run.steps ({run.steps}), which counts the prefill too; "
         "raise --run.steps or lower --run.prefill"),
    )
    for holds, message in rules:
        if not holds:
            raise ConfigError(message)
    check_settings(config.task, env)


def check_settings(task: str, env: EnvConfig) -> None:
    """Raise ConfigError for an environment setting, not at its default, that a canonical task does not know."""
    for rule in dataclasses.fields(EnvConfig):
        value, tasks = getattr(env, rule.name), only_for(rule.name, task)
        if tasks and value != rule.default:
            raise ConfigError(f"env.{rule.name} {value} exists only for {tasks}, got task {task}; take such a task or "
                              f"leave the setting at {rule.default}")
