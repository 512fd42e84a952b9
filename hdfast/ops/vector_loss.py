"""Squared symlog error of a vector, summed over its features, as one native op with its own backward pass."""

from torch import Tensor

from hdfast.ops import checks, library

OPS = ("vector_loss_fwd", "vector_loss_bwd")
PUBLIC = ("vector_loss",)


def vector_loss(recon: Tensor, vector: Tensor) -> Tensor:
    """recon in symlog units, vector raw and without gradient, (..., n) float32 or bfloat16 -> (...) float32.

    Squared errors below 1e-8 count as none.
    """
    if recon.ndim == 0:
        raise ValueError("vector_loss: recon must have shape (..., n), got a tensor without axes; add one")
    checks.storage("vector_loss", recon=recon, vector=vector)
    checks.shape("vector_loss", recon.shape, "(..., n), that of recon", vector=vector)
    checks.devices("vector_loss", recon=recon, vector=vector)
    shape = recon.shape[:-1]
    flat = [x.float().reshape(shape.numel(), recon.shape[-1]).contiguous() for x in (recon, vector.detach())]
    return library.op("vector_loss_fwd")(*flat).reshape(shape)


def register(namespace: str) -> None:
    """Shapes for tracing and the derivative, for the raw ops of one library."""
    library.register_pair(namespace, "vector_loss", lambda recon, vector: recon.new_empty(recon.shape[:1]))
