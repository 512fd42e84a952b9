"""Bernoulli loss of the continue head as one native op with its own backward pass."""

import torch
from torch import Tensor

from hdfast.ops import checks, library

OPS = ("cont_loss_fwd", "cont_loss_bwd")
PUBLIC = ("cont_loss",)


def cont_loss(logit: Tensor, cont: Tensor) -> Tensor:
    """logit (...), cont (...) in {0, 1} without gradient, float32 or bfloat16 -> (...) float32 nats."""
    checks.storage("cont_loss", logit=logit, cont=cont)
    checks.shape("cont_loss", logit.shape, "(...), that of logit", cont=cont)
    checks.devices("cont_loss", logit=logit, cont=cont)
    return library.op("cont_loss_fwd")(logit.float().contiguous(), cont.detach().float().contiguous())


def register(namespace: str) -> None:
    """Shapes for tracing and the derivative, for the raw ops of one library."""
    library.register_pair(namespace, "cont_loss", lambda logit, cont: torch.empty_like(logit))
