"""Harmonized mean of the world-model losses as one native op; its backward is arithmetic on a dozen numbers."""

import torch
from torch import Tensor

from hdfast.ops import checks, library

OPS = ("harmony_fwd", "harmony_bwd")
PUBLIC = ("harmony_loss", "weighted_loss")
MOST = 16  # losses, and harmonized names, that the kernel has room for


def harmony_loss(losses: dict[str, Tensor], s: Tensor, *, harmonized: tuple[str, ...] = ("reward", "image", "kl"),
                 mode: str = "rectified", dyn_share: float = 5 / 6) -> tuple[Tensor, Tensor]:
    """losses by name, each (...) of one shape, s (n,), one for each harmonized name -> total (), terms (n,)."""
    if mode not in ("rectified", "plain"):
        raise ValueError(f"harmony_loss: mode must be 'rectified' or 'plain', got {mode!r}; fixed weights are "
                         f"weighted_loss")
    checks.dtype("harmony_loss", torch.float32, s=s)
    checks.shape("harmony_loss", (len(harmonized),), "(n,), one for each harmonized name", s=s)
    checks.devices("harmony_loss", s=s, **losses)
    of_kl = {"dyn": dyn_share, "rep": 1 - dyn_share} if "kl" in harmonized else {}
    names, share = ["kl" if name in of_kl else name for name in losses], [of_kl.get(name, 1.0) for name in losses]
    place = [harmonized.index(name) if name in harmonized else -1 for name in names]
    reg = [(dyn_share if name == "kl" else 1.0) if name in names else 0.0 for name in harmonized]
    return library.op("harmony_fwd")(flat(losses), s.contiguous(), place, share, reg, mode == "plain")[:2]


def weighted_loss(losses: dict[str, Tensor], scales: dict[str, float]) -> tuple[Tensor, Tensor]:
    """The same mean with fixed scales by name -> total (), terms (n,), those of each loss."""
    fixed = [float(scales[name]) for name in losses]
    return library.op("harmony_fwd")(flat(losses), None, [*range(len(losses))], fixed, [0.0] * len(losses), False)[:2]


def flat(losses: dict[str, Tensor]) -> list[Tensor]:
    """The losses as contiguous float32 vectors."""
    if not 1 <= len(losses) <= MOST:
        raise ValueError(f"harmony_loss: losses must be 1 to {MOST}, got {len(losses)}; add some up before")
    (first, loss), *_ = losses.items()
    if not loss.numel():
        raise ValueError(f"harmony_loss: losses must not be empty, got {tuple(loss.shape)}; they need a mean")
    checks.storage("harmony_loss", **losses)
    checks.shape("harmony_loss", loss.shape, f"(...), that of the loss {first!r}", **losses)
    return [x.float().reshape(-1).contiguous() for x in losses.values()]


def register(namespace: str) -> None:
    """Shapes for tracing and the derivative, for the raw ops of one library."""
    backward_op = getattr(torch.ops, namespace).harmony_bwd.default

    def setup_context(ctx, inputs, output):
        losses, s, *ctx.options = inputs
        ctx.size, ctx.has_s = losses[0].numel(), s is not None
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)  # or autograd makes zeros for terms and means
        ctx.save_for_backward(output[2], *([s] if ctx.has_s else []))

    def backward(ctx, dtotal, dterms, _mean):
        mean, *s = ctx.saved_tensors
        dtotal = mean.new_zeros(()) if dtotal is None else dtotal.contiguous()
        coef, ds = backward_op(dtotal, None if dterms is None else dterms.contiguous(), mean, s[0] if s else None,
                               ctx.size, *ctx.options)
        each = coef.unsqueeze(1).expand(-1, ctx.size).contiguous()  # at once: each loss's backward reads a dense one
        return [*each.unbind()], ds if ctx.has_s else None, None, None, None, None

    def shapes(losses, s, place, share, reg, plain):
        return tuple(map(losses[0].new_empty, ((), len(reg), len(losses))))

    def gradient_shapes(dtotal, dterms, mean, s, size, place, share, reg, plain):
        return mean.new_empty(len(place)), mean.new_empty(len(reg))

    library.register_fake(f"{namespace}::harmony_fwd", shapes)
    library.register_fake(f"{namespace}::harmony_bwd", gradient_shapes)
    library.register_derivative(namespace, "harmony_fwd", backward, setup_context)
