"""The learner: one official train step as a function of a batch and uniforms, with three Adam optimizers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hdfast import ops
from hdfast.arena import Arena
from hdfast.config import Config
from hdfast.model.actor_critic import ActorCritic, ActorLoss, CriticLoss
from hdfast.model.imagination import Trajectory, followed, imagine
from hdfast.model.policy import ChoosingActor, NormalActor, Policy
from hdfast.model.world_model import Sequences, WorldModel, WorldModelOutput, means
from hdfast.ops.state import State
from hdfast.spaces import ActSpace, ObsSpace
from hdfast.tape import Taped


@dataclass(frozen=True)
class Uniforms:
    """Every random number of one update: uniforms post (T, B, S) and prior (H, N, S), and the noise of the actions
    (H, N, ...), uniforms or standard normals, with N = T * B."""

    post: Tensor
    prior: Tensor
    action: Tensor

    @classmethod
    def draw(cls, length: int, batch: int, horizon: int, stoch: int, actor: ChoosingActor | NormalActor, *,
             generator: torch.Generator) -> "Uniforms":
        """Fresh numbers on the generator's device, as one update draws them."""
        starts, device = length * batch, generator.device
        post, prior = (torch.rand(*shape, stoch, generator=generator, device=device)
                       for shape in ((length, batch), (horizon, starts)))
        return cls(post, prior, actor.noise(horizon, starts, generator=generator))


@dataclass(frozen=True)
class Behavior:
    """An imagined trajectory with its predictions: the policy of the states 0..H-1 with gradient, reward (H, N), cont,
    value, weight (H+1, N), ret (H, N), critic_logit (H+1, N, bins) with gradient, slow_value (H, N), low, high () the
    next return range, scale () the advantage's divisor. Under dynamics gradients reward, value and ret have one,
    too."""

    trajectory: Trajectory
    policy: Policy
    reward: Tensor
    cont: Tensor
    critic_logit: Tensor
    value: Tensor
    slow_value: Tensor
    ret: Tensor
    weight: Tensor
    low: Tensor
    high: Tensor
    scale: Tensor


@contextmanager
def constants(*networks: nn.Module) -> Iterator[None]:
    """What networks compute inside has no gradient to their parameters, only to their inputs."""
    params = [p for network in networks for p in network.parameters()]
    for p in params:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in params:
            p.requires_grad_(True)


