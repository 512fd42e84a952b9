"""The posterior scan as a fixed sequence of launches: matrix products of torch, fused kernels between them.

Seven launches a step forward, eight backward; everything that does not depend on the step before is one product over
all T * B rows. No host reads, no branches on values, all buffers allocated before the loop: a CUDA graph captures it.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hdfast.ops import library, scan_step


class Parameters(NamedTuple):
    """observe_scan.PARAMETERS by name."""

    initial: Tensor
    img_in: Tensor
    img_in_scale: Tensor
    img_in_bias: Tensor
    gru: Tensor
    gru_scale: Tensor
    gru_bias: Tensor
    img_out: Tensor
    img_out_scale: Tensor
    img_out_bias: Tensor
    img_stats: Tensor
    img_stats_bias: Tensor
    obs_out: Tensor
    obs_out_scale: Tensor
    obs_out_bias: Tensor
    obs_stats: Tensor
    obs_stats_bias: Tensor

    @property
    def deter(self) -> int:
        return self.img_out.shape[0]

    @property
    def units(self) -> int:
        return self.img_out.shape[1]

    @property
    def latent(self) -> int:
        return self.img_stats.shape[1]


class Saved(NamedTuple):
    """What backward reads, step by step: (T, B, ...) views of one allocation. joint = [h | x] before each step, before
    = that h; hidden, logit of the posterior; *_stats (T, 2, B) mean and rstd. The prior head's are last."""

    pre_in: Tensor
    joint: Tensor
    before: Tensor
    pre_gru: Tensor
    pre_obs: Tensor
    hidden: Tensor
    logit: Tensor
    prior_pre: Tensor
    prior_hidden: Tensor
    prior_logit: Tensor
    in_stats: Tensor
    gru_stats: Tensor
    obs_stats: Tensor


