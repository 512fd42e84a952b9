"""KL divergences of log-probabilities as native ops: plain, and balanced with free nats.

Forward saves only its inputs; backward calls the same code with the losses' gradients and gets both inputs' gradients.
"""

import math

import torch
from torch import Tensor

from hdfast.ops import checks, library

OPS = ("balanced_kl_fwd", "balanced_kl_bwd", "kl_divergence_fwd")
PUBLIC = ("balanced_kl", "kl_divergence")
MAX_CLASSES = 512


def balanced_kl(post: Tensor, prior: Tensor, free_nats: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Dynamics and representation losses with free nats, and the KL itself, which has no gradient.

    post, prior (..., S, K) log-probabilities, both float32 or both bfloat16, K <= 512 -> three (...) float32.
    """
    check_pair("balanced_kl", post=post, prior=prior)
    return library.op("balanced_kl_fwd")(post.contiguous(), prior.contiguous(), free_nats)


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities, summed over the S latents: (..., S, K) twice, K <= 512 -> (...) float32."""
    check_pair("kl_divergence", p=p, q=q)
    return library.op("kl_divergence_fwd")(p.contiguous(), q.contiguous())


def check_pair(op: str, **pair: Tensor) -> None:
    name, x = next(iter(pair.items()))
    checks.storage(op, **pair)
    if x.ndim < 2:
        raise ValueError(f"{op}: {name} must have shape (..., S, K), got {tuple(x.shape)}; the last axes are latents "
                         f"and classes")
    if x.shape[-1] > MAX_CLASSES:
        raise ValueError(f"{op}: {name} must have at most {MAX_CLASSES} classes, got {x.shape[-1]}; take fewer, or "
                         f"compute with hdfast.ops.use('reference')")
    checks.dtype(op, x.dtype, **pair)
    checks.shape(op, x.shape, f"(..., S, K), that of {name}", **pair)
    checks.devices(op, **pair)


def register(namespace: str) -> None:
    """Shapes for tracing and the derivatives, for the raw ops of one library."""
    backward_op = getattr(torch.ops, namespace).balanced_kl_bwd.default

    def row_shape(p, q):
        return p.new_empty(p.shape[:-2], dtype=torch.float32)

    def setup_plain(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    def backward_plain(ctx, dkl):
        dkl = dkl.contiguous()
        return backward_op(dkl, dkl, *ctx.saved_tensors, -math.inf)

    library.register_pair(namespace, "balanced_kl",
                          lambda post, prior, free_nats: tuple(row_shape(post, prior) for _ in range(3)))
    library.register_fake(f"{namespace}::kl_divergence_fwd", row_shape)
    library.register_derivative(namespace, "kl_divergence_fwd", backward_plain, setup_plain)
