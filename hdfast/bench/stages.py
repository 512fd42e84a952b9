"""The stages of one update by themselves, beside what the performance model predicts for an H100 (in us, T1: one graph,
cuBLAS and cuDNN, fused pointwise kernels, the scan as step kernels).

A backward pass is the difference of two rows: forward with backward, less forward.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hdfast import ops
from hdfast.bench.serve import Work
from hdfast.learner import Behavior, Learner, Uniforms
from hdfast.model.world_model import Sequences
from hdfast.ops.dense import Features

UPDATE = {"bf16": 7352.0, "tf32": 10025.0}
"""Predicted us of the whole update, by precision."""


@dataclass(frozen=True)
class Stage:
    """A stage: what runs it, the stage to subtract, and the predicted time of what is left, {precision: us}."""

    run: Work
    predicted: dict[str, float]
    less: str = ""


def us(bf16: float, tf32: float) -> dict[str, float]:
    return {"bf16": bf16, "tf32": tf32}


def backward(*outputs: Tensor) -> None:
    """Gradients of everything from ones."""
    torch.autograd.backward(outputs, [torch.ones_like(x) for x in outputs])


def model_stages(learner: Learner, image: Tensor, data: Sequences, u: Uniforms) -> dict[str, Stage]:
    """The world model's stages; image (T, B, h, w, c) uint8 is what data.obs was made of."""
    wm = learner.world_model
    with torch.no_grad():
        embed = wm.encoder(data.obs)
        state = wm.rssm.observe(embed, data.prev_action, data.is_first, u.post).state
        feat = Features.of(state)
    free = embed.detach().requires_grad_()

    def scan() -> tuple[Tensor, ...]:
        seen = wm.rssm.observe(free, data.prev_action, data.is_first, u.post)
        return seen.state.deter, seen.state.stoch, *ops.balanced_kl(seen.post, seen.prior, wm.free_nats)[:2]

    def decode() -> Tensor:
        return ops.image_loss(wm.decoder(feat)["image"], data.obs["image"])

    def heads() -> tuple[Tensor, Tensor]:
        return (ops.twohot_loss(wm.reward(feat), data.reward),
                ops.cont_loss(wm.cont_logit(feat), data.cont))

    return {
        "image to float": Stage(lambda: image.float() / 255, us(16, 26)),
        "encoder forward": Stage(torch.no_grad()(lambda: wm.encoder(data.obs)), us(266, 518)),
        "encoder backward": Stage(lambda: backward(wm.encoder(data.obs)), us(562, 1087), "encoder forward"),
        "scan forward, with embed part, prior head, KL": Stage(torch.no_grad()(scan), us(1558, 1568)),
        "scan backward, with weight gradients, prior head, KL": Stage(
            lambda: backward(*scan()), us(2056, 2094), "scan forward, with embed part, prior head, KL"),
        "decoder forward, image loss": Stage(torch.no_grad()(decode), us(385, 748)),
        "decoder backward": Stage(lambda: backward(decode()), us(582, 1119), "decoder forward, image loss"),
        "reward and continue heads, both ways": Stage(lambda: backward(*heads()), us(117, 151)),
        "model norm and Adam": Stage(learner.model_opt.update, us(226, 226)),
    }


def behavior_stages(learner: Learner, data: Sequences, u: Uniforms) -> dict[str, Stage]:
    """The stages from imagination on."""
    from hdfast.model.imagination import imagine

    wm, ac = learner.world_model, learner.actor_critic
    with torch.no_grad():
        seen = wm.rssm.observe(wm.encoder(data.obs), data.prev_action, data.is_first, u.post).state
    start = seen.map(lambda x: x.flatten(0, 1))
    b: Behavior = learner.imagine(seen, data.cont, u.prior, u.action)
    # Kept graphs keep their leaves' nodes, which stay on the stream of today: a capture on another one would break.
    t = b.trajectory
    b = replace(b, critic_logit=b.critic_logit.detach(), policy=None)

    @torch.no_grad()
    def heads() -> None:
        wm.ahead(t.features[1:])
        logit, _ = ac.values(t.features)
        ops.twohot_mean(logit)

    @torch.no_grad()
    def returns() -> None:
        ac.returns(b.reward, b.value, b.cont)
        ac.move_range(*ac.next_range(b.ret)[:2])

    def optimize() -> None:
        learner.actor_opt.update()
        learner.critic_opt.update()

    return {
        "imagination": Stage(torch.no_grad()(lambda: imagine(wm.rssm, ac.actor, start, u.prior, u.action)),
                             us(817, 1139)),
        "heads on the trajectory": Stage(heads, us(367, 691)),
        "returns and their range": Stage(returns, us(40, 40)),
        "critic forward": Stage(torch.no_grad()(lambda: ac.critic(t.features)), {}),
        "critic loss and backward": Stage(
            lambda: ac.critic_loss(ac.critic(t.features)[:-1], b.ret, b.slow_value, b.weight[:-1]).loss.backward(),
            us(165, 296), "critic forward"),
        "actor loss and backward": Stage(
            lambda: learner.actor_loss(replace(b, policy=ac.actor(t.past))).loss.backward(), us(147, 276)),
        "actor and critic Adam, slow critic": Stage(optimize, us(47, 47)),
    }
