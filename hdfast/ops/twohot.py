"""symlog, symexp and the two-hot categorical over symlog bins as native ops.

The loss reads its two bins per target by index: neither direction makes a target as wide as the bins.
Forward saves the logits as they are and two numbers a row.
"""

import torch
from torch import Tensor

from hdfast.ops import checks, library
from hdfast.ops.reference import twohot_bins

OPS = ("symlog_fwd", "symlog_bwd", "symexp_fwd", "symexp_bwd", "twohot_loss_fwd", "twohot_loss_bwd", "twohot_mean_fwd",
       "twohot_mean_bwd")
PUBLIC = ("symlog", "symexp", "twohot_loss", "twohot_losses", "twohot_mean")


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|), any shape, float32 or bfloat16, computed in float32."""
    return _elementwise("symlog", x)


def symexp(x: Tensor) -> Tensor:
    """sign(x) (e^|x| - 1), any shape, float32 or bfloat16, computed in float32."""
    return _elementwise("symexp", x)


def _elementwise(op: str, x: Tensor) -> Tensor:
    checks.storage(op, x=x)
    checks.devices(op, x=x)
    if x.dtype is torch.float32:
        return library.op(f"{op}_fwd")(x.contiguous())
    return library.op(f"{op}_fwd")(x.float().contiguous()).to(x.dtype)


def twohot_loss(logit: Tensor, x: Tensor) -> Tensor:
    """Cross-entropy with the two-hot code of symlog(x): logit (..., bins), x (...) without gradient -> (...)."""
    return _losses(logit, x).reshape(x.shape)


def twohot_losses(logit: Tensor, *targets: Tensor) -> tuple[Tensor, ...]:
    """twohot_loss of several targets (...) at once: one softmax, one gradient of the logits."""
    return _losses(logit, *targets).reshape(len(targets), *targets[0].shape).unbind()


def _losses(logit: Tensor, *targets: Tensor) -> Tensor:
    """The same as one tensor (targets, rows)."""
    check_logit("twohot_loss", logit)
    shape = logit.shape[:-1]
    for x in targets:
        checks.storage("twohot_loss", x=x)
        checks.shape("twohot_loss", shape, "(...), logit's without its last axis", x=x)
        checks.devices("twohot_loss", logit=logit, x=x)
    flat = [x.detach().float().reshape(1, shape.numel()) for x in targets]
    target = torch.cat(flat) if len(flat) > 1 else flat[0].contiguous()
    bins = bins_of(logit)
    rows = logit.float().reshape(shape.numel(), logit.shape[-1]).contiguous()
    return library.op("twohot_loss_fwd")(rows, target, bins)[0]


def twohot_mean(logit: Tensor) -> Tensor:
    """symexp of the expected bin: logit (..., bins) -> (...) float32 in reward units."""
    check_logit("twohot_mean", logit)
    checks.devices("twohot_mean", logit=logit)
    shape = logit.shape[:-1]
    rows = logit.float().reshape(shape.numel(), logit.shape[-1]).contiguous()
    return library.op("twohot_mean_fwd")(rows, bins_of(logit))[0].reshape(shape)


def check_logit(op: str, logit: Tensor) -> None:
    checks.storage(op, logit=logit)
    if logit.ndim == 0 or logit.shape[-1] < 2:
        raise ValueError(f"{op}: logit must have shape (..., bins) with two bins or more, got {tuple(logit.shape)}; "
                         "the bins are its last axis")


def bins_of(logit: Tensor) -> Tensor:
    return constant_bins(int(logit.shape[-1]), str(logit.device))


@torch.compiler.assume_constant_result
def constant_bins(bins: int, device: str) -> Tensor:
    """The table as a constant of compiled graphs: recomputing it there may round differently."""
    return twohot_bins(bins, torch.device(device))


def register(namespace: str) -> None:
    """Shapes for tracing and the derivatives, for the raw ops of one library."""
    def loss_shapes(logit, target, bins):
        return torch.empty_like(target), logit.new_empty((logit.shape[0], 2))

    def mean_shapes(logit, bins):
        row = logit.new_empty(logit.shape[:1])
        return row, torch.empty_like(row), logit.new_empty((logit.shape[0], 2))

    library.register_pair(namespace, "symlog", torch.empty_like)
    library.register_pair(namespace, "symexp", torch.empty_like)
    library.register_pair(namespace, "twohot_loss", loss_shapes)
    library.register_pair(namespace, "twohot_mean", mean_shapes)
