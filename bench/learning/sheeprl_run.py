"""sheeprl's part of a comparison of learning: `python sheeprl_run.py train|evaluate LOGDIR`, in its environment.

LOGDIR/job.json is what `peer_sheeprl.py` wrote. `train` runs sheeprl's own trainer to its end and leaves its checkpoint
below LOGDIR/sheeprl. `evaluate` plays episodes with the agent in it and writes LOGDIR/evaluation.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from gymnasium import spaces
from omegaconf import OmegaConf
from sheeprl.algos.dreamer_v3.agent import PlayerDV3, build_agent
from sheeprl.algos.dreamer_v3.utils import prepare_obs
from sheeprl.cli import check_configs, run_algorithm
from sheeprl.utils.utils import dotdict

from hdfast.bench.peers import PEERS
from hdfast.bench.serve import versions
from hdfast.config import EnvConfig
from hdfast.envs import VectorEnv, make_envs
from hdfast.errors import RunError

PACKAGES = (*PEERS["sheeprl"].packages, "ale-py", "gymnasium")


def configuration(job: dict[str, Any], logdir: Path) -> dotdict:
    """sheeprl's settings of a job; omegaconf's error if it does not know a key."""
    with hydra.initialize_config_module("sheeprl.configs", version_base="1.3"):
        found = hydra.compose("config", ["exp=dreamer_v3"])
    for key, value in job["settings"].items():
        OmegaConf.update(found, key, value, merge=False)
    OmegaConf.set_struct(found, False)
    found.pop("hydra", None)
    found.env.wrapper = {
        "_target_": "gym_atari.ProtocolAtari", "task": job["task"], "env": job["env"], "rank": 0,
        "first_seed": job["train_seed"], "count": job["env"]["num_envs"], "episodes": str(logdir / "episodes.jsonl")}
    found.log_root, found.root_dir, found.run_name = str(logdir), "sheeprl", "run"
    return dotdict(OmegaConf.to_container(found, resolve=True, throw_on_missing=True))


def train(job: dict[str, Any], logdir: Path) -> None:
    """Run sheeprl's trainer as its command line would."""
    make_envs(job["task"], EnvConfig(**job["env"]), num_envs=1).close()  # what is missing is said here, in one line
    config = configuration(job, logdir)
    check_configs(config)
    run_algorithm(config)


def evaluate(job: dict[str, Any], logdir: Path) -> None:
    """Play job["episodes"] whole episodes with the trained agent, in hdfast's environments and with its samples."""
    config = configuration(job, logdir)
    config.env.num_envs = min(job["eval_envs"], job["episodes"])
    fabric = hydra.utils.instantiate(config.fabric, _convert_="all", callbacks=[])
    fabric.seed_everything(job["eval_seed"])
    torch.set_float32_matmul_precision(config.float32_matmul_precision)
    torch.distributions.Distribution.set_default_validate_args(config.distribution.validate_args)
    checkpoints = sorted(logdir.glob("sheeprl/**/ckpt_*.ckpt"), key=lambda path: int(path.stem.split("_")[1]))
    if not checkpoints:
        raise RunError(f"{logdir} holds no checkpoint of sheeprl, so its training did not end; delete the folder and "
                       "run the command again")
    state = fabric.load(checkpoints[-1], weights_only=True)
    envs = make_envs(job["task"], EnvConfig(**job["env"]), num_envs=config.env.num_envs, seed=job["eval_seed"])
    side, _, channels = envs.obs_space.parts[0].shape
    space = spaces.Dict({"rgb": spaces.Box(0, 255, (channels, side, side), np.uint8)})
    *_, player = build_agent(fabric, (envs.act_space.n,), False, config, space, state["world_model"], state["actor"])
    scores = play(player, fabric, envs, job["episodes"])
    envs.close()
    found = {"episodes": scores, "steps": state["iter_num"] * job["env"]["num_envs"],
             "updates": state["per_rank_gradient_steps"], "versions": versions(PACKAGES)}
    (logdir / "evaluation.json").write_text(json.dumps(found))


@torch.inference_mode()
def play(player: PlayerDV3, fabric: Any, envs: VectorEnv, episodes: int) -> list[float]:
    """Scores of whole episodes in rounds of one per environment, actions drawn from the policy, as hdfast evaluates."""
    scores: list[float] = []
    while len(scores) < episodes:
        wanted = min(envs.num_envs, episodes - len(scores))
        record, score, playing = envs.reset(), np.zeros(envs.num_envs), np.arange(envs.num_envs) < wanted
        player.init_states()
        while True:
            score += np.where(playing, record.reward, 0)
            playing = playing & ~record.is_last
            if not playing.any():
                break
            image = {"rgb": record.image.transpose(0, 3, 1, 2)}
            action, = player.get_actions(prepare_obs(fabric, image, cnn_keys=["rgb"], num_envs=envs.num_envs))
            record = envs.step(np.where(playing, action.argmax(-1)[0].cpu().numpy(), 0))
        scores += score[:wanted].tolist()
    return scores


if __name__ == "__main__":
    verb, folder = sys.argv[1], Path(sys.argv[2])
    work = json.loads((folder / "job.json").read_text())
    if work["threads"]:
        torch.set_num_threads(work["threads"])
    try:
        {"train": train, "evaluate": evaluate}[verb](work, folder)
    except RunError as error:
        sys.exit(str(error))
