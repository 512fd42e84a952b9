"""Squared error of an image, summed over its pixels, as one native op with its own backward pass."""

import torch
from torch import Tensor

from hdfast.ops import checks, library

OPS = ("image_loss_fwd", "image_loss_bwd")
PUBLIC = ("image_loss",)


def image_loss(recon: Tensor, image: Tensor) -> Tensor:
    """recon, image (..., h, w, c) float32 or bfloat16 -> (...) float32. Residuals are float32; no 1/2, no mean."""
    if recon.ndim < 3:
        raise ValueError(f"image_loss: recon must have shape (..., h, w, c), got {tuple(recon.shape)}; add the missing "
                         f"axes")
    checks.storage("image_loss", recon=recon, image=image)
    checks.shape("image_loss", recon.shape, "(..., h, w, c), that of recon", image=image)
    checks.devices("image_loss", recon=recon, image=image)
    return library.op("image_loss_fwd")(recon.float().contiguous(), image.float().contiguous())


def register(namespace: str) -> None:
    """Shapes for tracing and the derivative, for the raw ops of one library."""
    backward_op = getattr(torch.ops, namespace).image_loss_bwd.default

    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    def backward(ctx, dloss):
        drecon = backward_op(dloss.contiguous(), *ctx.saved_tensors)
        return drecon, -drecon if ctx.needs_input_grad[1] else None

    library.register_fake(f"{namespace}::image_loss_fwd", lambda recon, image: recon.new_empty(recon.shape[:-3]))
    library.register_fake(f"{namespace}::image_loss_bwd", lambda dloss, recon, image: torch.empty_like(recon))
    library.register_derivative(namespace, "image_loss_fwd", backward, setup_context)
