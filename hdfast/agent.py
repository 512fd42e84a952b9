"""The agent: acts in environments, learns from replay batches, and shows what it predicts."""

import math
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
from hdfast.learner import Learner, behaviour_shapes, draw
from hdfast.model.nets import one_hot
from hdfast.model.world_model import Sequences
from hdfast.ops.state import State
from hdfast.replay.ring import Batch
from hdfast.replay.sequences import Replay
from hdfast.run.pictures import openloop_grid
from hdfast.spaces import ActSpace, ObsSpace

NAMED = 4  # parameters that a diagnosis names
HALF, METRIC = "half/", "half/metric/"  # of names in a state, between the halves of an update
OTHER = "resume with the run's own configuration or use a new logdir"


@dataclass(frozen=True)
class PolicyState:
    """What acting carries from one observation to the next: the latent state and the last action, (N, A) one-hot."""

    latent: State
    action: Tensor


class Meter:
    """Sums of the finite ones of named numbers, and the count of the others, which only `means_sync` reads."""

    def __init__(self):
        self.names: list[str] = []
        self.sums: Tensor | None = None  # (2, names): sums, counts of numbers that are not finite
        self.count = 0  # of additions: the caller's, since a graph that adds runs no Python
        self.bad: dict[str, int] = {}  # by name, how often the last interval's number was not finite

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Add one number () per name; the first call fixes the names and their order, other ones begin anew."""
        if metrics.keys() != set(self.names):
            self.names, self.sums = list(metrics), None
        values = torch.stack([metrics[name] for name in self.names])
        if self.sums is None:
            self.sums = torch.zeros_like(torch.stack([values, values]))
        sums, bad = self.sums
        sums += values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        bad += (values - values).nan_to_num(nan=1.0)  # x - x is NaN where x is not finite

    def means_sync(self) -> dict[str, float]:
        """Means of what was finite since the last call, NaN where nothing was; empty without additions.

        The host waits for them, and for `bad`.
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
    """HarmonyDream agent for discrete actions. Official agent.py, class Agent.

    Acting and learning draw from two generators seeded by `config.seed`, so that evaluating never changes training. On
    CUDA the two halves of an update and the acting step are captured in graphs (config.cuda_graphs). `half` is not None
    between the halves: what the second one needs of the first.
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
        self._meter = Meter()
        self.half: tuple[Tensor, ...] | None = None
        self.committing: Callable[[], None] = lambda: None
        graphs = config.cuda_graphs and self.device.type == "cuda"
        self._sample: Callable[[], Batch] | None = None  # what an update without a batch draws by itself
        self.build_steps(Graphs(self.device, graphs), Graphs(self.device, graphs))

    def build_steps(self, learning: Graphs, acting: Graphs, sampling: Sequence[torch.Generator] = ()) -> None:
        """Make the graphs; `sampling` are the generators of `_sample`."""
        self._graphs, rng = (learning, acting), [self.learn_rng]
        self.model_step = learning.of(self._update_model, "world-model update", generators=[*rng, *sampling],
                                      shared=True)
        self.behaviour_step = learning.of(self._update_behaviour, "actor-critic update", generators=rng, shared=True)
        self.acting_step = acting.of(self._act, "acting step")

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
        latent = self.learner.start.map(lambda x: x.expand(num_envs, *x.shape).clone())
        return PolicyState(latent, torch.zeros(num_envs, self.act_space.n, device=self.device))

    def act(self, step: Step, state: PolicyState, generator: torch.Generator | None = None,
            ) -> tuple[np.ndarray, PolicyState]:
        """Sampled actions (N,) int64 for the records of N environments, and the next state.

        State and last action are cleared where is_first. `generator` replaces the agent's own for this call.
        """
        n, rng = len(step.is_first), generator or self.act_rng
        u = torch.rand(n, self.config.model.stoch + 1, generator=rng, device=self.device)
        latent = state.latent
        action, *carried = self.acting_step(torch.from_numpy(step.obs), torch.from_numpy(step.is_first), latent.deter,
                                            latent.stoch, latent.index, state.action, u)
        return action.cpu().numpy(), PolicyState(State(*carried[:3]), carried[3])

    def _act(self, obs: Tensor, is_first: Tensor, deter: Tensor, stoch: Tensor, index: Tensor, action: Tensor,
             u: Tensor) -> tuple[Tensor, ...]:
        """`policy` on raw observations (N, ...) and uniforms (N, S + 1), as tensors in and out."""
        obs, is_first = self.observation(obs), is_first.to(self.device)
        action, _, state = self.policy(obs, is_first, PolicyState(State(deter, stoch, index), action), u[:, :-1],
                                       u[:, -1])
        return action, state.latent.deter, state.latent.stoch, state.latent.index, state.action

    @torch.no_grad()
    def policy(self, obs: Tensor, is_first: Tensor, state: PolicyState, u: Tensor,
               u_action: Tensor) -> tuple[Tensor, Tensor, PolicyState]:
        """One acting step: obs (N, ...), is_first (N,), u (N, S), u_action (N,) -> action (N,) int64, its
        log-probabilities (N, A), next state. Latent and action are sampled, also in evaluation (official quirk)."""
        wm = self.learner.world_model
        part = wm.rssm.embed_part(wm.encoder(obs))
        latent, _ = wm.rssm.obs_step(state.latent, state.action, part, is_first, u, self.learner.start)
        logit = self.learner.actor_critic.policy(latent.feat())
        action = ops.sample_index(logit, u_action)
        return action, logit, PolicyState(latent, one_hot(action, self.act_space.n, logit.dtype))

    def observation(self, obs: Tensor) -> Tensor:
        """Environment observations on the device as float32: images in [0, 1], vectors as they are."""
        obs = obs.to(self.device, non_blocking=True).float()
        return obs / 255 if self.obs_space.is_image else obs

    # Learning

    def sequences(self, batch: Batch) -> Sequences:
        """A replay batch in the form the learner takes; the action is shifted by one step."""
        return self._sequences(*self._tensors(batch))

    def _sequences(self, *tensors: Tensor) -> Sequences:
        """The same from what `_tensors` gives; those of another device are copied."""
        frames, rows, action, reward, is_first, is_terminal = (x.to(self.device, non_blocking=True) for x in tensors)
        onehot = one_hot(action, self.act_space.n)
        prev = torch.cat([torch.zeros_like(onehot[:1]), onehot[:-1]])
        obs = ops.replay_gather(frames, rows) if self.obs_space.is_image else frames[rows]
        return Sequences(obs, prev, reward, 1 - is_terminal.float(), is_first)

    def _tensors(self, batch: Batch) -> tuple[Tensor, ...]:
        """What an update needs of a batch."""
        return batch.frames, batch.rows, batch.action, batch.reward, batch.is_first, batch.is_terminal

    def sampler(self, replay: Replay, batch_size: int, length: int) -> Callable[[], Batch | None]:
        """What gives the batches of updates from a replay: None where the update's graph draws its batch itself."""
        def sample() -> Batch:
            return replay.sample(batch_size, length)

        if not (self._graphs[0].enabled and replay.capturable):
            return sample
        self._sample = sample
        self.build_steps(*self._graphs, sampling=[replay.rng])
        return lambda: None

    def update(self, batch: Batch | None) -> None:
        """One train step on a batch (T, B, ...), in its two halves."""
        self.update_model(batch)
        self.update_behaviour()

    def update_model(self, batch: Batch | None) -> None:
        """The first half of a train step, the world model's, on a batch (T, B, ...).

        Without a batch: on one that the graph draws, as `sampler` was told. Graphs read device tensors where they lay
        at the capture, and copy there what a later batch brings in other tensors: a replay that always fills the same
        ones saves the copy. Either half calls `committing`, but in a graph, before it changes anything but `learn_rng`;
        an exception until then leaves the rest as it was.
        """
        self.half = self.model_step(*(() if batch is None else self._tensors(batch)))

    def update_behaviour(self) -> None:
        """The second half, actor and critic; the metrics are summed on the device until `read_metrics_sync`."""
        self.behaviour_step(*self.half)
        self.half = None
        self._meter.count += 1

    def _update_model(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """World-model update on what `_tensors` gives, or on a new draw -> posterior deter, stoch, index, cont
        (T, B, ...), metrics."""
        data = self._sequences(*(tensors or self._tensors(self._sample())))
        u, = draw((*data.reward.shape, self.config.model.stoch), generator=self.learn_rng)
        out, metrics = self.learner.update_model(data, u, self.committing)
        self._model_metrics = list(metrics)
        post = out.observed.state
        return (*(x.detach() for x in (post.deter, post.stoch, post.index)), data.cont, torch.stack(
            list(metrics.values())))

    def _update_behaviour(self, deter: Tensor, stoch: Tensor, index: Tensor, cont: Tensor, model: Tensor) -> None:
        """Actor-critic update from what the world-model update returned; adds the metrics of both to the meter."""
        shapes = behaviour_shapes(self.config.behavior.horizon, cont.numel(), self.config.model.stoch)
        u, u_action = draw(*shapes, generator=self.learn_rng)
        metrics = self.learner.update_behaviour(State(deter, stoch, index), cont, u, u_action, self.committing)
        self._meter.add(dict(zip(self._model_metrics, model.unbind(), strict=True)) | metrics)

    def read_metrics_sync(self) -> dict[str, float]:
        """Means of the metrics since the last call, named `train/...`; waits for the device. Empty without updates.

        Numbers that are not finite are left out of the means; `opt/*_skipped` count the steps not taken for them.
        """
        values = {f"train/{name}": value for name, value in self._meter.means_sync().items()}
        if values:
            values |= {f"train/opt/{name}_skipped": float(self._meter.bad.get(f"opt/{name}_grad_norm", 0))
                       for name in self.learner.optimisers}
        return values

    def diagnosis_sync(self) -> str:
        """What was not finite: losses and gradient norms of the last interval, gradients of the last update."""
        parts = [f"{name} {n} times" for name, n in self._meter.bad.items()
                 if name.startswith("loss/") or name.endswith("grad_norm")]
        for name, optimiser in self.learner.optimisers.items():
            if found := optimiser.nonfinite_sync(optimiser.grad):
                more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
                parts.append(f"in the last update the {name} gradient of {', '.join(found[:NAMED])}{more}")
        return "; ".join(parts)

    def sound_sync(self) -> bool:
        """Whether every parameter is finite; the host waits."""
        return not any(optimiser.nonfinite_sync(optimiser.param) for optimiser in self.learner.optimisers.values())

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
        """Everything a resumed run needs to continue bit for bit: learner, both generators, and what the second half
        of an update needs where only the first is done; on their devices."""
        rngs = {"rng/act": self.act_rng.get_state(), "rng/learn": self.learn_rng.get_state()}
        half = {}
        if self.half:
            *seen, metrics = self.half
            half = dict(zip(self._half_kinds(), seen, strict=True))
            half |= {METRIC + name: x for name, x in zip(self._model_metrics, metrics, strict=True)}
        return self.learner.state_dict() | rngs | half

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`; RunError naming the first missing, unknown or misshapen entry."""
        half = {name: x for name, x in state.items() if name.startswith(HALF)}
        state = {name: x for name, x in state.items() if name not in half}
        self.half = None  # which is no part of what is compared
        own = self.state_dict()
        for name in sorted(own.keys() ^ state.keys()):
            raise RunError(f"checkpoint entry '{name}' is {'missing' if name in own else 'unknown'}: it was written by "
                           f"another model or version; {OTHER}")
        for name, value in own.items():
            if value.shape != state[name].shape and not name.startswith("rng/"):
                raise RunError(f"checkpoint entry '{name}' has shape {tuple(state[name].shape)}, expected "
                               f"{tuple(value.shape)}; {OTHER}")
            if not name.startswith("rng/"):
                value.copy_(state[name])
        self.learner.refresh()
        rng.restore(self.act_rng, state["rng/act"])
        rng.restore(self.learn_rng, state["rng/learn"])
        self._load_half(half)

    def _half_kinds(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Names, types and shapes of `half` in a state, but for the metrics."""
        m, lead = self.config.model, (self.config.run.batch_length, self.config.run.batch_size)
        shapes = {"deter": (*lead, m.deter), "stoch": (*lead, m.stoch, m.classes), "index": (*lead, m.stoch),
                  "cont": lead}
        return {HALF + name: (torch.int64 if name == "index" else torch.float32, x) for name, x in shapes.items()}

    def _load_half(self, saved: dict[str, Tensor]) -> None:
        """Restore `half` where there was one; RunError naming the first entry that cannot be of one."""
        if not saved:
            return
        own, metrics = self._half_kinds(), [name for name in saved if name.startswith(METRIC)]
        expected = own | dict.fromkeys([METRIC + "loss/model", *metrics], (torch.float32, ()))
        for name in sorted(expected.keys() | saved.keys()):
            found = (saved[name].dtype, tuple(saved[name].shape)) if name in saved else None
            if found != expected.get(name):
                raise RunError(f"checkpoint entry '{name}' is {found}, expected {expected.get(name)}; {OTHER}")
        low, high = saved[HALF + "index"].aminmax()
        if low < 0 or high >= self.config.model.classes:
            raise RunError(f"checkpoint entry '{HALF}index' has values {low} to {high}, expected 0 to "
                           f"{self.config.model.classes - 1}; {OTHER}")
        self._model_metrics = [name.removeprefix(METRIC) for name in metrics]
        self.half = tuple(x.to(self.device) for x in (
            *(saved[name] for name in own), torch.stack([saved[name] for name in metrics])))
