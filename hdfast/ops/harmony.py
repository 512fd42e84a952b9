"""Harmonized mean of the world-model losses as one native op; its backward is arithmetic on a dozen numbers."""

import torch
from torch import Tensor

from hdfast.ops import checks, library, reference

OPS = ("harmony_fwd", "harmony_bwd")
PUBLIC = ("harmony_loss", "weighted_loss")

NAMES = ("reward", "image", "dyn", "rep", "cont")
MODES = {"rectified": 0, "plain": 1, "off": 2}


def harmony_loss(losses: dict[str, Tensor], s: Tensor, *, harmonized: tuple[str, ...] = ("reward", "image", "kl"),
                 mode: str = "rectified", dyn_share: float = 5 / 6) -> tuple[Tensor, Tensor]:
    """losses {'reward', 'image', 'dyn', 'rep', 'cont'}, each (...) of one shape, s (3,) -> total (), terms (3,)."""
    if mode not in ("rectified", "plain"):
        raise ValueError(f"harmony_loss: mode must be 'rectified' or 'plain', got {mode!r}; fixed weights are "
                         f"weighted_loss")
    if harmonized != ("reward", "image", "kl") or set(losses) != set(NAMES):
        return reference.harmony_loss(losses, s, harmonized=harmonized, mode=mode, dyn_share=dyn_share)
    checks.dtype("harmony_loss", torch.float32, s=s)
    checks.shape("harmony_loss", (3,), "(3,), for reward, image and KL", s=s)
    checks.devices("harmony_loss", s=s, **losses)
    return library.op("harmony_fwd")(*flat(losses), s.contiguous(), MODES[mode], dyn_share, [])[:2]


def weighted_loss(losses: dict[str, Tensor], scales: dict[str, float]) -> tuple[Tensor, Tensor]:
    """Mode 'off': the same mean with fixed scales by name -> total (), terms (3,) of reward, image and KL."""
    if set(losses) != set(NAMES):
        return reference.weighted_loss(losses, scales)
    fixed = [float(scales[name]) for name in NAMES]
    return library.op("harmony_fwd")(*flat(losses), None, MODES["off"], 1.0, fixed)[:2]


def flat(losses: dict[str, Tensor]) -> list[Tensor]:
    """The five losses in order, as contiguous float32 vectors."""
    if set(losses) != set(NAMES):
        raise ValueError(f"harmony_loss: losses must be {sorted(NAMES)}, got {sorted(losses)}; give each by its name")
    shape = losses["reward"].shape
    if not shape.numel():
        raise ValueError(f"harmony_loss: losses must not be empty, got {tuple(shape)}; they need a mean")
    checks.storage("harmony_loss", **losses)
    checks.shape("harmony_loss", shape, "(...), that of the reward loss", **losses)
    return [losses[name].float().reshape(-1).contiguous() for name in NAMES]


def register(namespace: str) -> None:
    """Shapes for tracing and the derivative, for the raw ops of one library."""
    backward_op = getattr(torch.ops, namespace).harmony_bwd.default

    def setup_context(ctx, inputs, output):
        ctx.size, s, *ctx.options = inputs[0].numel(), *inputs[5:]
        ctx.has_s = s is not None
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)  # or autograd makes zeros for terms and means
        ctx.save_for_backward(output[2], *([s] if ctx.has_s else []))

    def backward(ctx, dtotal, dterms, _mean):
        mean, *s = ctx.saved_tensors
        dtotal = mean.new_zeros(()) if dtotal is None else dtotal.contiguous()
        coef, ds = backward_op(dtotal, None if dterms is None else dterms.contiguous(), mean, s[0] if s else None,
                               ctx.size, *ctx.options)
        each = coef.unsqueeze(1).expand(-1, ctx.size).contiguous()  # at once: each loss's backward reads a dense one
        return *each.unbind(), ds if ctx.has_s else None, None, None, None

    library.register_fake(f"{namespace}::harmony_fwd",
                          lambda reward, *rest: tuple(map(reward.new_empty, ((), 3, 5))))
    library.register_fake(f"{namespace}::harmony_bwd", lambda dtotal, *rest: tuple(map(dtotal.new_empty, (5, 3))))
    torch.library.register_autograd(f"{namespace}::harmony_fwd", backward, setup_context=setup_context)
