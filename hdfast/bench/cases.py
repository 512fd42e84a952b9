"""The measured ops and loops, with inputs at a preset's shapes and the bytes that an op has to move.

Modes of an op: `fwd`, and where it has a gradient `fwd_bwd` (forward, then the gradient of every differentiable input
from a given output gradient). Bytes count each input and output once, and for the backward each input, output gradient
and input gradient once more: what a single perfect pass over memory would need, not what an implementation moves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hdfast import ops
from hdfast.bench import workload
from hdfast.bench.serve import Work
from hdfast.config import Config
from hdfast.learner import Learner
from hdfast.model.imagination import imagine
from hdfast.ops.state import State

FWD, BOTH = ("fwd",), ("fwd", "fwd_bwd")


@dataclass(frozen=True)
class Built:
    """An op ready to run: the function to time, the bytes it has to move, and its largest input's shape."""

    run: Work
    bytes: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Op:
    """An op to measure. `inputs` makes its tensors; those that require a gradient get one in mode fwd_bwd."""

    call: Callable[..., Any]
    inputs: Callable[["Shapes"], tuple[Tensor, ...]]
    modes: tuple[str, ...] = BOTH

    def build(self, config: Config, mode: str, *, compiled: bool = False) -> Built:
        inputs = self.inputs(Shapes(config))
        call = torch.compile(self.call, fullgraph=True, dynamic=False) if compiled else self.call
        with torch.no_grad():
            outputs = tensors_of(self.call(*(x.clone() for x in inputs)))
        moved, shape = size(inputs) + size(outputs), tuple(max(inputs, key=Tensor.numel).shape)
        if mode == "fwd":
            return Built(torch.no_grad()(lambda: call(*inputs)), moved, shape)
        wanted = [x for x in inputs if x.requires_grad]
        given = [torch.ones_like(y) for y in tensors_of(self.call(*inputs)) if y.requires_grad]

        def forward_backward() -> object:
            found = [y for y in tensors_of(call(*inputs)) if y.requires_grad]
            return torch.autograd.grad(found, wanted, given)

        return Built(forward_backward, moved + size(inputs) + size(given) + size(wanted), shape)


def size(tensors) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def tensors_of(result: Any) -> list[Tensor]:
    """The tensors of an op's result."""
    return [result] if isinstance(result, Tensor) else [x for x in result or () if isinstance(x, Tensor)]


class Shapes:
    """Random inputs by their place in the learner: steps N = T * B, imagined states H * N."""

    def __init__(self, config: Config):
        m, self.config, self.generator = config.model, config, torch.Generator().manual_seed(workload.SEED)
        self.steps = config.run.batch_length * config.run.batch_size
        self.horizon, self.latents, self.bins = config.behavior.horizon, (m.stoch, m.classes), m.bins
        self.deter, self.units, self.depth = m.deter, m.units, m.cnn_depth

    def normal(self, *shape: int, grad: bool = True) -> Tensor:
        return torch.randn(shape, generator=self.generator).requires_grad_(grad)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator)

    def logit(self, *lead: int) -> Tensor:
        return self.normal(*lead, *self.latents, grad=False).log_softmax(-1).requires_grad_()

    def behavior(self, *, states: int = 0) -> Tensor:
        """A value for each imagined step, or with states=1 for each imagined state."""
        return self.normal(self.horizon + states, self.steps, grad=False)


def harmony(reward: Tensor, image: Tensor, dyn: Tensor, rep: Tensor, cont: Tensor, s: Tensor):
    return ops.harmony_loss({"reward": reward, "image": image, "dyn": dyn, "rep": rep, "cont": cont}, s)[0]


def _norm_pixels(s: Shapes) -> tuple[Tensor, ...]:
    side = s.config.env.size // 2
    return s.normal(s.steps, side, side, s.depth), s.normal(s.depth), s.normal(s.depth)


def _image(s: Shapes) -> tuple[Tensor, ...]:
    shape = s.steps, s.config.env.size, s.config.env.size, 3
    return s.normal(*shape), s.uniform(*shape)


