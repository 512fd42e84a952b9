"""The preset blocks that `--configs` stacks, and the constants of the method, which are not settings. No imports."""

from dataclasses import dataclass, field
from typing import Any

OFFICIAL = "atari100k"


@dataclass(frozen=True)
class Preset:
    """One block: what it is for, and the settings it changes by dotted name."""

    about: str
    values: dict[str, Any] = field(default_factory=dict)


def _sizes(deter: int, units: int, cnn_depth: int, mlp_layers: int) -> dict[str, Any]:
    """Network sizes as the official code groups them; its latents are 32 x 32 in every size."""
    return {"model.deter": deter, "model.units": units, "model.cnn_depth": cnn_depth, "model.mlp_layers": mlp_layers,
            "model.stoch": 32, "model.classes": 32}


def _fixed(values: dict[str, Any]) -> dict[str, Any]:
    """An ablation with fixed loss scales: those of DreamerV3 except for `values`."""
    return {"harmony.mode": "off", "loss.image_scale": 1.0, "loss.reward_scale": 1.0, "loss.reward_grad": True} | values


def _control(sizes: dict[str, Any], **values: Any) -> dict[str, Any]:
    """What the official blocks of continuous control have in common: a time limit is no end of the task."""
    return {**sizes, "env.terminal_on_limit": False, "run.eval_every": 10_000, "run.eval_episodes": 10,
            "run.eval_envs": 10, **{name.replace("__", "."): value for name, value in values.items()}}


_DMC: dict[str, Any] = dict(env__num_envs=4, env__action_repeat=2, run__steps=500_000, run__prefill=1300,
                            run__train_ratio=512.0)
_VECTORS = {"model.vector_layers": 5, "model.vector_units": 1024}

