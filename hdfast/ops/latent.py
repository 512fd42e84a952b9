"""Categorical latents and actions as native ops: uniform mixing, inverse-CDF sample, straight-through gradient.

Forward saves only its input; backward recomputes the probabilities.
"""

import torch
from torch import Tensor

from hdfast.ops import checks, library

OPS = ("unimix_fwd", "unimix_bwd", "sample_index", "sample_latent_fwd", "sample_latent_bwd")
PUBLIC = ("unimix", "sample_index", "sample_latent")
MAX_CLASSES = 1024


def unimix(logit: Tensor, mix: float) -> Tensor:
    """Log-probabilities of (1 - mix) softmax(logit) + mix / K: logit (..., K) -> (..., K) of its dtype, K <= 1024."""
    check_classes("unimix", logit)
    checks.devices("unimix", logit=logit)
    return library.op("unimix_fwd")(logit.contiguous(), mix)


def sample_index(logit: Tensor, u: Tensor) -> Tensor:
    """Inverse-CDF sample: logit (..., K) log-probabilities, u (...) float32 in [0, 1) -> index (...) int64."""
    check_sample("sample_index", logit, u)
    return library.op("sample_index")(logit.detach().contiguous(), u.detach().contiguous())


def sample_latent(logit: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """One-hot sample with the gradient of the probabilities, and its index.

    logit (..., S, K) log-probabilities, u (..., S) float32 -> one-hot (..., S, K) of logit's dtype, index (..., S).
    """
    check_sample("sample_latent", logit, u)
    return library.op("sample_latent_fwd")(logit.contiguous(), u.detach().contiguous())


def check_sample(op: str, logit: Tensor, u: Tensor) -> None:
    check_classes(op, logit)
    checks.dtype(op, torch.float32, u=u)
    checks.shape(op, logit.shape[:-1], "(...), logit's without its last axis", u=u)
    checks.devices(op, logit=logit, u=u)


def check_classes(op: str, logit: Tensor) -> None:
    checks.storage(op, logit=logit)
    if logit.ndim == 0 or logit.shape[-1] < 1:
        raise ValueError(f"{op}: logit must have shape (..., K) with one class or more, got {tuple(logit.shape)}; the "
                         f"classes are its last axis")
    if logit.shape[-1] > MAX_CLASSES:
        raise ValueError(f"{op}: logit must have at most {MAX_CLASSES} classes, got {logit.shape[-1]}; take fewer, or "
                         f"compute with hdfast.ops.use('reference')")


def register(namespace: str) -> None:
    """Shapes for tracing and the derivatives, for the raw ops of one library."""
    def index_shape(logp, u):
        return torch.empty_like(u, dtype=torch.int64)

    library.register_fake(f"{namespace}::sample_index", index_shape)
    library.register_pair(namespace, "unimix", lambda logit, mix: torch.empty_like(logit))
    library.register_pair(namespace, "sample_latent", lambda logp, u: (torch.empty_like(logp), index_shape(logp, u)))
