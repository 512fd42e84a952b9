"""The agent: acts in environments, learns from replay batches, and shows what it predicts."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hdfast import ops, rng
from hdfast.config import Config
from hdfast.cuda_graph import Graphs
from hdfast.envs import Step
from hdfast.errors import RunError
from hdfast.learner import Learner, Uniforms
from hdfast.model.policy import Policy
from hdfast.model.world_model import Sequences
from hdfast.ops.state import State
from hdfast.replay.ring import Batch
from hdfast.replay.sequences import Replay
from hdfast.run.pictures import openloop_grid
from hdfast.spaces import ActSpace, ObsSpace, check_parts
from hdfast.tape import Taped

NAMED = 4  # parameters that a diagnosis names
HALF = "half/"  # prefix of the names that older versions saved in the middle of an update
OUTPUT = re.compile(r"(?<=/)decoder\.out\.")  # how older versions named the output layer of a vector
OTHER = "resume with the run's own configuration or use a new logdir"


@dataclass(frozen=True)
class PolicyState:
    """What acting carries from one observation to the next: the latent state and the last action (N, A), encoded."""

    latent: State
    action: Tensor


class Meter:
    """Sums the finite values of named numbers and counts the others, on the device; only `means_sync` reads it."""

    def __init__(self):
        self.names: list[str] = []
        self.sums: Tensor | None = None  # (2, names): sums, counts of numbers that are not finite
        self.count = 0  # of additions; the caller counts, since a graph that adds runs no Python
        self.bad: dict[str, int] = {}  # by name, how often the last interval's number was not finite

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Add one number () per name; the first call fixes the names and their order, other names restart the sums."""
        if metrics.keys() != set(self.names):
            self.names, self.sums = list(metrics), None
        values = torch.stack([metrics[name] for name in self.names])
        if self.sums is None:
            self.sums = torch.zeros_like(torch.stack([values, values]))
        sums, bad = self.sums
        sums += values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        bad += (values - values).nan_to_num(nan=1.0)  # x - x is NaN where x is not finite

    def means_sync(self) -> dict[str, float]:
        """Means of the finite values since the last call, NaN for a name without any; empty without additions.

        The host waits; also sets `bad`.
        """
        if not self.count:
            return {}
        sums, bad = self.sums.tolist()
        self.bad = {name: int(n) for name, n in zip(self.names, bad, strict=True) if n}
        means = {name: total / (self.count - n) if n < self.count else math.nan
                 for name, total, n in zip(self.names, sums, bad, strict=True)}
        self.sums.zero_()
        self.count = 0
        return means


