"""Bernoulli loss of the continue head as one native op with its own backward pass."""

import torch
from torch import Tensor

from hdfast.ops import checks, library

OPS = ("cont_loss_fwd", "cont_loss_bwd")
PUBLIC = ("cont_loss",)


def cont_loss(logit: Tensor, cont: Tensor) -> Tensor:
    """logit (...), cont (...) in {0, 1} without gradient, float32 or bfloat16 -> (...) float32 nats."""
    checks.storage("cont_loss", "logit", logit)
    checks.storage("cont_loss", "cont", cont)
    checks.shape("cont_loss", "cont", cont, logit.shape, "(...), that of logit")
    checks.devices("cont_loss", logit=logit, cont=cont)
    return library.op("cont_loss_fwd")(logit.float().contiguous(), cont.detach().float().contiguous())


def register(namespace: str) -> None:
    """Shapes for tracing and the derivative, for the raw ops of one library."""
    backward_op = getattr(torch.ops, namespace).cont_loss_bwd.default

    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    def backward(ctx, dloss):
        return backward_op(dloss.contiguous(), *ctx.saved_tensors), None

    library.register_fake(f"{namespace}::cont_loss_fwd", lambda logit, cont: torch.empty_like(logit))
    library.register_fake(f"{namespace}::cont_loss_bwd", lambda dloss, logit, cont: torch.empty_like(logit))
    torch.library.register_autograd(f"{namespace}::cont_loss_fwd", backward, setup_context=setup_context)
