"""A scripted agent and scripted environments for tests of the training loop; both log what happens to them."""

import numpy as np
import torch

from hdfast.agent import Agent
from hdfast.config import Config
from hdfast.envs import Step, make_envs
from hdfast.spaces import Discrete, ObsSpace
from hdfast.trainer import TRAIN_ENVS, Trainer, stream_seed

OBS, ACTIONS = ObsSpace.single((4,), "float32"), Discrete(3)


def small_config(task="dummy_vector", **overrides) -> Config:
    """The debug preset, quieter: no evaluation before the end, few checkpoints, one episode per evaluation."""
    values = {"run.eval_every": 0, "run.video_every": 0, "run.save_every": 10**6, "run.log_every": 10**6,
              "run.eval_episodes": 1, "run.eval_envs": 1}
    return Config.preset("debug", task=task, device="cpu", **(values | overrides))


class ScriptedEnvs:
    """Environment i plays episodes of `lengths[i]` steps forever; every step earns 1 + i; obs counts records."""

    def __init__(self, lengths, log=None, spaces=(OBS, ACTIONS)):
        self.lengths, self.num_envs = np.array(lengths), len(lengths)
        self.obs_space, self.act_space = spaces
        self.log = [] if log is None else log
        self.records, self.actions, self.closed = 0, [], False

    def reset(self):
        self.log.append("reset")
        self._step = np.zeros(self.num_envs, int)
        return self._record(np.zeros(self.num_envs))

    def send(self, action):
        self.log.append("send")
        self.actions.append(np.array(action))
        over = self._step >= self.lengths
        self._reward = np.where(over, 0, 1.0 + np.arange(self.num_envs))
        self._step = np.where(over, 0, self._step + 1)

    def recv(self):
        self.log.append("recv")
        return self._record(self._reward)

    def step(self, action):
        self.send(action)
        return self.recv()

    def close(self):
        self.closed = True

    def _record(self, reward):
        obs = {part.name: np.full((self.num_envs, *part.shape), self.records).astype(part.dtype)
               for part in self.obs_space.parts}
        self.records += 1
        last = self._step >= self.lengths
        return Step(obs, reward.astype(np.float32), self._step == 0, last, last.copy())


class ScriptedAgent:
    """Acts at random from its own generator or the one given; `on_update` is called with the number of the update."""

    def __init__(self, config, log=None, on_update=None):
        self.obs_space, self.act_space, self.config, self.device = OBS, ACTIONS, config, torch.device("cpu")
        self.log = [] if log is None else log
        self.on_update = on_update
        self.rng = torch.Generator().manual_seed(config.seed)
        self.weight = torch.zeros(3)
        self.updates, self.batches, self.acted = 0, [], []

    def draw_from(self, replay, batch_size, length):
        return False

    def num_params(self):
        return {"weight": 3}

    def init_policy(self, num_envs):
        return ("initial", num_envs)

    def act(self, step, state, generator=None):
        self.log.append("act")
        self.acted.append((step, state))
        action = torch.randint(ACTIONS.n, (len(step.is_first),), generator=generator or self.rng)
        return action.numpy(), ("carried", len(step.is_first))

    def update(self, batch):
        self.log.append("update")
        self.updates += 1
        self.batches.append(batch)
        self.weight += 1
        if self.on_update:
            self.on_update(self.updates)

    def read_metrics_sync(self):
        return {"train/loss/image": 1.0} if self.updates else {}

    def state_dict(self):
        return {"weight": self.weight, "rng": self.rng.get_state()}

    def load_state_dict(self, state):
        self.weight.copy_(state["weight"])
        self.rng.set_state(state["rng"])


def short_episodes(num_envs, seed) -> ScriptedEnvs:
    """What a trainer evaluates in: episodes of four steps."""
    return ScriptedEnvs([4] * num_envs)


def new_trainer(config: Config, logdir) -> Trainer:
    """As `hdfast train` begins a run: the agent of `config`, and its environments."""
    envs = make_envs(config.task, config.env, seed=stream_seed(config.seed, TRAIN_ENVS, 0))
    return Trainer(config, Agent(envs.obs_space, envs.act_space, config), envs, logdir)
