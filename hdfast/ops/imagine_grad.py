"""The states of a rollout as a function of its actions: their values are known, so forward computes none of them.

Backward computes again what stands between two states, for all H * N rows at once, and then goes through the steps in
eight launches each: half a step's products depend on the step after. Neither reads a value on the host, and the loop
allocates nothing: a CUDA graph captures them.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hdfast.ops import scan_step
from hdfast.ops.observe_steps import onehot, parts_of
from hdfast.ops.products import add_mm, mm_into, new_mm
from hdfast.ops.state import Parameters


def forward(action: Tensor, deter: Tensor, index: Tensor, params: list[Tensor], classes: int, mix: float, half: bool,
            copies: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
    """deter as it is, and the one-hot latents (H+1, N, S, K)."""
    stoch = onehot(index, classes, deter.new_empty(*index.shape[:2], Parameters(*params).latent))
    return deter.clone(), stoch.unflatten(-1, (-1, classes))


class Steps(NamedTuple):
    """What each step's backward reads, (H, N, ...): the inputs of LayerNorms with their statistics (H, 2, N), and the
    prior's logits without their bias."""

    pre_in: Tensor
    pre_gru: Tensor
    pre_out: Tensor
    logit: Tensor
    in_stats: Tensor
    gru_stats: Tensor
    out_stats: Tensor


def between(p: Parameters, taken: Tensor, deter: Tensor, index: Tensor, classes: int) -> Steps:
    """Computes the steps between known states again; taken (H, N, A) are the clipped actions."""
    (horizon, batch, _), operand = taken.shape, p.gru.dtype
    rows = horizon * batch
    before, after = deter[:-1].view(rows, -1), deter[1:].view(rows, -1)
    in_stats, gru_stats, out_stats = (deter.new_empty(2, rows) for _ in range(3))
    latent = onehot(index[:-1], classes, p.gru.new_empty(horizon, batch, p.latent)).view(rows, -1)
    pre_in = add_mm(new_mm(latent, p.img_in[:p.latent]), taken.view(rows, -1).to(operand), p.img_in[p.latent:])
    joint, hidden = (p.gru.new_empty(rows, width) for width in (p.deter + p.units, p.units))
    scan_step.step_joint(pre_in, before, p.img_in_scale, p.img_in_bias, joint, in_stats)
    pre_gru = new_mm(joint, p.gru)
    scan_step.step_gates(pre_gru, before, p.gru_scale, p.gru_bias, torch.empty_like(before), None, gru_stats)
    pre_out = new_mm(after.to(operand), p.img_out)
    scan_step.step_norm(pre_out, p.img_out_scale, p.img_out_bias, hidden, out_stats)
    steps = (x.view(horizon, batch, -1) for x in (pre_in, pre_gru, pre_out, new_mm(hidden, p.img_stats)))
    by_step = (x.view(2, horizon, batch).transpose(0, 1).contiguous() for x in (in_stats, gru_stats, out_stats))
    return Steps(*steps, *by_step)


def backward(ddeter: Tensor | None, dstoch: Tensor | None, action: Tensor, deter: Tensor, index: Tensor,
             params: Sequence[Tensor], classes: int, mix: float, half: bool, copies: Sequence[Tensor] = ()) -> Tensor:
    """The gradient of action (H, N, A) from those of the states."""
    operand = torch.bfloat16 if half else torch.float32
    p = Parameters(*params).operands(operand, copies)
    factor = 1 / action.abs().clamp(min=1)
    s = between(p, action * factor, deter, index, classes)
    # The loop adds to both, so they are copies.
    dense, states = torch.contiguous_format, deter.shape[:2]
    ddeter = torch.zeros_like(deter) if ddeter is None else ddeter.clone(memory_format=dense)
    dstoch = deter.new_zeros(*states, p.latent) if dstoch is None else dstoch.flatten(2).clone(memory_format=dense)

    horizon, batch, _ = action.shape
    dlogit, dpre_out, dpre_gru = (p.gru.new_empty(batch, width) for width in (p.latent, p.units, 3 * p.deter))
    dpre_in = p.gru.new_empty(horizon, batch, p.units)
    dhidden, direct, djoint = (deter.new_empty(batch, width) for width in (p.units, p.deter, p.deter + p.units))
    sums, gru_sums = (deter.new_empty(parts_of(batch), 2, width) for width in (p.units, 3 * p.deter))  # not read
    groups = (batch, -1, classes)
    stats_t, out_t, gru_t, in_t = p.img_stats.t(), p.img_out.t(), p.gru.t(), p.img_in[:p.latent].t()
    for t in range(horizon - 1, -1, -1):
        scan_step.step_sample_bwd(s.logit[t].view(groups), p.img_stats_bias, dstoch[t + 1].view(groups), None, mix,
                                  dlogit.view(groups))
        mm_into(dhidden, dlogit, stats_t)
        scan_step.step_norm_bwd(dhidden, s.pre_out[t], s.out_stats[t], p.img_out_scale, p.img_out_bias, dpre_out, sums)
        add_mm(ddeter[t + 1], dpre_out, out_t)
        scan_step.step_gates_bwd(ddeter[t + 1], s.pre_gru[t], deter[t], s.gru_stats[t], p.gru_scale, p.gru_bias,
                                 dpre_gru, direct, gru_sums)
        mm_into(djoint, dpre_gru, gru_t)
        scan_step.step_joint_bwd(djoint, direct, s.pre_in[t], s.in_stats[t], p.img_in_scale, p.img_in_bias, dpre_in[t],
                                 ddeter[t] if t else None, sums)
        if t:
            add_mm(dstoch[t], dpre_in[t], in_t)
    return new_mm(dpre_in.flatten(0, 1), p.img_in[p.latent:].t()).view_as(action) * factor


def register() -> None:
    """The derivative of the op; only the action has one."""
    def setup_context(ctx, inputs, output):
        *tensors, params, classes, mix, half, copies = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *params, *copies)
        ctx.sizes, ctx.options = (len(tensors), len(params), len(copies)), (classes, mix, half)

    def derivative(ctx, ddeter, dstoch):
        saved = iter(ctx.saved_tensors)
        tensors, params, copies = ([*itertools.islice(saved, size)] for size in ctx.sizes)
        daction = torch.ops.hdfast.imagine_states_bwd.default(ddeter, dstoch, *tensors, params, *ctx.options, copies)
        return daction, None, None, [None] * len(params), None, None, None, [None] * len(copies)

    torch.library.register_autograd("hdfast::imagine_states", derivative, setup_context=setup_context)
