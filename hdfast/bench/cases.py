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
    inputs: Callable[[], tuple[Tensor, ...]]
    modes: tuple[str, ...] = BOTH

    def build(self, mode: str, *, compiled: bool = False) -> Built:
        torch.manual_seed(workload.SEED)
        inputs = self.inputs()
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


def harmony(reward: Tensor, image: Tensor, dyn: Tensor, rep: Tensor, cont: Tensor, s: Tensor):
    return ops.harmony_loss({"reward": reward, "image": image, "dyn": dyn, "rep": rep, "cont": cont}, s)[0]


def normal(*shape: int) -> Tensor:
    """Normal numbers that get a gradient."""
    return torch.randn(shape).requires_grad_()


def operations(config: Config) -> dict[str, Op]:
    """Every op by its name, with inputs as in the learner: of N = T * B steps, or of H * N imagined ones."""
    m, side, horizon, actions = config.model, config.env.size, config.behavior.horizon, workload.ACTIONS
    steps = config.run.batch_length * config.run.batch_size

    def logit() -> Tensor:
        return torch.randn(steps, m.stoch, m.classes).log_softmax(-1).requires_grad_()

    return {
        "norm_act_dense": Op(ops.norm_act, lambda: (normal(steps, m.units), normal(m.units), normal(m.units))),
        "norm_act_pixels": Op(ops.norm_act, lambda: (
            normal(steps, side // 2, side // 2, m.cnn_depth), normal(m.cnn_depth), normal(m.cnn_depth))),
        "gru_gates": Op(ops.gru_gates, lambda: (
            normal(steps, 3 * m.deter), normal(steps, m.deter), normal(3 * m.deter), normal(3 * m.deter))),
        "latent": Op(lambda raw, u: ops.sample_latent(ops.unimix(raw, 0.01), u)[0], lambda: (
            normal(steps, m.stoch, m.classes), torch.rand(steps, m.stoch))),
        "balanced_kl": Op(lambda p, q: ops.balanced_kl(p, q, 1.0), lambda: (logit(), logit())),
        "symlog": Op(ops.symlog, lambda: (normal(horizon, steps),)),
        "symexp": Op(ops.symexp, lambda: (normal(horizon, steps),)),
        "twohot_loss": Op(ops.twohot_loss, lambda: (normal(horizon, steps, m.bins), torch.randn(horizon, steps))),
        "twohot_mean": Op(ops.twohot_mean, lambda: (normal(horizon, steps, m.bins),), FWD),
        "harmony": Op(harmony, lambda: (*(normal(steps) for _ in range(5)), normal(3))),
        "image_loss": Op(ops.image_loss, lambda: (normal(steps, side, side, 3), torch.rand(steps, side, side, 3))),
        "cont_loss": Op(ops.cont_loss, lambda: (normal(steps), torch.rand(steps).round())),
        "returns": Op(lambda r, v, c: (ops.lambda_return(r, v, c, gamma=0.997, lam=0.95),
                                       ops.return_weight(c, gamma=0.997)),
                      lambda: (torch.randn(horizon, steps), torch.randn(horizon + 1, steps),
                               torch.rand(horizon + 1, steps).round()), FWD),
        "return_range": Op(ops.return_range, lambda: (torch.randn(horizon, steps), torch.zeros(()), torch.ones(())),
                           FWD),
        "actor_loss": Op(lambda *x: ops.actor_loss(*x, entropy=3e-4)[0], lambda: (
            normal(horizon, steps, actions), torch.rand(horizon, steps).mul(actions).long(),
            torch.randn(horizon, steps), torch.rand(horizon, steps)))}


def observe(learner: Learner, config: Config) -> Work:
    """Posterior scan, forward and backward: gradients of its parameters and of the embedding."""
    model, m = learner.world_model, config.model
    length, batch = config.run.batch_length, config.run.batch_size
    torch.manual_seed(workload.SEED)
    embed = torch.randn(length, batch, model.encoder.size)
    embed = (embed.bfloat16() if config.precision == "bf16" else embed).requires_grad_()
    action = torch.from_numpy(workload.synthetic(config)["action"])
    is_first = torch.zeros(length, batch, dtype=torch.bool)
    is_first[0] = True
    u = torch.rand(length, batch, m.stoch)

    def run() -> None:
        learner.model_opt.zero_grad()
        embed.grad = None
        out = model.rssm.observe(embed, action, is_first, u)
        (out.state.feat().sum() + out.post.sum() + out.prior.sum()).backward()

    return run


def rollout(learner: Learner, config: Config) -> Work:
    """Imagination of H steps from every state of a batch, actor inside."""
    m, horizon, steps = config.model, config.behavior.horizon, config.run.batch_length * config.run.batch_size
    torch.manual_seed(workload.SEED)
    index = (torch.rand(steps, m.stoch) * m.classes).long()
    start = State(torch.randn(steps, m.deter).tanh(),
                  torch.nn.functional.one_hot(index, m.classes).float(), index)
    u, actor = torch.rand(horizon, steps, m.stoch), learner.actor_critic.actor
    noise = actor.noise(horizon, steps, generator=torch.Generator().manual_seed(workload.SEED))
    return lambda: imagine(learner.world_model.rssm, actor, start, u, noise)


def optimize(learner: Learner, config: Config) -> Work:
    """The Adam step of the world model: global norm, clip, moments and parameters of the flat arena."""
    learner.model_opt.grad.normal_(generator=torch.Generator().manual_seed(workload.SEED))
    return learner.model_opt.update


Loop = Callable[[Learner, Config], Work]
LOOPS: dict[str, Loop] = {
    "observe_scan": observe, "imagine": rollout, "adam": optimize}
