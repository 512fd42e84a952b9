"""The imagined rollout as a fixed sequence of launches: matrix products of torch, fused kernels between them.

Features are written where the heads read them: each step's kernels fill one block of a (H + 1, N, F) buffer. No host
reads, no branches on values, all buffers allocated before the loop: a CUDA graph captures it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hdfast.ops import normal, scan_step
from hdfast.ops.observe_steps import onehot
from hdfast.ops.products import add_mm, mm_into
from hdfast.ops.state import KERNELS, Parameters

# Up to here the latent's rows of img_in's kernel are gathered inside the step's first kernel; beyond, each row's gather
# (S rows of U numbers) costs more traffic than a matrix product with the one-hot features costs time.
GATHER_ROWS = 256


@torch.no_grad()
def rollout(deter: Tensor, index: Tensor, u: Tensor, noise: Tensor, params: list[Tensor], actor: list[Tensor],
            classes: int, mix: float, keep_prior: bool, half: bool, copies: Sequence[Tensor] = (),
            groups: Sequence[int] | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As imagine.imagine, with the features; with half these and all operands are bfloat16."""
    operand = torch.bfloat16 if half else torch.float32
    p = Parameters(*params).operands(operand, copies[:len(KERNELS)])
    (horizon, rows, stoch), choices, d = u.shape, len(noise), p.deter
    feat = deter.new_empty(horizon + 1, rows, d + p.latent, dtype=operand)
    deters, indices = deter.new_empty(horizon + 1, rows, d), index.new_empty(horizon + 1, rows, stoch)
    prior = deter.new_empty(horizon if keep_prior else 0, rows, stoch, classes)
    deters[0].copy_(deter), indices[0].copy_(index)
    feat[0, :, :d].copy_(deter), onehot(index, classes, feat[0, :, d:])

    product, latent_rows, action_rows = rows > GATHER_ROWS, p.img_in[:p.latent], p.img_in[p.latent:]
    kernels = copies[len(KERNELS):] or [kernel.to(operand) for kernel in kernels_of(actor, groups)]
    policy = (Categorical(actor, kernels, noise, mix) if groups is None else
              Categoricals(actor, kernels, noise, mix, groups) if groups else Normal(actor, kernels, noise))
    pre, pre_gru = deter.new_empty(rows, p.units), deter.new_empty(rows, 3 * d)
    joint, hidden = feat.new_empty(rows, d + p.units), feat.new_empty(rows, p.units)
    logit, stats = deter.new_empty(rows, stoch, classes), deter.new_empty(2, rows)
    norm = action_rows, p.img_in_scale, p.img_in_bias, joint, stats
    for t in range(choices):
        draw = policy.act(t, feat[t])
        if t == horizon:
            if draw is not None:
                scan_step.step_sample(draw)
            break
        if draw is None:
            add_mm(mm_into(pre, feat[t, :, d:], latent_rows), policy.taken, action_rows)
            scan_step.step_joint(pre, deters[t], *norm[1:])
        elif product:
            scan_step.step_act(mm_into(pre, feat[t, :, d:], latent_rows), deters[t], draw, *norm)
        else:
            scan_step.step_gather(pre, deters[t], indices[t], draw, latent_rows, *norm)
        mm_into(pre_gru, joint, p.gru)
        scan_step.step_gates(pre_gru, deters[t], p.gru_scale, p.gru_bias, deters[t + 1], feat[t + 1, :, :d], stats)
        mm_into(pre, feat[t + 1, :, :d], p.img_out)
        scan_step.step_norm(pre, p.img_out_scale, p.img_out_bias, hidden, stats)
        mm_into(logit.view(rows, -1), hidden, p.img_stats)
        scan_step.step_sample(scan_step.Draw(logit, p.img_stats_bias, u[t], mix, prior[t] if keep_prior else None,
                                             feat[t + 1, :, d:], indices[t + 1]))
    return deters, indices, prior if keep_prior else prior.view(0), policy.action, policy.pre, feat


def kernels_of(actor: Sequence[Tensor], groups: Sequence[int] | None) -> list[Tensor]:
    """The actor's kernels: of its hidden layers, of the last one, and of std under the normal policy."""
    last = 2 if groups is None or groups else 4
    return [*actor[:-last:3], *actor[-last::2]]


