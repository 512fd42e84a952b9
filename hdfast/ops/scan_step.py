"""What stands between two matrix products of a step of the recurrence, one launch each, written into given buffers.

Buffers that a product reads (joint, y, copy, onehot, dpre, dmasked, dx, dlogit) may be float32 or bfloat16, the kernels
whose rows are gathered have joint's type; everything else is float32. Gradients of scales and biases are left as sums
over slices of the rows (`partial`), for the caller to add up once after all steps. The equations stand in
csrc/kernels/scan_step.h, gru_gates.h and latent.h.
"""

from typing import NamedTuple

from torch import Tensor

from hdfast.ops import library

OPS = ("scan_input_fwd", "scan_input_bwd", "scan_gates_fwd", "scan_gates_bwd", "scan_sample_fwd", "scan_sample_bwd")
PUBLIC = ()


class Draw(NamedTuple):
    """A sample of unimix(logit + bias) by uniforms u: logit (B, S, K), bias (S*K,), u (B, S). logp (B, S, K) gets the
    log-probabilities, index (B, S) the sample, and onehot (B, S*K), of any row stride, too."""

    logit: Tensor | None
    bias: Tensor | None
    u: Tensor | None
    mix: float
    logp: Tensor | None
    onehot: Tensor | None
    index: Tensor | None


NOTHING = Draw(None, None, None, 0.0, None, None, None)


def step_input(pre: Tensor, deter: Tensor | None, index: Tensor | None, reset: Tensor | None, start: Tensor | None,
               start_index: Tensor | None, kernel: Tensor, action_kernel: Tensor | None, scale: Tensor, bias: Tensor,
               before: Tensor | None, joint: Tensor, stats: Tensor, *, accumulate: bool, draw: Draw = NOTHING) -> None:
    """State and input of a step.

    pre (B, U) gets the rows that index (B, S) picks of kernel (S*K, U), added to what it holds where accumulate; joint
    (B, D + U), of any row stride, = [h | silu(LN(pre))]; before (B, D) = h; stats (2, B) mean and rstd. With start (D,)
    and start_index (S,) they are the state where reset (B,), and everywhere where deter and index are absent. What is
    drawn first, in the same launch up to 32 classes, is the action where there is action_kernel (A, U), whose row is
    added, too, else what index would be.
    """
    library.op("scan_input_fwd")(pre, deter, index, reset, start, start_index, kernel, action_kernel, scale, bias,
                                 before, joint, stats, accumulate, *draw)


def step_input_bwd(djoint: Tensor, direct: Tensor, reset: Tensor, pre: Tensor, stats: Tensor, scale: Tensor,
                   bias: Tensor, dpre: Tensor, dmasked: Tensor, dbefore: Tensor, carry: Tensor | None,
                   partial: Tensor) -> None:
    """Its backward: djoint (B, D + U) and direct (B, D), the gradient that reaches h beside joint -> dpre (B, U), and
    dmasked which is 0 where reset; dbefore (B, D), added to carry where not reset; partial (parts, 2, U)."""
    library.op("scan_input_bwd")(djoint, direct, reset, pre, stats, scale, bias, dpre, dmasked, dbefore, carry, partial)


def step_norm(x: Tensor, scale: Tensor, bias: Tensor, y: Tensor, stats: Tensor) -> None:
    """y = silu(LN(x)), (B, U); stats (2, B) = mean, rstd."""
    library.op("scan_input_fwd")(x, None, None, None, None, None, None, None, scale, bias, None, y, stats, True,
                                 *NOTHING)


def step_norm_bwd(dy: Tensor, x: Tensor, stats: Tensor, scale: Tensor, bias: Tensor, dx: Tensor,
                  partial: Tensor) -> None:
    """dx (B, U) from dy; partial (parts, 2, U)."""
    library.op("scan_input_bwd")(dy, None, None, x, stats, scale, bias, dx, None, None, None, partial)


def step_gates(x: Tensor, deter: Tensor, scale: Tensor, bias: Tensor, following: Tensor, copy: Tensor | None,
               stats: Tensor) -> None:
    """following = gru_gates(x, deter), (B, D); copy (B, D), of any row stride, gets it too."""
    library.op("scan_gates_fwd")(x, deter, scale, bias, following, copy, stats)


def step_gates_bwd(dnext: Tensor, x: Tensor, deter: Tensor, stats: Tensor, scale: Tensor, bias: Tensor, dx: Tensor,
                   ddeter: Tensor, partial: Tensor) -> None:
    """dx (B, 3D), ddeter (B, D) from dnext; partial (parts, 2, 3D)."""
    library.op("scan_gates_bwd")(dnext, x, deter, stats, scale, bias, dx, ddeter, partial)


def step_sample(draw: Draw) -> None:
    """A draw alone."""
    library.op("scan_sample_fwd")(*draw)


def log_probs(logit: Tensor, bias: Tensor, mix: float, logp: Tensor) -> None:
    """logp (B, S, K) = unimix(logit + bias)."""
    library.op("scan_sample_fwd")(logit, bias, None, mix, logp, None, None)


def step_sample_bwd(logit: Tensor, bias: Tensor, donehot: Tensor | None, dlogp: Tensor | None, mix: float,
                    dlogit: Tensor) -> None:
    """dlogit (B, S, K) from the gradients of the sample, straight-through, and of logp."""
    library.op("scan_sample_bwd")(logit, bias, donehot, dlogp, mix, dlogit)


def register(namespace: str) -> None:
    """Tracing has nothing to shape: all results are in buffers. The derivative is the caller's backward."""
    for name in OPS:
        library.register_fake(f"{namespace}::{name}", lambda *args: None)