class Agent:
    """HarmonyDream agent. Official agent.py, class Agent.

    Acting and learning draw from two generators seeded by `config.seed`, so evaluation never changes training. On CUDA,
    graphs capture the update and the acting step (config.cuda_graphs). Raises ConfigError for images of a size that no
    network fits.
    """

    def __init__(self, obs_space: ObsSpace, act_space: ActSpace, config: Config, *,
                 device: torch.device | str = "cpu"):
        check_parts(obs_space)
        self.obs_space, self.act_space, self.config = obs_space, act_space, config
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.learner = Learner(obs_space, act_space, config, self.device)
        self.act_rng, self.learn_rng = (torch.Generator(self.device).manual_seed(seed) for seed in
                                        np.random.SeedSequence(config.seed).generate_state(2).tolist())
        self._meter = Meter()
        graphs = config.cuda_graphs and self.device.type == "cuda"
        self._sample: Callable[[], Batch] | None = None  # what an update without a batch draws
        self.build_steps(Graphs(self.device, graphs), Graphs(self.device, graphs))

    def build_steps(self, learning: Graphs, acting: Graphs, sampling: Sequence[torch.Generator] = ()) -> None:
        """Make the graphs; `sampling` are the generators of `_sample`."""
        self._graphs = learning, acting
        self.update_step = learning.of(self._update, "update", generators=[self.learn_rng, *sampling], shared=True)
        tape = self.config.cuda_graphs and self.device.type == "cpu" and not acting.enabled
        self.acting_step = Taped(self._act) if tape else acting.of(self._act, "acting step")

    @property
    def updates(self) -> int:
        """Updates taken; reads the device."""
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
        latent = self.learner.start.map(lambda x: x.expand(num_envs, *x.shape).clone())
        return PolicyState(latent, torch.zeros(num_envs, self.act_space.width, device=self.device))

    def act(self, step: Step, state: PolicyState, generator: torch.Generator | None = None,
            ) -> tuple[np.ndarray, PolicyState]:
        """Sampled actions (N, ...) for the records of N environments, and the next state.

        is_first clears state and last action. `generator` replaces the agent's own for this call.
        """
        rows, generator = len(step.is_first), generator or self.act_rng
        u = torch.rand(rows, self.config.model.stoch, generator=generator, device=self.device)
        noise = self.learner.actor_critic.actor.noise(rows, generator=generator)
        obs = (torch.from_numpy(step.obs[part.name]) for part in self.obs_space.parts)
        action, *latent, last = self.acting_step(*obs, torch.from_numpy(step.is_first),
                                                 *vars(state.latent).values(), state.action, u, noise)
        return action.cpu().numpy(), PolicyState(State(*latent), last)

    def _act(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """`policy` as tensors in and out: raw observations (N, ...) by part, then what `act` gives."""
        *obs, is_first, deter, stoch, index, action, u, noise = tensors
        action, _, state = self.policy(self.observation(obs), is_first.to(self.device),
                                       PolicyState(State(deter, stoch, index), action), u, noise)
        return action, *vars(state.latent).values(), state.action

    @torch.no_grad()
    def policy(self, obs: dict[str, Tensor], is_first: Tensor, state: PolicyState, u: Tensor,
               noise: Tensor) -> tuple[Tensor, Policy, PolicyState]:
        """One acting step: obs (N, ...) by part, is_first (N,), u (N, S), noise (N, ...) -> action (N, ...), the policy
        it was drawn from, next state. It samples latent and action, also in evaluation (official quirk)."""
        wm = self.learner.world_model
        part = wm.rssm.embed_part(wm.encoder(obs))
        latent, _ = wm.rssm.obs_step(state.latent, state.action, part, is_first, u, self.learner.start)
        policy = self.learner.actor_critic.actor(latent.feat())
        action = policy.sample(noise)
        return action, policy, PolicyState(latent, policy.encode(action))

    def observation(self, obs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Environment observations by part, on the device as float32: images in [0, 1], vectors as they are."""
        moved = (x.to(self.device, non_blocking=True).float() for x in obs)
        return {part.name: x / 255 if part.is_image else x for part, x in zip(self.obs_space.parts, moved, strict=True)}

    # Learning

    def sequences(self, batch: Batch) -> Sequences:
        """A replay batch in the form the learner takes; the action is shifted by one step."""
        return self._sequences(*batch.tensors)

    def _sequences(self, *tensors: Tensor) -> Sequences:
        """The same from the tensors of a batch, copied if they are on another device."""
        *frames, rows, action, reward, is_first, is_terminal = (x.to(self.device, non_blocking=True) for x in tensors)
        prev = torch.cat([torch.zeros_like(action[:1]), action[:-1]])
        obs = {part.name: ops.replay_gather(x, rows) if part.is_image else x[rows]
               for part, x in zip(self.obs_space.parts, frames, strict=True)}
        return Sequences(obs, prev, reward, 1 - is_terminal.float(), is_first)

    def draw_from(self, replay: Replay, batch_size: int, length: int) -> bool:
        """Let the update's graph draw its batches from a replay.

        Returns False if this agent or replay cannot: then every `update` needs a batch.
        """
        if not (self._graphs[0].enabled and replay.capturable):
            return False
        self._sample = lambda: replay.sample(batch_size, length)
        self.build_steps(*self._graphs, sampling=[replay.rng])
        return True

    def update(self, batch: Batch | None = None) -> None:
        """One update on a batch (T, B, ...), or without one on a batch that the graph draws (`draw_from`).

        Metrics add up on the device until `read_metrics_sync`. Graphs read the tensors of the first batch and copy
        later batches there; a replay that always fills the same tensors saves the copy.
        """
        self.update_step(*(() if batch is None else batch.tensors))
        self._meter.count += 1

    def _update(self, *tensors: Tensor) -> None:
        """`Learner.update` on the tensors of a batch, or on a new draw; adds its metrics to the meter."""
        data = self._sequences(*(tensors or self._sample().tensors))
        u = Uniforms.draw(*data.reward.shape, self.config.behavior.horizon, self.config.model.stoch,
                          self.learner.actor_critic.actor, generator=self.learn_rng)
        self._meter.add(self.learner.update(data, u))

    def read_metrics_sync(self) -> dict[str, float]:
        """Means of the metrics since the last call, named `train/...`; waits for the device. Empty without updates.

        The means leave out numbers that are not finite; `opt/*_skipped` count the updates skipped for them.
        """
        values = {f"train/{name}": value for name, value in self._meter.means_sync().items()}
        if values:
            values |= {f"train/opt/{name}_skipped": float(self._meter.bad.get(f"opt/{name}_grad_norm", 0))
                       for name in self.learner.optimizers}
        return values

    def diagnosis_sync(self) -> str:
        """What was not finite: losses and gradient norms of the last interval, gradients of the last update."""
        parts = [f"{name} {n} times" for name, n in self._meter.bad.items()
                 if name.startswith("loss/") or name.endswith("grad_norm")]
        for name, optimizer in self.learner.optimizers.items():
            if found := optimizer.nonfinite_sync(optimizer.grad):
                more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
                parts.append(f"in the last update the {name} gradient of {', '.join(found[:NAMED])}{more}")
        return "; ".join(parts)

    def sound_sync(self) -> bool:
        """Whether every parameter is finite; the host waits."""
        return not any(optimizer.nonfinite_sync(optimizer.param) for optimizer in self.learner.optimizers.values())

    @torch.no_grad()
    def openloop(self, batch: Batch, context: int = 5, sequences: int = 6) -> np.ndarray:
        """Video prediction: the model sees `context` frames, then imagines the rest under the recorded actions.

        Returns uint8 (T, 3*h, n*w, c): truth, model and error of n <= `sequences` sequences, of the first image.
        """
        if not self.obs_space.images:
            raise ValueError(f"open-loop video needs an image, got {self.obs_space}; this task has vectors, so leave "
                             "it out")
        wm, name, seqs = self.learner.world_model, self.obs_space.images[0].name, slice(sequences)
        data = self.sequences(batch)
        obs = {part: x[:, seqs] for part, x in data.obs.items()}
        action, first = data.prev_action[:, seqs], data.is_first[:, seqs]
        length, count = first.shape
        rng = torch.Generator(self.device).manual_seed(0)
        u = torch.rand(length, count, self.config.model.stoch, generator=rng, device=self.device)
        seen = wm.rssm.observe(wm.encoder({k: x[:context] for k, x in obs.items()}), action[:context], first[:context],
                               u[:context]).state
        feats, state = [seen.feat()], seen.map(lambda x: x[-1])
        for t in range(context, length):
            state, _ = wm.rssm.img_step(state, action[t], u[t])
            feats.append(state.feat()[None])
        model = wm.predict(torch.cat(feats))[name]
        return openloop_grid(obs[name].cpu().numpy(), model.clamp(0, 1).cpu().numpy(), context)

    # Saving

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a resumed run needs to continue bit for bit: learner and both generators, on their devices."""
        rngs = {"rng/act": self.act_rng.get_state(), "rng/learn": self.learn_rng.get_state()}
        return self.learner.state_dict() | rngs

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`; RunError naming the first missing, unknown or misshapen entry."""
        if any(name.startswith(HALF) for name in state):
            raise RunError("the checkpoint was saved in the middle of an update, and this version cannot finish that; "
                           "resume with the version that wrote it until its next checkpoint, or use a new logdir")
        own = self.state_dict()
        state = {OUTPUT.sub(r"decoder.outs.0.", name): value for name, value in state.items()}
        for name in sorted(own.keys() ^ state.keys()):
            raise RunError(f"checkpoint entry '{name}' is {'missing' if name in own else 'unknown'}: another model or "
                           f"version wrote it; {OTHER}")
        for name, value in self.learner.state_dict().items():
            if value.shape != state[name].shape:
                raise RunError(f"checkpoint entry '{name}' has shape {tuple(state[name].shape)}, expected "
                               f"{tuple(value.shape)}; {OTHER}")
            value.copy_(state[name])
        self.learner.refresh()
        rng.restore(self.act_rng, state["rng/act"])
        rng.restore(self.learn_rng, state["rng/learn"])
