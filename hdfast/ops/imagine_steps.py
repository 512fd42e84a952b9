"""The imagined rollout as a fixed sequence of launches: matrix products of torch, fused kernels between them.

Features are written where the heads read them: each step's kernels fill one block of a (H + 1, N, F) buffer. No host
reads, no branches on values, all buffers allocated before the loop: a CUDA graph captures it.
"""

import torch
from torch import Tensor

from hdfast.ops import scan_step
from hdfast.ops.observe_steps import Parameters, onehot

# Up to here the latent's rows of img_in's kernel are gathered inside the step's first kernel; beyond, each row's gather
# (S rows of U numbers) costs more traffic than a matrix product with the one-hot features costs time.
GATHER_ROWS = 256


@torch.no_grad()
def rollout(deter: Tensor, index: Tensor, u: Tensor, u_action: Tensor, params: list[Tensor], actor: list[Tensor],
            classes: int, mix: float, keep_prior: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As imagine.imagine, and the features (H + 1, N, D + S * K)."""
    p = Parameters(*params)
    (horizon, rows, stoch), choices, d = u.shape, len(u_action), p.deter
    feat = deter.new_empty(horizon + 1, rows, d + p.latent)
    deters, indices = deter.new_empty(horizon + 1, rows, d), index.new_empty(horizon + 1, rows, stoch)
    prior = deter.new_empty(horizon if keep_prior else 0, rows, stoch, classes)
    action = index.new_empty(choices, rows)
    deters[0].copy_(deter), indices[0].copy_(index)
    feat[0, :, :d].copy_(deter), feat[0, :, d:].copy_(onehot(index, classes, deter))

    kernels, product = (p.img_in[:p.latent], p.img_in[p.latent:]), rows > GATHER_ROWS
    policy = Policy(actor, rows, mix)
    pre, joint = deter.new_empty(rows, p.units), deter.new_empty(rows, d + p.units)
    pre_gru, hidden = deter.new_empty(rows, 3 * d), deter.new_empty(rows, p.units)
    logit, stats = deter.new_empty(rows, stoch, classes), deter.new_empty(2, rows)
    for t in range(choices):
        policy.act(feat[t], u_action[t], action[t])
        if t == horizon:
            break
        if product:
            torch.mm(feat[t, :, d:], kernels[0], out=pre)
        scan_step.step_input(pre, deters[t], None if product else indices[t], action[t], None, None, None, *kernels,
                             p.img_in_scale, p.img_in_bias, None, joint, stats, accumulate=product)
        torch.mm(joint, p.gru, out=pre_gru)
        scan_step.step_gates(pre_gru, deters[t], p.gru_scale, p.gru_bias, deters[t + 1], feat[t + 1, :, :d], stats)
        torch.mm(deters[t + 1], p.img_out, out=pre)
        scan_step.step_norm(pre, p.img_out_scale, p.img_out_bias, hidden, stats)
        torch.addmm(p.img_stats_bias, hidden, p.img_stats, out=logit.view(rows, -1))
        scan_step.step_sample(logit, u[t], mix, prior[t] if keep_prior else None, feat[t + 1, :, d:], indices[t + 1])
    return deters, indices, prior if keep_prior else prior.view(0), action, feat


class Policy:
    """The actor's layers on buffers of their own: kernel, scale, bias of each hidden layer, then kernel and bias."""

    def __init__(self, actor: list[Tensor], rows: int, mix: float):
        *hidden, self.kernel, self.bias = actor
        self.layers, self.mix = list(zip(*[iter(hidden)] * 3, strict=True)), mix
        units = self.kernel.shape[0]
        self.pre, self.hidden = (self.kernel.new_empty(rows, units) for _ in range(2))
        self.stats, self.logit = self.kernel.new_empty(2, rows), self.kernel.new_empty(rows, 1, self.kernel.shape[1])

    def act(self, x: Tensor, u: Tensor, action: Tensor) -> None:
        """action (N,) of features x (N, F) and uniforms u (N,)."""
        for kernel, scale, bias in self.layers:
            torch.mm(x, kernel, out=self.pre)
            scan_step.step_norm(self.pre, scale, bias, self.hidden, self.stats)
            x = self.hidden
        torch.addmm(self.bias, x, self.kernel, out=self.logit.flatten(1))
        scan_step.step_sample(self.logit, u.unsqueeze(1), self.mix, None, None, action.unsqueeze(1))
