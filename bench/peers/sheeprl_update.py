"""One DreamerV3 update of sheeprl, measured: `python sheeprl_update.py PRESET THREADS [DEVICE]` where sheeprl is.

Its own `train` on its own models, optimizers and configuration (experiment dreamer_v3, sizes S), with the sizes of the
preset; before each update the target critic moves, as in its main loop, which also turns the batch to float.
"""

import copy
import sys

import gymnasium
import hydra
import numpy as np
import torch
from omegaconf import OmegaConf
from sheeprl.algos.dreamer_v3.agent import build_agent
from sheeprl.algos.dreamer_v3.dreamer_v3 import train
from sheeprl.algos.dreamer_v3.utils import Moments
from sheeprl.utils.utils import dotdict

from hdfast.bench import serve, workload
from hdfast.bench.peers import PEERS


def configuration(config, device: str) -> dotdict:
    """sheeprl's settings at the sizes of a preset of ours."""
    m, run = config.model, config.run
    overrides = {
        "exp": "dreamer_v3", "fabric.accelerator": device,
        "env.id": "PongNoFrameskip-v4", "env.screen_size": config.env.size,
        "algo.per_rank_batch_size": run.batch_size, "algo.per_rank_sequence_length": run.batch_length,
        "algo.horizon": config.behavior.horizon, "algo.dense_units": m.units, "algo.mlp_layers": m.mlp_layers,
        "algo.world_model.stochastic_size": m.stoch, "algo.world_model.discrete_size": m.classes,
        "algo.world_model.recurrent_model.recurrent_state_size": m.deter,
        "algo.world_model.transition_model.hidden_size": m.units,
        "algo.world_model.representation_model.hidden_size": m.units,
        "algo.world_model.encoder.cnn_channels_multiplier": m.cnn_depth,
    }
    with hydra.initialize_config_module("sheeprl.configs", version_base="1.3"):
        found = hydra.compose("config", [f"{name}={value}" for name, value in overrides.items()])
    OmegaConf.set_struct(found, False)
    found.pop("hydra", None)
    found.run_name = "bench"  # its default asks for a resolver that only a whole run has
    return dotdict(OmegaConf.to_container(found, resolve=True))


def batch(config) -> dict[str, torch.Tensor]:
    """The synthetic batch under sheeprl's names: (T, B, ...), images uint8 and channels first."""
    data = workload.synthetic(config)
    arrays = {"rgb": data["image"].transpose(0, 1, 4, 2, 3), "actions": data["action"],
              "rewards": data["reward"][..., None], "terminated": data["is_terminal"][..., None],
              "is_first": data["is_first"][..., None]}
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}


def build(preset: str, device: str):
    config = workload.sized(preset)
    cfg = configuration(config, device)
    torch.manual_seed(workload.SEED)
    torch.set_float32_matmul_precision(cfg.float32_matmul_precision)
    fabric = hydra.utils.instantiate(cfg.fabric, _convert_="all", callbacks=[])
    side = config.env.size
    space = gymnasium.spaces.Dict({"rgb": gymnasium.spaces.Box(0, 255, (3, side, side), np.uint8)})
    continuous = workload.continuous(config)
    actions = (workload.NUMBERS if continuous else workload.ACTIONS,)
    world_model, actor, critic, target, _ = build_agent(fabric, actions, continuous, cfg, space)
    chosen = ((cfg.algo.world_model, world_model), (cfg.algo.actor, actor), (cfg.algo.critic, critic))
    optimizers = fabric.setup_optimizers(*(
        hydra.utils.instantiate(part.optimizer, params=model.parameters(), _convert_="all")
        for part, model in chosen))
    m = cfg.algo.actor.moments
    moments = Moments(m.decay, m.max, m.percentile.low, m.percentile.high)
    data, tau = {name: x.to(fabric.device) for name, x in batch(config).items()}, cfg.algo.critic.tau

    def update() -> None:
        for source, slow in zip(critic.parameters(), target.parameters(), strict=True):
            slow.data.copy_(tau * source.data + (1 - tau) * slow.data)
        train(fabric, world_model, actor, critic, target, *optimizers, {k: v.float() for k, v in data.items()}, None,
              copy.copy(cfg), continuous, actions, moments)
        if device == "cuda":
            torch.cuda.synchronize()

    return update


if __name__ == "__main__":
    preset, threads, device = [*sys.argv[1:], "cpu"][:3]
    torch.set_num_threads(int(threads))
    serve.serve({"update": lambda: build(preset, device)}, serve.versions(PEERS["sheeprl"].packages))
