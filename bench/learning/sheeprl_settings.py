"""hdfast's settings as sheeprl's: which Hydra keys say the same, what sheeprl cannot set, what has no part in it.

Every setting is in exactly one of the tables below. Keys and meanings are those of sheeprl 0.8.4, experiment
dreamer_v3; a key that it does not know ends the run (`sheeprl_run.py`).
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from hdfast.config import Config
from hdfast.errors import ConfigError

# Setting -> the keys that take its value as it is.
SAME: dict[str, tuple[str, ...]] = {
    "seed": ("seed",),
    "env.num_envs": ("env.num_envs",),
    "env.size": ("env.screen_size",),
    "env.grayscale": ("env.grayscale",),
    "replay.capacity": ("buffer.size",),
    "model.deter": ("algo.world_model.recurrent_model.recurrent_state_size",),
    "model.units": ("algo.dense_units", "algo.world_model.transition_model.hidden_size",
                    "algo.world_model.representation_model.hidden_size"),
    "model.stoch": ("algo.world_model.stochastic_size",),
    "model.classes": ("algo.world_model.discrete_size",),
    "model.cnn_depth": ("algo.world_model.encoder.cnn_channels_multiplier",),
    "model.mlp_layers": ("algo.mlp_layers",),
    "model.bins": ("algo.world_model.reward_model.bins", "algo.critic.bins"),
    "model.unimix": ("algo.unimix",),
    "loss.free_nats": ("algo.world_model.kl_free_nats",),
    "loss.dyn_scale": ("algo.world_model.kl_dynamic",),
    "loss.rep_scale": ("algo.world_model.kl_representation",),
    "loss.cont_scale": ("algo.world_model.continue_scale_factor",),
    "behavior.horizon": ("algo.horizon",),
    "behavior.lam": ("algo.lmbda",),
    "behavior.entropy": ("algo.actor.ent_coef",),
    "behavior.slow_fraction": ("algo.critic.tau",),
    "behavior.return_decay": ("algo.actor.moments.decay",),
    "optim.model_lr": ("algo.world_model.optimizer.lr",),
    "optim.model_eps": ("algo.world_model.optimizer.eps",),
    "optim.model_clip": ("algo.world_model.clip_gradients",),
    "optim.actor_lr": ("algo.actor.optimizer.lr",),
    "optim.actor_eps": ("algo.actor.optimizer.eps",),
    "optim.actor_clip": ("algo.actor.clip_gradients",),
    "optim.critic_lr": ("algo.critic.optimizer.lr",),
    "optim.critic_eps": ("algo.critic.optimizer.eps",),
    "optim.critic_clip": ("algo.critic.clip_gradients",),
    "run.steps": ("algo.total_steps",),
    "run.prefill": ("algo.learning_starts",),
    "run.batch_size": ("algo.per_rank_batch_size",),
    "run.batch_length": ("algo.per_rank_sequence_length",),
    "run.log_every": ("metric.log_every",),
    "run.save_every": ("checkpoint.every",),
}


def _betas(config: Config) -> dict[str, Any]:
    pair = [config.optim.beta1, config.optim.beta2]
    return {f"algo.{part}.optimizer.betas": pair for part in ("world_model", "actor", "critic")}


def _device(config: Config) -> dict[str, Any]:
    name, _, index = config.device.partition(":")
    return {"fabric.accelerator": name, "fabric.devices": [int(index)] if index else 1}


def _precision(config: Config) -> dict[str, Any]:
    tf32 = config.precision == "tf32" or (config.precision == "auto" and config.device != "cpu")
    return {"float32_matmul_precision": "high" if tf32 else "highest",
            "fabric.precision": "bf16-mixed" if config.precision == "bf16" else "32-true"}


# Setting -> keys and values that say the same in other terms.
DERIVED: dict[str, Callable[[Config], dict[str, Any]]] = {
    "task": lambda c: {"env.id": c.task},
    "device": _device,
    "precision": _precision,
    "behavior.discount_horizon": lambda c: {"algo.gamma": 1 - 1 / c.behavior.discount_horizon},
    "behavior.return_low": lambda c: {"algo.actor.moments.percentile.low": c.behavior.return_low / 100},
    "behavior.return_high": lambda c: {"algo.actor.moments.percentile.high": c.behavior.return_high / 100},
    "behavior.return_floor": lambda c: {"algo.actor.moments.max": 1 / c.behavior.return_floor},
    "optim.beta1": _betas,
    "optim.beta2": _betas,
    # Gradient steps per step of an environment, counted from the end of the prefill on both sides
    "run.train_ratio": lambda c: {"algo.replay_ratio": c.run.train_ratio / (c.run.batch_size * c.run.batch_length)},
}

# What the environment does that both sides play in (`gym_atari.py`).
IN_ENVIRONMENT = frozenset({
    "env.backend", "env.frame_skip", "env.noop_max", "env.max_episode_frames", "env.sticky", "env.full_action_space",
    "env.terminal_on_limit", "env.num_threads", "env.timeout"})

# What the programs here do with the trained agent, or around sheeprl.
IN_PROGRAM = frozenset({"run.eval_envs", "run.threads"})

# Setting -> what sheeprl does instead of asking.
FIXED_THERE: dict[str, Any] = {
    "env.background": "none", "env.action_repeat": 1, "env.max_episode_steps": 0, "env.kwargs": "{}",
    "env.observe": "image", "env.camera": -1, "model.actor_outscale": 1.0,
    "harmony.mode": "off", "loss.image_scale": 1.0, "loss.reward_scale": 1.0, "loss.reward_grad": True,
    "loss.cont_grad": True, "behavior.actor_gradient": "auto", "behavior.slow_reg": 1.0}

# How hdfast runs, reports and recovers; nothing of it changes what is learned.
NO_PART = frozenset({
    "logdir", "backend", "cuda_graphs", "logger", "deterministic", "env.retries", "env.workers", "harmony.speed",
    "harmony.parts", "loss.vector_scale", "model.vector_layers", "model.vector_units", "replay.device",
    "run.eval_every", "run.eval_episodes", "run.eval_random", "run.video_every", "run.max_seconds", "run.max_skipped"})

# sheeprl's own, set for the comparison: the environment brings skip and time limit along and is played in the process;
# no videos, no test episode, no models kept elsewhere; the replay in memory and left out of the checkpoints.
CHOSEN: dict[str, Any] = {
    "env.action_repeat": 1, "env.max_episode_steps": None, "env.sync_env": True, "env.capture_video": False,
    "env.clip_rewards": False, "algo.run_test": False, "algo.cnn_keys.encoder": ["rgb"],
    "algo.mlp_keys.encoder": [], "model_manager.disabled": True, "buffer.memmap": False, "buffer.checkpoint": False,
    "checkpoint.save_last": True, "metric.log_level": 1}

# What differs between the trainers with any settings, after sheeprl's source.
ALWAYS = (
    "steps: sheeprl counts actions, hdfast records, of which an episode has one more; with as many steps sheeprl plays "
    "one action more for every episode that ends, and makes as many updates",
    "slow critic: sheeprl mixes before an update, hdfast after it, so that sheeprl's is one update behind, and its "
    "first copy is of the untrained critic",
    "random draws: weights, random actions of the prefill, batches and samples are sheeprl's own, of the same "
    "distributions but for its decoder's last layer (truncated normal, where hdfast's is uniform with the same "
    "variance); with one environment its episodes begin with hdfast's no-ops",
    "no harmony, and no evaluation while it trains",
    "the environment waits during an update; hdfast's plays meanwhile",
    "the replay is in memory and not in the checkpoints: an interrupted run starts over",
    "losses are not compiled (algo.compile), which is sheeprl's default",
)


def translate(config: Config) -> dict[str, Any]:
    """{key of sheeprl: value} of a configuration; ConfigError for what sheeprl has no counterpart of at all."""
    if not config.task.startswith("atari_"):
        raise ConfigError(f"sheeprl is compared on Atari games, got task {config.task}; take one such as atari_krull")
    if config.harmony.mode != "off":
        raise ConfigError(f"sheeprl has no harmony, got harmony.mode {config.harmony.mode}; add the preset baseline, "
                          "as in --configs atari100k cpu baseline")
    flat, found = config.flat(), dict(CHOSEN)
    for name, keys in SAME.items():
        found |= dict.fromkeys(keys, flat[name])
    for derive in DERIVED.values():
        found |= derive(config)
    return found


def matched(config: Config) -> dict[str, Any]:
    """{setting: value} of the settings that hold on both sides."""
    flat = config.flat()
    same = {name: flat[name] for name in flat if name in {*SAME, *DERIVED, *IN_ENVIRONMENT, *IN_PROGRAM}}
    return same | {name: value for name, value in FIXED_THERE.items() if flat[name] == value}


def notes(config: Config) -> list[str]:
    """What of a comparison is not the same on both sides, one sentence each."""
    flat = config.flat()
    other = [f"{name} is {flat[name]} here; sheeprl has no such setting, and does as with {value}"
             for name, value in FIXED_THERE.items() if flat[name] != value]
    if config.precision == "bf16":
        other.append("precision bf16: by autocast (bf16-mixed), which casts other operations than hdfast does")
    if config.env.num_envs > 1:
        other.append("several environments: their no-ops are not hdfast's")
    return [*other, *ALWAYS]


def environment(config: Config) -> dict[str, Any]:
    """The settings of the environments, which the peer's process hands to `make_envs`."""
    return asdict(config.env)
