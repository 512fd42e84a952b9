"""What stands between two matrix products of a step of the recurrence, written into buffers that the caller gives."""

import torch
from torch import Tensor

from hdfast.ops import library


def step_input(pre: Tensor, deter: Tensor | None, index: Tensor | None, action: Tensor | None, reset: Tensor | None,
               start: Tensor | None, start_index: Tensor | None, kernel: Tensor, action_kernel: Tensor, scale: Tensor,
               bias: Tensor, before: Tensor | None, joint: Tensor, stats: Tensor, *, accumulate: bool) -> None:
    """State and input of a step.

    pre (B, U) gets the rows that index (B, S) picks of kernel (S*K, U) and action (B,) of action_kernel (A, U), added
    to what it holds where accumulate; joint (B, D + U) = [h | silu(LN(pre))], before (B, D) = h. With start (D,) and
    start_index (S,) they are the state where reset (B,), and everywhere where deter and index are absent.
    """
    rows, size = len(pre), joint.shape[1] - pre.shape[1]
    if start is not None:
        deter = start.expand(rows, -1) if deter is None else torch.where(reset[:, None], start, deter)
        index = start_index.expand(rows, -1) if index is None else torch.where(reset[:, None], start_index, index)
        before.copy_(deter)
    if not accumulate:
        pre.zero_()
    if action is not None:
        pre.add_(action_kernel[action])
    if index is not None:
        groups = torch.arange(index.shape[1], device=pre.device) * (len(kernel) // index.shape[1])
        pre.add_(kernel[index + groups].sum(1))
    x, mean, rstd = library.op("norm_act_fwd")(pre, scale, bias)
    joint[:, :size].copy_(deter)
    joint[:, size:].copy_(x)
    stats[0].copy_(mean), stats[1].copy_(rstd)


def step_input_bwd(djoint: Tensor, direct: Tensor, reset: Tensor, pre: Tensor, stats: Tensor, scale: Tensor,
                   bias: Tensor, dpre: Tensor, dmasked: Tensor, dbefore: Tensor, carry: Tensor | None,
                   partial: Tensor) -> None:
    """Its backward: dpre and dmasked (B, U), dmasked 0 where reset; dbefore (B, D), added to carry where not reset."""
    size = direct.shape[1]
    dx, dscale, dbias = library.op("norm_act_bwd")(djoint[:, size:].contiguous(), pre, *stats, scale, bias)
    dpre.copy_(dx)
    dmasked.copy_(dx.masked_fill(reset[:, None], 0))
    torch.add(djoint[:, :size], direct, out=dbefore)
    if carry is not None:
        carry.add_(dbefore.masked_fill(reset[:, None], 0))
    partial.zero_()
    partial[0, 0].copy_(dscale), partial[0, 1].copy_(dbias)


def step_norm(x: Tensor, scale: Tensor, bias: Tensor, y: Tensor, stats: Tensor) -> None:
    """y = silu(LN(x)), (B, U); stats (2, B) = mean, rstd."""
    for out, value in zip((y, *stats), library.op("norm_act_fwd")(x, scale, bias), strict=True):
        out.copy_(value)


def step_norm_bwd(dy: Tensor, x: Tensor, stats: Tensor, scale: Tensor, bias: Tensor, dx: Tensor,
                  partial: Tensor) -> None:
    """dx (B, U); partial (parts, 2, U): sums over parts of the rows that add up to dscale and dbias."""
    value, dscale, dbias = library.op("norm_act_bwd")(dy, x, *stats, scale, bias)
    dx.copy_(value)
    partial.zero_()
    partial[0, 0].copy_(dscale), partial[0, 1].copy_(dbias)


def step_gates(x: Tensor, deter: Tensor, scale: Tensor, bias: Tensor, following: Tensor, copy: Tensor | None,
               stats: Tensor) -> None:
    """following = gru_gates(x, deter), (B, D); copy (B, D), of any row stride, gets it too."""
    for out, value in zip((following, *stats), library.op("gru_gates_fwd")(x, deter, scale, bias), strict=True):
        out.copy_(value)
    if copy is not None:
        copy.copy_(following)


def step_gates_bwd(dnext: Tensor, x: Tensor, deter: Tensor, stats: Tensor, scale: Tensor, bias: Tensor, dx: Tensor,
                   ddeter: Tensor, partial: Tensor) -> None:
    """dx (B, 3D), ddeter (B, D); partial (parts, 2, 3D) as in step_norm_bwd."""
    values = library.op("gru_gates_bwd")(dnext, x, deter, *stats, scale, bias)
    dx.copy_(values[0]), ddeter.copy_(values[1])
    partial.zero_()
    partial[0, 0].copy_(values[2]), partial[0, 1].copy_(values[3])


def step_sample(logit: Tensor, u: Tensor, mix: float, logp: Tensor | None, onehot: Tensor | None,
                index: Tensor) -> None:
    """index (B, S) of a sample of unimix(logit), logit (B, S, K); logp (B, S, K) gets the log-probabilities, onehot
    (B, S*K), of any row stride, the sample."""
    value = library.op("unimix_fwd")(logit, mix)
    sample, which = library.op("sample_latent_fwd")(value, u)
    index.copy_(which)
    if logp is not None:
        logp.copy_(value)
    if onehot is not None:
        onehot.copy_(sample.flatten(1))


def step_sample_bwd(logit: Tensor, donehot: Tensor, dlogp: Tensor | None, mix: float, dlogit: Tensor) -> None:
    """dlogit (B, S, K) from the gradients of the sample and of logp."""
    logp = library.op("unimix_fwd")(logit, mix)
    total = library.op("sample_latent_bwd")(donehot, logp)
    dlogit.copy_(library.op("unimix_bwd")(total if dlogp is None else total + dlogp, logit, mix))