PRESETS: dict[str, Preset] = {
    OFFICIAL: Preset("the official Atari 100K protocol and hyperparameters: the default of every setting"),
    "dmc_vision": Preset("DeepMind Control from pixels: the official block, over a million frames",
                         _control(_sizes(512, 512, 32, 2), task="dmc_walker_walk", **_DMC)),
    "dmc_proprio": Preset("DeepMind Control from states: the official block, over a million frames",
                          _control(_sizes(512, 512, 32, 2) | _VECTORS, task="dmc_walker_walk",
                                   env__observe="state", **_DMC)),
    "metaworld": Preset("Meta-World from pixels: the official block", _control(
        _sizes(1024, 640, 48, 3), task="metaworld_lever-pull-v3", env__num_envs=5, loss__cont_grad=False,
        run__steps=255_000, run__prefill=5300, run__batch_size=50, run__batch_length=50, run__train_ratio=500.0)),
    "mixed": Preset("images and vectors together, discrete actions: a survival game such as Crafter", {
        **_sizes(1024, 640, 48, 3), **_VECTORS, "run.steps": 1_000_000, "run.train_ratio": 512.0,
        "run.eval_every": 50_000}),
    "small": Preset("network sizes of Atari 100K, 18M parameters", _sizes(512, 512, 32, 2)),
    "medium": Preset("larger networks: deter 1024, 3 hidden layers", _sizes(1024, 640, 48, 3)),
    "large": Preset("larger networks: deter 2048, 4 hidden layers", _sizes(2048, 768, 64, 4)),
    "xlarge": Preset("larger networks: deter 4096, 5 hidden layers", _sizes(4096, 1024, 96, 5)),
    "baseline": Preset("DreamerV3 without harmony: fixed loss scales", {"harmony.mode": "off"}),
    "plain": Preset("harmony by the paper's Eq. 4, without rectification", {"harmony.mode": "plain"}),
    "reward10": Preset("DreamerV3 with the reward loss times 10", _fixed({"loss.reward_scale": 10.0})),
    "reward100": Preset("DreamerV3 with the reward loss times 100", _fixed({"loss.reward_scale": 100.0})),
    "observation_only": Preset("DreamerV3 whose model states learn from observations alone; rewards are read off them",
                               _fixed({"loss.reward_grad": False})),
    "reward_only": Preset("DreamerV3 without reconstruction: model states learn from rewards",
                          _fixed({"loss.image_scale": 0.0})),
    "bf16": Preset("matmuls and convolutions in bfloat16, everything else in float32", {"precision": "bf16"}),
    "debug": Preset("a tiny network and a few hundred steps: any task in seconds, to see that everything runs", {
        "env.size": 16, "env.max_episode_frames": 400,
        "replay.capacity": 10_000,
        "model.deter": 32, "model.units": 32, "model.stoch": 4, "model.classes": 8, "model.cnn_depth": 4,
        "model.mlp_layers": 1, "model.vector_layers": 0, "model.vector_units": 0,
        "behavior.horizon": 5,
        "run.steps": 400, "run.prefill": 80, "run.batch_size": 4, "run.batch_length": 8, "run.train_ratio": 8.0,
        "run.eval_every": 200, "run.eval_episodes": 2, "run.eval_envs": 2,
        "run.log_every": 40, "run.save_every": 100, "run.video_every": 200,
    }),
    "catch": Preset("learning check: Catch on a 5 x 5 board, learned within minutes on a CPU", {
        "task": "catch_5x5",
        "env.num_envs": 8, "env.size": 16,
        "replay.capacity": 100_000,
        "model.deter": 128, "model.units": 128, "model.stoch": 8, "model.classes": 8, "model.cnn_depth": 8,
        "behavior.horizon": 12,
        "optim.model_lr": 2e-3, "optim.actor_lr": 1e-4, "optim.critic_lr": 3e-4,
        "run.steps": 16_000, "run.prefill": 512, "run.batch_size": 8, "run.batch_length": 16, "run.train_ratio": 16.0,
        "run.eval_every": 4000, "run.eval_episodes": 100, "run.eval_envs": 20,
        "run.log_every": 400, "run.save_every": 4000, "run.video_every": 8000, "run.threads": 1,
    }),
    "pendulum": Preset("learning check of continuous control: swing a rod up from pictures, or with --task "
                       "pendulum_vector from states, within minutes on a CPU", {
        "task": "pendulum",
        "env.num_envs": 4, "env.size": 32, "env.terminal_on_limit": False,
        "replay.capacity": 100_000,
        "model.deter": 128, "model.units": 128, "model.stoch": 8, "model.classes": 8, "model.cnn_depth": 8,
        "optim.model_lr": 1e-3, "optim.actor_lr": 3e-4, "optim.critic_lr": 3e-4,
        "run.steps": 20_000, "run.prefill": 1000, "run.batch_size": 16, "run.batch_length": 16, "run.train_ratio": 64.0,
        "run.eval_every": 4000, "run.eval_episodes": 100, "run.eval_envs": 100,
        "run.log_every": 400, "run.save_every": 4000, "run.video_every": 8000, "run.threads": 1,
    }),
    "cpu": Preset("a network that learns real Atari games on one CPU core in about an hour", {
        "env.max_episode_frames": 27_000,
        "replay.capacity": 100_000,
        "model.deter": 128, "model.units": 128, "model.stoch": 16, "model.classes": 16, "model.cnn_depth": 8,
        "model.mlp_layers": 2, "model.vector_layers": 0, "model.vector_units": 0,
        "behavior.horizon": 10, "behavior.entropy": 1e-3,
        "optim.model_lr": 1e-3, "optim.actor_lr": 1e-4, "optim.critic_lr": 1e-4,
        "run.steps": 41_000, "run.prefill": 1000, "run.batch_size": 8, "run.batch_length": 16, "run.train_ratio": 32.0,
        "run.eval_every": 10_000, "run.eval_episodes": 20, "run.eval_envs": 20,
        "run.log_every": 500, "run.save_every": 2000, "run.video_every": 5000,
    }),
    "demo": Preset("with cpu: the first minutes of a game, at higher learning rates, beside random play", {
        "model.actor_outscale": 0.0, "behavior.discount_horizon": 20.0, "behavior.entropy": 3e-3,
        "optim.actor_lr": 1e-3, "optim.critic_lr": 1e-3,
        "run.steps": 10_000, "run.eval_every": 5000, "run.eval_random": True,
        "run.log_every": 400, "run.save_every": 2000, "run.video_every": 2000,
    }),
}

FIXED: dict[str, tuple[Any, str]] = {
    "action_draw": ("sample", "actions are drawn from the policy, never its best one, in evaluation too"),
    "activation": ("silu", "after every normalized layer"),
    "bins_high": (20.0, "last two-hot bin, in symlog units"),
    "bins_low": (-20.0, "first two-hot bin, in symlog units"),
    "cont_threshold": (0.5, "an imagined episode continues if its continue probability is above this"),
    "gru_update_bias": (-1.0, "added to the GRU's update gate after normalization"),
    "harmony_init": (0.0, "start value of the harmony scalars"),
    "image_offset": (0.5, "pixels / 255 minus this enter the encoder; the decoder's output gets it added"),
    "init_normal_sigma": (2.0, "truncation of the normal initializer, in standard deviations"),
    "init_output_scale": (0.0, "scale of the output layers of the reward head and the critic"),
    "init_uniform_scale": (1.0, "scale of the other output layers; model.actor_outscale has the actor's"),
    "initial_state": ("learned", "deterministic state at an episode's start: tanh of a parameter, zero at first"),
    "kernel": (4, "side of every convolution kernel, stride 2, one pixel of zero padding"),
    "metrics_every": (10, "the official code logs every 10th update; hdfast averages all of them"),
    "norm_eps": (1e-3, "added to the variance in every LayerNorm"),
    "optimizer": ("adam", "with bias correction, a constant learning rate and no weight decay"),
    "prefill_block": (100, "the official prefill counts in blocks of this many steps, which makes 1100"),
    "slow_first": (1.0, "share of the critic copied into the slow critic by the very first update"),
}
"""{name: (value, meaning)} of what the method fixes: printed beside the settings, changed by no flag."""