OPS: dict[str, Op] = {
    "norm_act_dense": Op(ops.norm_act, lambda s: (
        s.normal(s.steps, s.units), s.normal(s.units), s.normal(s.units))),
    "norm_act_pixels": Op(ops.norm_act, _norm_pixels),
    "gru_gates": Op(ops.gru_gates, lambda s: (
        s.normal(s.steps, 3 * s.deter), s.normal(s.steps, s.deter), s.normal(3 * s.deter), s.normal(3 * s.deter))),
    "latent": Op(lambda raw, u: ops.sample_latent(ops.unimix(raw, 0.01), u)[0], lambda s: (
        s.normal(s.steps, *s.latents), s.uniform(s.steps, s.latents[0]))),
    "balanced_kl": Op(lambda p, q: ops.balanced_kl(p, q, 1.0), lambda s: (s.logit(s.steps), s.logit(s.steps))),
    "symlog": Op(ops.symlog, lambda s: (s.normal(s.horizon, s.steps),)),
    "symexp": Op(ops.symexp, lambda s: (s.normal(s.horizon, s.steps),)),
    "twohot_loss": Op(ops.twohot_loss, lambda s: (
        s.normal(s.horizon, s.steps, s.bins), s.behavior())),
    "twohot_mean": Op(ops.twohot_mean, lambda s: (s.normal(s.horizon, s.steps, s.bins),), FWD),
    "harmony": Op(harmony, lambda s: (*(s.normal(s.steps) for _ in range(5)), s.normal(3))),
    "image_loss": Op(ops.image_loss, _image),
    "cont_loss": Op(ops.cont_loss, lambda s: (s.normal(s.steps), s.uniform(s.steps).round())),
    "returns": Op(lambda r, v, c: (ops.lambda_return(r, v, c, gamma=0.997, lam=0.95),
                                   ops.return_weight(c, gamma=0.997)),
                  lambda s: (s.behavior(), s.behavior(states=1), s.uniform(s.horizon + 1, s.steps).round()), FWD),
    "return_range": Op(ops.return_range, lambda s: (
        s.behavior(), torch.zeros(()), torch.ones(())), FWD),
    "actor_loss": Op(lambda *x: ops.actor_loss(*x, entropy=3e-4)[0], lambda s: (
        s.normal(s.horizon, s.steps, workload.ACTIONS), s.uniform(s.horizon, s.steps).mul(workload.ACTIONS).long(),
        s.behavior(), s.uniform(s.horizon, s.steps))),
}


def observe(learner: Learner, config: Config) -> Work:
    """Posterior scan, forward and backward: gradients of its parameters and of the embedding."""
    model, m = learner.world_model, config.model
    length, batch = config.run.batch_length, config.run.batch_size
    s = Shapes(config)
    embed = s.normal(length, batch, model.encoder.size, grad=False)
    embed = (embed.bfloat16() if config.precision == "bf16" else embed).requires_grad_()
    action = torch.nn.functional.one_hot((s.uniform(length, batch) * workload.ACTIONS).long(), workload.ACTIONS)
    is_first = torch.zeros(length, batch, dtype=torch.bool)
    is_first[0] = True
    u, action = s.uniform(length, batch, m.stoch), action.float()

    def run() -> None:
        learner.model_opt.zero_grad()
        embed.grad = None
        out = model.rssm.observe(embed, action, is_first, u)
        (out.state.feat().sum() + out.post.sum() + out.prior.sum()).backward()

    return run


def rollout(learner: Learner, config: Config) -> Work:
    """Imagination of H steps from every state of a batch, actor inside."""
    m = config.model
    s = Shapes(config)
    index = (s.uniform(s.steps, m.stoch) * m.classes).long()
    start = State(s.normal(s.steps, m.deter, grad=False).tanh(),
                  torch.nn.functional.one_hot(index, m.classes).float(), index)
    u, u_action = s.uniform(s.horizon, s.steps, m.stoch), s.uniform(s.horizon, s.steps)
    behavior = learner.actor_critic
    return lambda: imagine(learner.world_model.rssm, behavior.actor, start, u, u_action)


def optimize(learner: Learner, config: Config) -> Work:
    """The Adam step of the world model: global norm, clip, moments and parameters of the flat arena."""
    learner.model_opt.grad.normal_(generator=torch.Generator().manual_seed(workload.SEED))
    return learner.model_opt.update


Loop = Callable[[Learner, Config], Work]
LOOPS: dict[str, Loop] = {
    "observe_scan": observe, "imagine": rollout, "adam": optimize}
