"""The posterior scan as a fixed sequence of launches: matrix products of torch, fused kernels between them.

Six launches a step forward, eight backward; everything that does not depend on the step before is one product over
all T * B rows. No host reads, no branches on values, all buffers allocated before the loop: a CUDA graph captures it.

The embedding's type is that of every product's operands. With bfloat16 the state, all sums, statistics, gates and
logits stay float32: the kernels round what the next product reads as they write it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hdfast.ops import library, scan_step
from hdfast.ops.products import add_mm, mm_into, new_mm
from hdfast.ops.state import Parameters

PRIOR_HEAD = ("img_out", "img_out_scale", "img_out_bias", "img_stats", "img_stats_bias")


class Saved(NamedTuple):
    """What backward reads, step by step, (T, B, ...). joint = [h | x] before each step, before = that h; hidden, logit
    of the posterior; deter as an operand, which float32 needs no copy of; the prior head's; *_stats (T, 2, B) mean and
    rstd. OPERANDS have the operands' type. Logits are products alone: their biases are added where they are read."""

    pre_in: Tensor
    joint: Tensor
    before: Tensor
    pre_gru: Tensor
    pre_obs: Tensor
    hidden: Tensor
    logit: Tensor
    deter: Tensor
    prior_pre: Tensor
    prior_hidden: Tensor
    prior_logit: Tensor
    in_stats: Tensor
    gru_stats: Tensor
    obs_stats: Tensor
    prior_stats: Tensor


OPERANDS = ("joint", "hidden", "deter", "prior_hidden")


def new_saved(p: Parameters, length: int, batch: int, operand: torch.dtype) -> Saved:
    """Empty buffers of a scan."""
    d, u, z = p.deter, p.units, p.latent
    widths = (u, d + u, d, 3 * d, u, u, z, 0 if operand is torch.float32 else d, u, u, z)
    steps = [p.initial.new_empty(length, batch, width, dtype=operand if name in OPERANDS else torch.float32)
             for name, width in zip(Saved._fields, widths, strict=False)]
    return Saved(*steps, *(p.initial.new_empty(length, 2, batch) for _ in range(4)))


def prior_head(p: Parameters, deter: Tensor, mix: float, classes: int, pre: Tensor, hidden: Tensor, logit: Tensor,
               stats: Tensor) -> Tensor:
    """deter (N, D), an operand -> log-probabilities (N, S, K); the buffers get what backward needs."""
    mm_into(pre, deter, p.img_out)
    scan_step.step_norm(pre, p.img_out_scale, p.img_out_bias, hidden, stats)
    groups = mm_into(logit, hidden, p.img_stats).unflatten(1, (-1, classes))
    logp = torch.empty_like(groups)
    scan_step.log_probs(groups, p.img_stats_bias, mix, logp)
    return logp


def start_index(p: Parameters, begin: Tensor, classes: int, mix: float) -> Tensor:
    """Mode of the prior of the initial state: begin (D,) -> (S,)."""
    row, operand = begin[None].to(p.img_out.dtype), p.img_out.dtype
    pre, logit, stats = (begin.new_empty(shape) for shape in ((1, p.units), (1, p.latent), (2, 1)))
    return prior_head(p, row, mix, classes, pre, pre.new_empty(1, p.units, dtype=operand), logit, stats)[0].argmax(-1)


def resets(is_first: Tensor) -> Tensor:
    """Where a step starts from the initial state: is_first, and the first step."""
    reset = is_first.clone()
    reset[0].fill_(True)
    return reset