class Learner:
    """World model, actor-critic and their optimizers. `update` follows official agent.py, Agent.train, in its order."""

    def __init__(self, obs_space: ObsSpace, act_space: ActSpace, config: Config, device: torch.device):
        self.config, self.device = config, device
        m, o = config.model, config.optim
        self.world_model = WorldModel(obs_space, act_space, m, config.harmony, config.loss).to(device)
        self.actor_critic = ActorCritic(m.deter + m.stoch * m.classes, act_space, m, config.behavior).to(device)
        trained = {"model": self.world_model, "actor": self.actor_critic.actor, "critic": self.actor_critic.critic}
        self.optimizers = {
            name: Arena(dict(module.named_parameters()), beta1=o.beta1, beta2=o.beta2, bf16=config.precision == "bf16",
                        **{what: getattr(o, f"{name}_{what}") for what in ("lr", "eps", "clip")})
            for name, module in trained.items()}
        self.model_opt, self.actor_opt, self.critic_opt = self.optimizers.values()
        self.critic_opt.lead(dict(self.actor_critic.slow.named_parameters()), config.behavior.slow_fraction)

        self.world_model.first_layers = self.model_opt.stack(
            *(head.hidden[0].kernel for head in (self.world_model.reward, self.world_model.cont)))
        self.actor_critic.first_layers = self.critic_opt.stack(
            *(network.hidden[0].kernel for network in (self.actor_critic.critic, self.actor_critic.slow)))
        self.start = self.world_model.rssm.initial_state().map(lambda x: x.detach().clone())
        self._taped = Taped(self._update)

    def update(self, data: Sequences, u: Uniforms) -> dict[str, Tensor]:
        """One update; returns metrics (), all on the device and without gradient.

        The host reads nothing and no shape depends on data, so CUDA graphs can capture it, and on the CPU a tape.
        """
        tape = self.config.cuda_graphs and self.device.type == "cpu" and self.model_opt.reduce is None
        return (self._taped if tape else self._update)(
            *(data.obs[part.name] for part in self.world_model.obs_space.parts), data.prev_action, data.reward,
            data.cont, data.is_first, u.post, u.prior, u.action)

    def _update(self, *tensors: Tensor) -> dict[str, Tensor]:
        """`update` on the tensors of its arguments."""
        *parts, prev_action, reward, cont, is_first, post, prior, action = tensors
        obs = {part.name: x for part, x in zip(self.world_model.obs_space.parts, parts, strict=True)}
        out, metrics = self.update_model(Sequences(obs, prev_action, reward, cont, is_first), post)
        return metrics | self.update_behavior(out.observed.state, cont, prior, action)

    def update_model(self, data: Sequences, u: Tensor) -> tuple[WorldModelOutput, dict[str, Tensor]]:
        """Step 1: world-model loss at the current parameters and its Adam step; u (T, B, S)."""
        out = self.world_model(data, u)
        self.model_opt.backward(out.total)
        metrics = out.metrics | self.step("model")
        self.restart()
        return out, metrics

    def update_behavior(self, post: State, cont: Tensor, u: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Steps 2 to 4, imagination, actor and critic; arguments as those of `imagine`.

        The critic's gradient does not depend on the actor's step: taking both gradients first changes no number.
        """
        b = self.imagine(post, cont, u, noise)
        metrics = self.actor_gradient(b) | self.critic_gradient(b)
        self.actor_critic.move_range(b.low, b.high)
        return metrics | self.step("actor") | self.step("critic")

    def imagine(self, post: State, cont: Tensor, u: Tensor, noise: Tensor, *, keep_prior: bool = False) -> Behavior:
        """Steps 2 and 3: imagine with the updated world model from every posterior state (T, B, ...), predict rewards,
        continuation, values and the next return range. cont (T, B) of the starts; u (H, N, S), noise (H, N, ...)."""
        wm, ac = self.world_model, self.actor_critic
        start = post.map(lambda x: x.detach().flatten(0, 1))
        trajectory = imagine(wm.rssm, ac.actor, start, u, noise, keep_prior=keep_prior)
        policy, features = ac.actor(trajectory.past), trajectory.features
        critic_logit, slow_value = ac.values(features)
        if ac.dynamics:
            features = followed(wm.rssm, trajectory, policy.sample(noise[:len(u)]))
        known = (wm.reward, wm.cont, ac.critic) if ac.dynamics else ()
        with torch.set_grad_enabled(ac.dynamics), constants(*known):
            reward, cont_logit = wm.ahead(features[1:])
            conts = torch.cat([cont.reshape(1, -1), (cont_logit.detach() > 0).to(reward.dtype)])
            value = ops.twohot_mean(ac.critic(features) if ac.dynamics else critic_logit.detach())
            ret, weight = ac.returns(reward, value, conts)
        return Behavior(trajectory, policy, reward, conts, critic_logit, value, slow_value, ret, weight,
                        *ac.next_range(ret.detach()))

    def actor_loss(self, b: Behavior) -> ActorLoss:
        """Actor loss on an imagined trajectory; reuses the rollout's products with the actor's kernels."""
        return self.actor_critic.actor_loss(b.policy, b.trajectory.action[:len(b.ret)], b.ret, b.value[:-1],
                                            b.weight[:-1], b.scale)

    def critic_loss(self, b: Behavior) -> CriticLoss:
        """Critic loss against the returns and the slow critic on an imagined trajectory."""
        return self.actor_critic.critic_loss(b.critic_logit[:-1], b.ret.detach(), b.slow_value, b.weight[:-1])

    def actor_gradient(self, b: Behavior) -> dict[str, Tensor]:
        """Step 3: actor loss on the trajectory, its gradient in the actor's arena."""
        out, dynamics = self.actor_loss(b), self.actor_critic.dynamics
        self.actor_opt.backward(out.loss)
        ret, reward, value = (x.detach() for x in (b.ret, b.reward, b.value))
        metrics = means({
            "loss/policy": -(out.advantage if dynamics else out.logp * out.advantage) * b.weight[:-1],
            "ent/action": out.ent, "adv": out.advantage, "adv_mag": out.advantage.abs(), "ret": ret,
            "ret_rate": (ret.abs() >= 0.5).float(), "rew": reward, "con": b.cont[1:]})
        return metrics | {
            "loss/actor": out.loss.detach(), "ret_scale": b.scale, "val": value.mean(), "weight": b.weight.mean(),
            "rand/action": b.policy.randomness(metrics["ent/action"])}

    def critic_gradient(self, b: Behavior) -> dict[str, Tensor]:
        """Step 4: critic loss on the same trajectory, its gradient in the critic's arena. Its Adam step also moves the
        slow critic: a copy at the first update, `slow_fraction` of the way at later ones."""
        out = self.critic_loss(b)
        self.critic_opt.backward(out.loss)
        metrics = means({"loss/value": out.nll.detach(), "slowval": b.slow_value})
        return metrics | {"loss/critic": out.loss.detach()}

    def step(self, name: str) -> dict[str, Tensor]:
        """Adam step of one optimizer -> its gradient norm, clip factor and update count."""
        names = [f"opt/{name}_{what}" for what in ("grad_norm", "grad_scale", "updates")]
        return dict(zip(names, self.optimizers[name].update().unbind(), strict=True))

    def refresh(self) -> None:
        """Recompute what derives from the parameters; call it after writing them from outside."""
        for optimizer in self.optimizers.values():
            optimizer.refresh()
        self.restart()

    @torch.no_grad()
    def restart(self) -> None:
        """Recompute `start`, the state in which episodes begin; acting reads it."""
        new = self.world_model.rssm.initial_state()
        for name, x in vars(self.start).items():
            x.copy_(getattr(new, name))

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that an update reads or writes, by flat name; the tensors are live views, not copies."""
        out = {f"model/{k}": v for k, v in self.world_model.state_dict().items()}
        out |= {f"behavior/{k}": v for k, v in self.actor_critic.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            out |= {f"opt/{name}/{k}": v for k, v in optimizer.state_dict().items()}
        return out
