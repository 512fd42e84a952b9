"""What stands between two matrix products of a step of the recurrence, one launch each, written into given buffers.

Buffers that a product reads (joint, y, copy, onehot, dpre, dmasked, dx, dlogit) may be float32 or bfloat16, the kernels
whose rows are gathered have joint's type; everything else is float32. Gradients of scales and biases are left as sums
over slices of the rows (`partial`), for the caller to add up once after all steps. The equations stand in
csrc/kernels/scan_step.h, gru_gates.h and latent.h.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from hdfast.ops import library

OPS = ("scan_norm_fwd", "scan_norm_bwd", "scan_joint_fwd", "scan_joint_bwd", "scan_start_fwd", "scan_start_bwd",
       "scan_next_fwd", "scan_next_bwd", "scan_gather", "scan_act", "scan_gates_fwd", "scan_gates_bwd", "scan_logp_fwd",
       "scan_sample_fwd", "scan_sample_bwd")
PUBLIC = ()


class Draw(NamedTuple):
    """A sample of unimix(logit + bias) by uniforms u: logit (B, S, K), bias (S*K,), u (B, S). index (B, S) gets the
    sample; logp (B, S, K) the log-probabilities and onehot (B, S*K), of any row stride, the sample, where wanted."""

    logit: Tensor
    bias: Tensor
    u: Tensor
    mix: float
    logp: Tensor | None
    onehot: Tensor | None
    index: Tensor

    @property
    def inputs(self) -> list[Tensor]:
        return [self.logit, self.bias, self.u]


def _raw(name: str) -> Callable[..., None]:
    """The raw op of this name, with its arguments as they are."""
    return lambda *arguments: library.op(name)(*arguments)


# (x, scale, bias, y, stats): y = silu(LN(x)), (B, U), y of any row stride; stats (2, B) = mean, rstd.
step_norm = _raw("scan_norm_fwd")
# (dy, x, stats, scale, bias, dx, partial): dx (B, U) from dy; partial (parts, 2, U).
step_norm_bwd = _raw("scan_norm_bwd")

# The inputs of a step: pre (B, U) gets rows of kernels added; joint (B, D + U), of any row stride, = [h, silu(LN(pre))]
# with h the state before the step; stats (2, B) = mean, rstd of pre.

# (pre, deter, scale, bias, joint, stats): pre is whole already, h = deter (B, D).
step_joint = _raw("scan_joint_fwd")
# (djoint, direct, pre, stats, scale, bias, dpre, carry or None, partial): as step_start_bwd; the gradient of h is added
# to carry (B, D).
step_joint_bwd = _raw("scan_joint_bwd")
# (pre, start, start_index, kernel, scale, bias, before, joint, stats): all rows from one state, start (D,) and
# start_index (S,), whose rows of kernel (S*K, U) are added to pre; before (B, D) = h.
step_start = _raw("scan_start_fwd")
# (djoint, direct, pre, stats, scale, bias, dpre, dbefore, partial): djoint (B, D + U) and direct (B, D), the gradient
# that reaches h beside joint -> dpre (B, U), dbefore (B, D), partial (parts, 2, U).
step_start_bwd = _raw("scan_start_bwd")
# (djoint, direct, reset, pre, stats, scale, bias, dpre, dmasked, dbefore, carry, partial): as step_start_bwd; dmasked =
# dpre, 0 where reset; dbefore is added to carry (B, D) where not reset.
step_next_bwd = _raw("scan_next_bwd")

# (x, deter, scale, bias, following, copy, stats): following = gru_gates(x, deter), (B, D); copy (B, D), of any row
# stride, or None, gets it too.
step_gates = _raw("scan_gates_fwd")
# (dnext, x, deter, stats, scale, bias, dx, ddeter, partial): dx (B, 3D), ddeter (B, D) from dnext; partial
# (parts, 2, 3D).
step_gates_bwd = _raw("scan_gates_bwd")

# (logit, bias, mix, logp): logp (B, S, K) = unimix(logit + bias).
log_probs = _raw("scan_logp_fwd")
# (logit, bias, donehot or None, dlogp or None, mix, dlogit): dlogit (B, S, K) from the gradients of the sample,
# straight-through, and of logp.
step_sample_bwd = _raw("scan_sample_bwd")


def step_next(pre: Tensor, state: tuple[Tensor, Tensor, Tensor], reset: Tensor, draw: Draw, kernel: Tensor,
              scale: Tensor, bias: Tensor, before: Tensor, joint: Tensor, stats: Tensor) -> None:
    """The latents are drawn first, in the same launch up to 32 classes; their rows of kernel (S*K, U) are added to pre.

    state is deter (B, D) and, taken where reset (B,), start (D,) and start_index (S,); before (B, D) = h.
    """
    library.op("scan_next_fwd")(pre, list(state), reset, draw.inputs, draw.mix, [draw.logp, draw.onehot, draw.index],
                                kernel, scale, bias, before, joint, stats)


def step_gather(pre: Tensor, deter: Tensor, index: Tensor, draw: Draw, kernel: Tensor, action_kernel: Tensor,
                scale: Tensor, bias: Tensor, joint: Tensor, stats: Tensor) -> None:
    """pre = rows of kernel (S*K, U) by index (B, S), and of action_kernel (A, U) by the action, drawn first:
    draw.logit (B, 1, A). No logp and no onehot of it."""
    library.op("scan_gather")(pre, deter, index, draw.inputs, draw.mix, draw.index, kernel, action_kernel, scale, bias,
                              joint, stats)


def step_act(pre: Tensor, deter: Tensor, draw: Draw, action_kernel: Tensor, scale: Tensor, bias: Tensor, joint: Tensor,
             stats: Tensor) -> None:
    """As step_gather; pre holds the latents' part already."""
    library.op("scan_act")(pre, deter, draw.inputs, draw.mix, draw.index, action_kernel, scale, bias, joint, stats)


def step_sample(draw: Draw) -> None:
    """A draw alone."""
    library.op("scan_sample_fwd")(draw.inputs, draw.mix, draw.logp, draw.onehot, draw.index)


def register(namespace: str) -> None:
    """Tracing has nothing to shape: all results are in buffers. The derivative is the caller's backward."""
    for name in OPS:
        library.register_fake(f"{namespace}::{name}", lambda *args: None)