class Policy:
    """The actor's layers on buffers of their own. kernels: the actor's as products read them; noise (C, N, ...) of C
    choices; `heads`: how many last layers there are.

    `pre` (layers, C, N, U) keeps what the LayerNorms read. Each kind of policy has `action`, of all choices, and
    act(step, x), which draws that of features x (N, F), also into `taken` (N, A), the operand that the dynamics read;
    or it says what draws it, for the step's first kernel to do so.
    """

    def __init__(self, actor: list[Tensor], kernels: Sequence[Tensor], noise: Tensor, heads: int):
        hidden, (choices, rows) = actor[:-2 * heads], noise.shape[:2]
        self.layers = list(zip(kernels[:-heads], hidden[1::3], hidden[2::3], strict=True))
        self.heads = list(zip(kernels[-heads:], actor[1 - 2 * heads::2], strict=True))
        (units, self.size), self.noise = self.heads[0][0].shape, noise
        self.pre = noise.new_empty(len(self.layers), choices, rows, units)
        self.hidden, self.stats = kernels[-1].new_empty(rows, units), noise.new_empty(2, rows)

    def trunk(self, step: int, x: Tensor) -> Tensor:
        """The output of the hidden layers for features x (N, F)."""
        for pre, (kernel, scale, bias) in zip(self.pre[:, step], self.layers, strict=True):
            mm_into(pre, x, kernel)
            scan_step.step_norm(pre, scale, bias, self.hidden, self.stats)
            x = self.hidden
        return x


class Categorical(Policy):
    """unimix of the output, by uniforms (C, N) -> action (C, N)."""

    def __init__(self, actor: list[Tensor], kernels: Sequence[Tensor], noise: Tensor, mix: float):
        super().__init__(actor, kernels, noise, 1)
        self.action, self.mix = torch.empty_like(noise, dtype=torch.int64), mix
        self.logit = noise.new_empty(noise.shape[1], 1, self.size)

    def act(self, step: int, x: Tensor) -> scan_step.Draw:
        (kernel, bias), = self.heads
        mm_into(self.logit.view(len(x), -1), self.trunk(step, x), kernel)
        return scan_step.Draw(self.logit, bias, self.noise[step].unsqueeze(1), self.mix, None, None,
                              self.action[step].unsqueeze(1))


class Categoricals(Policy):
    """unimix of each of G parts of the output, by uniforms (C, N, G) -> action (C, N, G)."""

    def __init__(self, actor: list[Tensor], kernels: Sequence[Tensor], noise: Tensor, mix: float,
                 groups: Sequence[int]):
        super().__init__(actor, kernels, noise, 1)
        (kernel, bias), = self.heads
        (choices, rows, count), self.mix = noise.shape, mix
        self.noise = noise.movedim(-1, 0).contiguous()
        self.drawn = noise.new_empty(count, choices, rows, dtype=torch.int64)
        self.taken = kernel.new_empty(rows, self.size)
        cut = [x.split(list(groups), -1) for x in (kernel, bias, self.taken)]
        self.parts = [(part.contiguous(), shift, noise.new_empty(rows, 1, len(shift)), onehot)
                      for part, shift, onehot in zip(*cut, strict=True)]

    def act(self, step: int, x: Tensor) -> None:
        x = self.trunk(step, x)
        choices = self.noise[:, step, :, None], self.drawn[:, step, :, None]
        for (kernel, bias, logit, taken), u, index in zip(self.parts, *choices, strict=True):
            mm_into(logit.view(len(x), -1), x, kernel)
            scan_step.step_sample(scan_step.Draw(logit, bias, u, self.mix, None, taken, index))

    @property
    def action(self) -> Tensor:
        return self.drawn.movedim(0, -1).contiguous()


class Normal(Policy):
    """The normal policy, by standard normals (C, N, A) -> action (C, N, A), unclipped."""

    def __init__(self, actor: list[Tensor], kernels: Sequence[Tensor], noise: Tensor):
        super().__init__(actor, kernels, noise, 2)
        self.action, self.outputs = torch.empty_like(noise), noise.new_empty(2, *noise.shape[1:])
        self.taken = kernels[-1].new_empty(noise.shape[1:])

    def act(self, step: int, x: Tensor) -> None:
        x = self.trunk(step, x)
        (kernel, bias), (std_kernel, std_bias) = self.heads
        mean, std = mm_into(self.outputs[0], x, kernel), mm_into(self.outputs[1], x, std_kernel)
        normal.sample(mean, bias, std, std_bias, self.noise[step], self.action[step], self.taken)