def views(flat: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """One allocation cut into tensors of the given shapes."""
    sizes = [math.prod(shape) for shape in shapes]
    return [x.view(shape) for x, shape in zip(flat.split(sizes), shapes, strict=True)]


def saved_shapes(p: Parameters, length: int, batch: int) -> list[tuple[int, ...]]:
    d, u, z = p.deter, p.units, p.latent
    rows = [(length, batch, n) for n in (u, d + u, d, 3 * d, u, u, z, u, u, z)]
    return [*rows, *[(length, 2, batch)] * 3]


def saved_size(p: Parameters, length: int, batch: int) -> int:
    return sum(map(math.prod, saved_shapes(p, length, batch)))


def prior_head(p: Parameters, deter: Tensor, mix: float, classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """deter (N, D) -> pre-activations, hidden units, logits and log-probabilities (N, S, K)."""
    pre = torch.mm(deter, p.img_out)
    hidden = library.op("norm_act_fwd")(pre, p.img_out_scale, p.img_out_bias)[0]
    logit = torch.addmm(p.img_stats_bias, hidden, p.img_stats)
    return pre, hidden, logit, library.op("unimix_fwd")(logit.unflatten(1, (-1, classes)), mix)


def resets(is_first: Tensor) -> Tensor:
    """Where a step starts from the initial state: is_first, and the first step."""
    reset = is_first.clone()
    reset[0].fill_(True)
    return reset


def forward(embed: Tensor, action: Tensor, is_first: Tensor, u: Tensor, params: list[Tensor], classes: int,
            mix: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As observe_scan; also what backward needs: the flat allocation of Saved, the initial state's indices (S,)."""
    p = Parameters(*params)
    (length, batch), rows, latent = is_first.shape, is_first.numel(), (p.latent // classes, classes)
    deter = embed.new_empty(length, batch, p.deter)
    stoch, post = (embed.new_empty(length, batch, *latent) for _ in range(2))
    index = embed.new_empty(length, batch, latent[0], dtype=torch.int64)
    flat = embed.new_empty(saved_size(p, length, batch))
    s = Saved(*views(flat, saved_shapes(p, length, batch)))

    begin, reset = torch.tanh(p.initial), resets(is_first)
    start = prior_head(p, begin[None], mix, classes)[3][0].argmax(-1)
    masked = action.masked_fill(is_first.unsqueeze(-1), 0)
    kernels, deter_part = (p.img_in[:p.latent], p.img_in[p.latent:]), p.obs_out[:p.deter]
    torch.mm(masked.view(rows, -1), kernels[1], out=s.pre_in.view(rows, -1))
    torch.mm(embed.view(rows, -1), p.obs_out[p.deter:], out=s.pre_obs.view(rows, -1))
    for t in range(length):
        last = (deter[t - 1], index[t - 1]) if t else (None, None)
        scan_step.step_input(s.pre_in[t], *last, None, reset[t], begin, start, *kernels, p.img_in_scale, p.img_in_bias,
                             s.before[t], s.joint[t], s.in_stats[t], accumulate=True)
        torch.mm(s.joint[t], p.gru, out=s.pre_gru[t])
        scan_step.step_gates(s.pre_gru[t], s.before[t], p.gru_scale, p.gru_bias, deter[t], None, s.gru_stats[t])
        s.pre_obs[t].addmm_(deter[t], deter_part)
        scan_step.step_norm(s.pre_obs[t], p.obs_out_scale, p.obs_out_bias, s.hidden[t], s.obs_stats[t])
        torch.addmm(p.obs_stats_bias, s.hidden[t], p.obs_stats, out=s.logit[t])
        scan_step.step_sample(s.logit[t].view(batch, *latent), u[t], mix, post[t], stoch[t].view(batch, -1), index[t])
    *kept, prior = prior_head(p, deter.view(rows, -1), mix, classes)
    for buffer, value in zip((s.prior_pre, s.prior_hidden, s.prior_logit), kept, strict=True):
        buffer.view(rows, -1).copy_(value)
    return deter, stoch, index, post, prior.view_as(post), flat, start


def prior_head_bwd(p: Parameters, s: Saved, deter: Tensor, dprior: Tensor, mix: float,
                   ddeter: Tensor) -> dict[str, Tensor]:
    """Gradients of the prior head's parameters; ddeter (N, D) is added to."""
    rows = len(deter)
    pre, hidden = s.prior_pre.view(rows, -1), s.prior_hidden.view(rows, -1)
    dlogit = library.op("unimix_bwd")(dprior, s.prior_logit.view_as(dprior), mix).view(rows, -1)
    stats = library.op("norm_act_fwd")(pre, p.img_out_scale, p.img_out_bias)[1:]
    dpre, dscale, dbias = library.op("norm_act_bwd")(torch.mm(dlogit, p.img_stats.t()), pre, *stats, p.img_out_scale,
                                                     p.img_out_bias)
    ddeter.addmm_(dpre, p.img_out.t())
    return {"img_out": torch.mm(deter.t(), dpre), "img_out_scale": dscale, "img_out_bias": dbias,
            "img_stats": torch.mm(hidden.t(), dlogit), "img_stats_bias": dlogit.sum(0)}


class Gradients(NamedTuple):
    """Gradients of every step, (T, B, ...): of the pre-activations, of h before the step, and what flows back."""

    dlogit: Tensor
    dpre_obs: Tensor
    dpre_gru: Tensor
    dpre_in: Tensor
    dmasked: Tensor  # dpre_in, 0 where the step starts from the initial state
    dbefore: Tensor


def parts_of(batch: int) -> int:
    """Slices of the rows in which a step's kernels sum parameter gradients: few rows are spread as wide as they go."""
    return batch if batch <= 64 else batch // 4


def loop_bwd(p: Parameters, s: Saved, g: Gradients, reset: Tensor, ddeter: Tensor, dstoch: Tensor,
             dpost: Tensor | None, classes: int, mix: float) -> tuple[Tensor, Tensor, Tensor]:
    """The steps from the last to the first: fills g. ddeter and dstoch hold the outputs' gradients and are added to.

    Returns the sums of scale and bias gradients, (2, C) each, of img_in, gru and obs_out.
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
        scan_step.step_sample_bwd(s.logit[t].view(groups), dstoch[t].view(groups),
                                  None if dpost is None else dpost[t], mix, g.dlogit[t].view(groups))
        torch.mm(g.dlogit[t], stats_t, out=dhidden)
        scan_step.step_norm_bwd(dhidden, s.pre_obs[t], s.obs_stats[t], p.obs_out_scale, p.obs_out_bias, g.dpre_obs[t],
                                obs_sums[t])
        ddeter[t].addmm_(g.dpre_obs[t], obs_t)
        scan_step.step_gates_bwd(ddeter[t], s.pre_gru[t], s.before[t], s.gru_stats[t], p.gru_scale, p.gru_bias,
                                 g.dpre_gru[t], direct, gru_sums[t])
        torch.mm(g.dpre_gru[t], gru_t, out=djoint)
        scan_step.step_input_bwd(djoint, direct, reset[t], s.pre_in[t], s.in_stats[t], p.img_in_scale, p.img_in_bias,
                                 g.dpre_in[t], g.dmasked[t], g.dbefore[t], ddeter[t - 1] if t else None, in_sums[t])
        if t:
            dstoch[t - 1].addmm_(g.dmasked[t], in_t)
    return in_sums.sum((0, 1)), gru_sums.sum((0, 1)), obs_sums.sum((0, 1))


def onehot(index: Tensor, classes: int, like: Tensor) -> Tensor:
    """index (..., S) -> (..., S * classes), of the dtype of `like`; unlike one_hot of torch never a host read."""
    return (index.unsqueeze(-1) == torch.arange(classes, device=index.device)).flatten(-2).to(like.dtype)


def input_kernel_grad(p: Parameters, g: Gradients, index: Tensor, start: Tensor, action: Tensor, reset: Tensor,
                      classes: int) -> Tensor:
    """img_in's: one-hot rows of the state before each step, then of the actions; all initial states are one row."""
    batch, rows = action.shape[1], g.dpre_in.shape[0] * g.dpre_in.shape[1]
    dpre, dmasked = g.dpre_in.view(rows, -1), g.dmasked.view(rows, -1)
    grad = torch.empty_like(p.img_in)
    latent = grad[:p.latent]
    torch.mm(onehot(start, classes, dpre)[:, None], torch.mm(reset, dpre), out=latent)
    latent.addmm_(onehot(index, classes, dpre).view(rows, -1)[:rows - batch].t(), dmasked[batch:])
    torch.mm(action.view(rows, -1).t(), dpre, out=grad[p.latent:])
    return grad


def backward(ddeter: Tensor | None, dstoch: Tensor | None, dpost: Tensor | None, dprior: Tensor | None, embed: Tensor,
             action: Tensor, is_first: Tensor, params: list[Tensor], deter: Tensor, index: Tensor, _post: Tensor,
             _prior: Tensor, flat: Tensor, start: Tensor, classes: int, mix: float, need_embed: bool) -> list[Tensor]:
    """Gradients of embed (empty where not wanted) and of every parameter, from those of the outputs."""
    p = Parameters(*params)
    (length, batch), rows = is_first.shape, is_first.numel()
    s = Saved(*views(flat, saved_shapes(p, length, batch)))
    # The loop adds to both, so they are copies.
    ddeter = torch.zeros_like(deter) if ddeter is None else ddeter.clone()
    dstoch = deter.new_zeros(length, batch, p.latent) if dstoch is None else dstoch.flatten(2).clone()
    shapes = [(length, batch, n) for n in (p.latent, p.units, 3 * p.deter, p.units, p.units, p.deter)]
    g = Gradients(*views(deter.new_empty(sum(map(math.prod, shapes))), shapes))
    reset, flat_deter = resets(is_first), deter.view(rows, -1)
    zero = {name: torch.zeros_like(getattr(p, name)) for name in Parameters._fields[7:12]} if dprior is None else {}
    head = zero or prior_head_bwd(p, s, flat_deter, dprior, mix, ddeter.view(rows, -1))
    in_sums, gru_sums, obs_sums = loop_bwd(p, s, g, reset, ddeter, dstoch, dpost, classes, mix)

    dlogit, dpre_obs, dpre_gru, _, _, dbefore = (x.view(rows, -1) for x in g)
    flat_embed, weight = embed.view(rows, -1), reset.view(1, rows).to(deter.dtype)
    dobs_out = torch.empty_like(p.obs_out)
    torch.mm(flat_deter.t(), dpre_obs, out=dobs_out[:p.deter])
    torch.mm(flat_embed.t(), dpre_obs, out=dobs_out[p.deter:])
    begin = torch.tanh(p.initial)
    grads = head | {
        "initial": (1 - begin * begin) * torch.mm(weight, dbefore).view(-1),
        "img_in": input_kernel_grad(p, g, index, start, action.masked_fill(is_first.unsqueeze(-1), 0), weight, classes),
        "gru": torch.mm(s.joint.view(rows, -1).t(), dpre_gru), "obs_out": dobs_out,
        "obs_stats": torch.mm(s.hidden.view(rows, -1).t(), dlogit), "obs_stats_bias": dlogit.sum(0)}
    for name, sums in (("img_in", in_sums), ("gru", gru_sums), ("obs_out", obs_sums)):
        grads[f"{name}_scale"], grads[f"{name}_bias"] = sums[0].clone(), sums[1].clone()
    dembed = torch.mm(dpre_obs, p.obs_out[p.deter:].t()).view_as(embed) if need_embed else embed.new_empty(0)
    return [dembed, *(grads[name] for name in Parameters._fields)]