def forward(embed: Tensor, action: Tensor, is_first: Tensor, u: Tensor, params: list[Tensor], classes: int, mix: float,
            copies: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
    """As observe_scan; also what backward needs: the initial state's indices (S,), and Saved."""
    p, operand = Parameters(*params).operands(embed.dtype, copies), embed.dtype
    (length, batch), rows, latent = is_first.shape, is_first.numel(), (p.latent // classes, classes)
    deter = action.new_empty(length, batch, p.deter)
    stoch, post = (action.new_empty(length, batch, *latent) for _ in range(2))
    index = action.new_empty(length, batch, latent[0], dtype=torch.int64)
    s = new_saved(p, length, batch, operand)
    copied = deter if operand is torch.float32 else s.deter

    begin, reset = torch.tanh(p.initial), resets(is_first)
    start = start_index(p, begin, classes, mix)
    masked = action.masked_fill(is_first.unsqueeze(-1), 0).to(operand)
    deter_part = p.obs_out[:p.deter]
    mm_into(s.pre_in.view(rows, -1), masked.view(rows, -1), p.img_in[p.latent:])
    mm_into(s.pre_obs.view(rows, -1), embed.view(rows, -1), p.obs_out[p.deter:])
    gathered = p.img_in[:p.latent], p.img_in_scale, p.img_in_bias
    into = [(s.before[t], s.joint[t], s.in_stats[t]) for t in range(length)]
    scan_step.step_start(s.pre_in[0], begin, start, *gathered, *into[0])
    for t in range(length):
        mm_into(s.pre_gru[t], s.joint[t], p.gru)
        scan_step.step_gates(s.pre_gru[t], s.before[t], p.gru_scale, p.gru_bias, deter[t],
                             None if copied is deter else copied[t], s.gru_stats[t])
        add_mm(s.pre_obs[t], copied[t], deter_part)
        scan_step.step_norm(s.pre_obs[t], p.obs_out_scale, p.obs_out_bias, s.hidden[t], s.obs_stats[t])
        mm_into(s.logit[t], s.hidden[t], p.obs_stats)
        draw = scan_step.Draw(s.logit[t].view(batch, *latent), p.obs_stats_bias, u[t], mix, post[t],
                              stoch[t].view(batch, -1), index[t])
        if t + 1 < length:  # the sample is taken with the next step's input
            scan_step.step_next(s.pre_in[t + 1], (deter[t], begin, start), reset[t + 1], draw, *gathered, *into[t + 1])
        else:
            scan_step.step_sample(draw)
    prior = prior_head(p, copied.view(rows, -1), mix, classes, s.prior_pre.view(rows, -1),
                       s.prior_hidden.view(rows, -1), s.prior_logit.view(rows, -1), s.prior_stats.view(2, rows))
    return deter, stoch, index, post, prior.view_as(post), start, *s


def prior_head_bwd(p: Parameters, s: Saved, deter: Tensor, dprior: Tensor, mix: float,
                   ddeter: Tensor) -> dict[str, Tensor]:
    """Gradients of the prior head's parameters; deter (N, D) an operand, ddeter (N, D) is added to."""
    rows, operand = len(deter), p.img_out.dtype
    hidden = s.prior_hidden.view(rows, -1)
    dlogit = hidden.new_empty(rows, p.latent)
    dlogp = dprior.flatten(0, 1)
    scan_step.step_sample_bwd(s.prior_logit.view_as(dlogp), p.img_stats_bias, None, dlogp, mix, dlogit.view_as(dlogp))
    dpre, dscale, dbias = library.op("norm_act_bwd")(new_mm(dlogit, p.img_stats.t()), s.prior_pre.view(rows, -1),
                                                     *s.prior_stats.view(2, rows), p.img_out_scale, p.img_out_bias)
    dpre = dpre.to(operand)
    add_mm(ddeter, dpre, p.img_out.t())
    return {"img_out": new_mm(deter.t(), dpre), "img_out_scale": dscale, "img_out_bias": dbias,
            "img_stats": new_mm(hidden.t(), dlogit), "img_stats_bias": dlogit.sum(0, dtype=torch.float32)}


class Gradients(NamedTuple):
    """Gradients of every step, (T, B, ...): of logits and pre-activations, as operands, and of h before the step."""

    dlogit: Tensor
    dpre_obs: Tensor
    dpre_gru: Tensor
    dpre_in: Tensor
    dmasked: Tensor  # dpre_in, 0 where the step starts from the initial state; not written for the first step
    dbefore: Tensor


def parts_of(batch: int) -> int:
    """Slices of the rows in which a step's kernels sum parameter gradients: few rows are spread as wide as they go."""
    return batch if batch <= 64 else batch // 4


def loop_bwd(p: Parameters, s: Saved, g: Gradients, reset: Tensor, ddeter: Tensor, dstoch: Tensor,
             dpost: Tensor | None, classes: int, mix: float) -> list[Tensor]:
    """The steps from the last to the first: fills g. ddeter and dstoch hold the outputs' gradients and are added to.

    Returns the gradients of scale and bias, (C,) each, of img_in, gru and obs_out.
    """
    length, batch, _ = ddeter.shape
    in_sums, gru_sums, obs_sums = (ddeter.new_empty(length, parts_of(batch), 2, n)
                                   for n in (p.units, 3 * p.deter, p.units))
    dhidden, direct = ddeter.new_empty(batch, p.units), ddeter.new_empty(batch, p.deter)
    djoint = ddeter.new_empty(batch, p.deter + p.units)
    groups = (batch, -1, classes)
    stats_t, obs_t, gru_t = p.obs_stats.t(), p.obs_out[:p.deter].t(), p.gru.t()
    in_t = p.img_in[:p.latent].t()
    for t in range(length - 1, -1, -1):
        scan_step.step_sample_bwd(s.logit[t].view(groups), p.obs_stats_bias, dstoch[t].view(groups),
                                  None if dpost is None else dpost[t], mix, g.dlogit[t].view(groups))
        mm_into(dhidden, g.dlogit[t], stats_t)
        scan_step.step_norm_bwd(dhidden, s.pre_obs[t], s.obs_stats[t], p.obs_out_scale, p.obs_out_bias, g.dpre_obs[t],
                                obs_sums[t])
        add_mm(ddeter[t], g.dpre_obs[t], obs_t)
        scan_step.step_gates_bwd(ddeter[t], s.pre_gru[t], s.before[t], s.gru_stats[t], p.gru_scale, p.gru_bias,
                                 g.dpre_gru[t], direct, gru_sums[t])
        mm_into(djoint, g.dpre_gru[t], gru_t)
        norm = s.pre_in[t], s.in_stats[t], p.img_in_scale, p.img_in_bias
        if t:
            scan_step.step_next_bwd(djoint, direct, reset[t], *norm, g.dpre_in[t], g.dmasked[t], g.dbefore[t],
                                    ddeter[t - 1], in_sums[t])
            add_mm(dstoch[t - 1], g.dmasked[t], in_t)
        else:
            scan_step.step_start_bwd(djoint, direct, *norm, g.dpre_in[t], g.dbefore[t], in_sums[t])
    return [x for sums in (in_sums, gru_sums, obs_sums) for x in sums.sum((0, 1))]


def onehot(index: Tensor, classes: int, out: Tensor) -> Tensor:
    """index (..., S) -> out (..., S * classes), in one launch; unlike one_hot of torch never a host read."""
    torch.eq(index.unsqueeze(-1), torch.arange(classes, device=index.device), out=out.unflatten(-1, (-1, classes)))
    return out


def input_kernel_grad(p: Parameters, g: Gradients, index: Tensor, start: Tensor, action: Tensor, reset: Tensor,
                      classes: int) -> Tensor:
    """img_in's: one-hot rows of the state before each step, then of the actions; all initial states are one row."""
    batch, rows = action.shape[1], g.dpre_in.shape[0] * g.dpre_in.shape[1]
    dpre, dmasked = g.dpre_in.view(rows, -1), g.dmasked.view(rows, -1)
    grad = torch.empty_like(p.img_in, dtype=torch.float32)
    latent = grad[:p.latent]
    torch.mm(onehot(start, classes, grad.new_empty(p.latent))[:, None], new_mm(reset, dpre), out=latent)
    before = onehot(index, classes, dpre.new_empty(*index.shape[:2], p.latent))[:-1]
    add_mm(latent, before.flatten(0, 1).t(), dmasked[batch:])
    mm_into(grad[p.latent:], action.view(rows, -1).t(), dpre)
    return grad


def backward(ddeter: Tensor | None, dstoch: Tensor | None, dpost: Tensor | None, dprior: Tensor | None,
             inputs: Sequence[Tensor], params: Sequence[Tensor], kept: Sequence[Tensor], classes: int, mix: float,
             need_embed: bool, copies: Sequence[Tensor] = ()) -> list[Tensor]:
    """Gradients of embed (empty where not wanted) and of every parameter, from those of the outputs. inputs are embed,
    action and is_first, kept what forward returned, without stoch."""
    (embed, action, is_first), (deter, index, _, _, start, *saved) = inputs, kept
    weights, operand = Parameters(*params), embed.dtype
    p = weights.operands(operand, copies)
    (length, batch), rows = is_first.shape, is_first.numel()
    s = Saved(*saved)
    # The loop adds to both, so they are copies.
    dense = torch.contiguous_format
    ddeter = torch.zeros_like(deter) if ddeter is None else ddeter.clone(memory_format=dense)
    dstoch = deter.new_zeros(length, batch, p.latent) if dstoch is None else \
        dstoch.flatten(2).clone(memory_format=dense)
    dpost, dprior = (None if x is None else x.contiguous() for x in (dpost, dprior))
    widths = (p.latent, p.units, 3 * p.deter, p.units, p.units)
    g = Gradients(*(embed.new_empty(length, batch, width) for width in widths), torch.empty_like(deter))
    reset, copied = resets(is_first), (deter if operand is torch.float32 else s.deter).view(rows, -1)
    if dprior is None:
        head = {name: torch.zeros_like(getattr(weights, name)) for name in PRIOR_HEAD}
    else:
        head = prior_head_bwd(p, s, copied, dprior, mix, ddeter.view(rows, -1))
    sums = loop_bwd(p, s, g, reset, ddeter, dstoch, dpost, classes, mix)

    dlogit, dpre_obs, dpre_gru, _, _, dbefore = (x.view(rows, -1) for x in g)
    dobs_out = torch.empty_like(weights.obs_out)
    mm_into(dobs_out[:p.deter], copied.t(), dpre_obs)
    mm_into(dobs_out[p.deter:], embed.view(rows, -1).t(), dpre_obs)
    begin, weight = torch.tanh(p.initial), reset.view(1, rows)
    masked = action.masked_fill(is_first.unsqueeze(-1), 0).to(operand)
    grads = head | {
        "initial": (1 - begin * begin) * torch.mm(weight.to(dbefore.dtype), dbefore).view(-1),
        "img_in": input_kernel_grad(p, g, index, start, masked, weight.to(operand), classes),
        "gru": new_mm(s.joint.view(rows, -1).t(), dpre_gru), "obs_out": dobs_out,
        "obs_stats": new_mm(s.hidden.view(rows, -1).t(), dlogit),
        "obs_stats_bias": dlogit.sum(0, dtype=torch.float32)}
    names = [f"{name}_{part}" for name in ("img_in", "gru", "obs_out") for part in ("scale", "bias")]
    grads |= dict(zip(names, sums, strict=True))
    dembed = torch.mm(dpre_obs, p.obs_out[p.deter:].t()).view_as(embed) if need_embed else embed.new_empty(0)
    return [dembed, *(grads[name] for name in Parameters._fields)]
