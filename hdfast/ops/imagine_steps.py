"""The imagined rollout as a fixed sequence of launches: matrix products of torch, fused kernels between them.

Features are written where the heads read them: each step's kernels fill one block of a (H + 1, N, F) buffer. No host
reads, no branches on values, all buffers allocated before the loop: a CUDA graph captures it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hdfast.ops import scan_step
from hdfast.ops.observe_steps import onehot
from hdfast.ops.products import mm_into
from hdfast.ops.state import KERNELS, Parameters

# Up to here the latent's rows of img_in's kernel are gathered inside the step's first kernel; beyond, each row's gather
# (S rows of U numbers) costs more traffic than a matrix product with the one-hot features costs time.
GATHER_ROWS = 256


@torch.no_grad()
def rollout(deter: Tensor, index: Tensor, u: Tensor, u_action: Tensor, params: list[Tensor], actor: list[Tensor],
            classes: int, mix: float, keep_prior: bool, half: bool,
            copies: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As imagine.imagine, with the features; with half these and all operands are bfloat16."""
    operand = torch.bfloat16 if half else torch.float32
    p = Parameters(*params).operands(operand, copies[:len(KERNELS)])
    (horizon, rows, stoch), choices, d = u.shape, len(u_action), p.deter
    feat = deter.new_empty(horizon + 1, rows, d + p.latent, dtype=operand)
    deters, indices = deter.new_empty(horizon + 1, rows, d), index.new_empty(horizon + 1, rows, stoch)
    prior = deter.new_empty(horizon if keep_prior else 0, rows, stoch, classes)
    action = index.new_empty(choices, rows)
    deters[0].copy_(deter), indices[0].copy_(index)
    feat[0, :, :d].copy_(deter), onehot(index, classes, feat[0, :, d:])

    product, latent_rows, action_rows = rows > GATHER_ROWS, p.img_in[:p.latent], p.img_in[p.latent:]
    policy = Policy(actor, copies[len(KERNELS):] or [kernel.to(operand) for kernel in (*actor[:-2:3], actor[-2])],
                    u_action.shape, mix)
    pre, pre_gru = deter.new_empty(rows, p.units), deter.new_empty(rows, 3 * d)
    joint, hidden = feat.new_empty(rows, d + p.units), feat.new_empty(rows, p.units)
    logit, stats = deter.new_empty(rows, stoch, classes), deter.new_empty(2, rows)
    norm = action_rows, p.img_in_scale, p.img_in_bias, joint, stats
    for t in range(choices):
        draw = policy.act(t, feat[t], u_action[t], action[t])
        if t == horizon:
            scan_step.step_sample(draw)
            break
        if product:
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
    return deters, indices, prior if keep_prior else prior.view(0), action, policy.pre, feat


class Policy:
    """The actor's layers on buffers of their own: kernel, scale, bias of each hidden layer, then kernel and bias.

    `pre` (layers, steps, N, U) keeps what its LayerNorms read. kernels: the actor's as products read them.
    """

    def __init__(self, actor: list[Tensor], kernels: Sequence[Tensor], shape: tuple[int, int], mix: float):
        *hidden, kernel, self.bias = actor
        self.layers = list(zip(kernels[:-1], hidden[1::3], hidden[2::3], strict=True))
        self.kernel, self.mix, (units, actions) = kernels[-1], mix, kernel.shape
        rows = shape[1]
        self.pre = kernel.new_empty(len(self.layers), *shape, units)
        self.hidden = self.kernel.new_empty(rows, units)
        self.stats, self.logit = kernel.new_empty(2, rows), kernel.new_empty(rows, 1, actions)

    def act(self, step: int, x: Tensor, u: Tensor, action: Tensor) -> scan_step.Draw:
        """What draws the action (N,) of features x (N, F) by uniforms u (N,)."""
        for pre, (kernel, scale, bias) in zip(self.pre[:, step], self.layers, strict=True):
            mm_into(pre, x, kernel)
            scan_step.step_norm(pre, scale, bias, self.hidden, self.stats)
            x = self.hidden
        mm_into(self.logit.view(len(x), -1), x, self.kernel)
        return scan_step.Draw(self.logit, self.bias, u.unsqueeze(1), self.mix, None, None, action.unsqueeze(1))
