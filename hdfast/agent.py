"""The agent: acts in environments, learns from replay batches, and shows what it predicts."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hdfast import ops
from hdfast.config import Config
from hdfast.envs import ActSpace, ObsSpace, Step
from hdfast.errors import RunError
from hdfast.learner import Learner, Uniforms
from hdfast.replay import Batch
from hdfast.rssm import State
from hdfast.visuals import openloop_grid
from hdfast.world_model import Sequences


@dataclass(frozen=True)
class PolicyState:
    """What acting carries from one observation to the next: the latent state and the last action, (N, A) one-hot."""

    latent: State
    action: Tensor


class Agent:
    """HarmonyDream agent for discrete actions. Official agent.py, class Agent.

    Acting and learning draw from two generators seeded by `config.seed`, so that evaluating never changes training.
    """

    def __init__(self, obs_space: ObsSpace, act_space: ActSpace, config: Config, *,
                 device: torch.device | str = "cpu"):
        self.obs_space, self.act_space, self.config = obs_space, act_space, config
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.learner = Learner(obs_space.shape, act_space.n, config, self.device)
        self.act_rng, self.learn_rng = (torch.Generator(self.device).manual_seed(seed) for seed in
                                        np.random.SeedSequence(config.seed).generate_state(2).tolist())
        self._metric_names: list[str] = []
        self._metric_sum: Tensor | None = None
        self._metric_count = 0

    @property
    def updates(self) -> int:
        """Train steps taken; reads the device."""
        return int(self.learner.model_opt.step)

    def num_params(self) -> dict[str, int]:
        """Trained parameters by part; the slow critic, a copy, is not counted."""
        wm, ac = self.learner.world_model, self.learner.actor_critic
        parts = {"encoder": wm.encoder, "rssm": wm.rssm, "decoder": wm.decoder, "reward": wm.reward, "cont": wm.cont,
                 "harmony": wm.harmonizer, "actor": ac.actor, "critic": ac.critic}
        return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}

    # Acting

    def init_policy(self, num_envs: int) -> PolicyState:
        """State before the first observation of `num_envs` environments."""
        with torch.no_grad():
            start = self.learner.world_model.rssm.initial_state()
        latent = State(*(x.expand(num_envs, *x.shape) for x in (start.deter, start.stoch, start.index)))
        return PolicyState(latent, torch.zeros(num_envs, self.act_space.n, device=self.device))

    def act(self, step: Step, state: PolicyState, generator: torch.Generator | None = None,
            ) -> tuple[np.ndarray, PolicyState]:
        """Sampled actions (N,) int64 for the records of N environments, and the next state.

        State and last action are cleared where is_first. `generator` replaces the agent's own for this call.
        """
        n, rng = len(step.is_first), generator or self.act_rng
        u = torch.rand(n, self.config.model.stoch + 1, generator=rng, device=self.device)
        action, _, state = self.policy(self.observation(step.obs), torch.from_numpy(step.is_first).to(self.device),
                                       state, u[:, :-1], u[:, -1])
        return action.cpu().numpy(), state

    @torch.no_grad()
    def policy(self, obs: Tensor, is_first: Tensor, state: PolicyState, u: Tensor,
               u_action: Tensor) -> tuple[Tensor, Tensor, PolicyState]:
        """One acting step: obs (N, ...), is_first (N,), u (N, S), u_action (N,) -> action (N,) int64, its
        log-probabilities (N, A), next state. Latent and action are sampled, also in evaluation (official quirk)."""
        wm = self.learner.world_model
        part = wm.rssm.embed_part(wm.encoder(obs))
        latent, _ = wm.rssm.obs_step(state.latent, state.action, part, is_first, u, wm.rssm.initial_state())
        logit = self.learner.actor_critic.policy(latent.feat())
        action = ops.sample_index(logit, u_action)
        return action, logit, PolicyState(latent, F.one_hot(action, self.act_space.n).to(logit.dtype))

    def observation(self, obs: np.ndarray) -> Tensor:
        """Environment observations on the device as float32: images in [0, 1], vectors as they are."""
        obs = torch.from_numpy(obs).to(self.device)
        return obs.float() / 255 if self.obs_space.is_image else obs.float()

    # Learning

    def sequences(self, batch: Batch) -> Sequences:
        """A replay batch on the device in the form the learner takes; the action is shifted by one step."""
        action = torch.from_numpy(batch.action).to(self.device)
        onehot = (action.unsqueeze(-1) == torch.arange(self.act_space.n, device=self.device)).float()
        prev = torch.cat([torch.zeros_like(onehot[:1]), onehot[:-1]])
        reward, is_first, is_terminal = (torch.from_numpy(x).to(self.device)
                                         for x in (batch.reward, batch.is_first, batch.is_terminal))
        return Sequences(self.observation(batch.obs), prev, reward, 1 - is_terminal.float(), is_first)

    def update(self, batch: Batch) -> None:
        """One train step on a batch (T, B, ...); its metrics are summed on the device until `read_metrics_sync`."""
        u = Uniforms.draw(*batch.reward.shape, self.config.behavior.horizon, self.config.model.stoch,
                          generator=self.learn_rng)
        metrics = self.learner.update(self.sequences(batch), u)
        values = torch.stack(list(metrics.values()))
        self._metric_names = list(metrics)
        self._metric_sum = values if self._metric_sum is None else self._metric_sum + values
        self._metric_count += 1

    def read_metrics_sync(self) -> dict[str, float]:
        """Means of the metrics since the last call, named `train/...`; waits for the device. Empty without updates."""
        if self._metric_sum is None:
            return {}
        values = (self._metric_sum / self._metric_count).tolist()
        self._metric_sum, self._metric_count = None, 0
        return {f"train/{name}": value for name, value in zip(self._metric_names, values, strict=True)}

    @torch.no_grad()
    def openloop(self, batch: Batch, context: int = 5, sequences: int = 6) -> np.ndarray:
        """Video prediction: the model sees `context` frames, then imagines the rest under the recorded actions.

        Returns uint8 (T, 3*h, n*w, c): truth, model and error of n <= `sequences` sequences. Images only.
        """
        if not self.obs_space.is_image:
            raise ValueError(f"open-loop video needs image observations (h, w, c), got {self.obs_space.shape}; "
                             "this task has vectors, so leave it out")
        data, wm = self.sequences(batch), self.learner.world_model
        data = Sequences(*(x[:, :sequences] for x in (data.obs, data.prev_action, data.reward, data.cont,
                                                      data.is_first)))
        length, count = data.reward.shape
        rng = torch.Generator(self.device).manual_seed(0)
        u = torch.rand(length, count, self.config.model.stoch, generator=rng, device=self.device)
        seen = wm.rssm.observe(wm.encoder(data.obs[:context]), data.prev_action[:context], data.is_first[:context],
                               u[:context]).state
        feats, state = [seen.feat()], State(seen.deter[-1], seen.stoch[-1], seen.index[-1])
        for t in range(context, length):
            state, _ = wm.rssm.img_step(state, data.prev_action[t], u[t])
            feats.append(state.feat()[None])
        model = wm.predict(torch.cat(feats))
        return openloop_grid(data.obs.cpu().numpy(), model.clamp(0, 1).cpu().numpy(), context)

    # Saving

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a resumed run needs to continue bit for bit: learner and both generators, on their devices."""
        rngs = {"rng/act": self.act_rng.get_state(), "rng/learn": self.learn_rng.get_state()}
        return self.learner.state_dict() | rngs

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`; RunError naming the first missing, unknown or misshapen entry."""
        own = self.state_dict()
        for name in sorted(own.keys() ^ state.keys()):
            raise RunError(f"checkpoint entry '{name}' is {'missing' if name in own else 'unknown'}: it was written by "
                           "another model or version; resume with the run's own configuration or use a new logdir")
        for name, value in own.items():
            if value.shape != state[name].shape:
                raise RunError(f"checkpoint entry '{name}' has shape {tuple(state[name].shape)}, expected "
                               f"{tuple(value.shape)}; resume with the run's own configuration or use a new logdir")
            if not name.startswith("rng/"):
                value.copy_(state[name])
        self.act_rng.set_state(state["rng/act"].cpu())
        self.learn_rng.set_state(state["rng/learn"].cpu())
