"""REINFORCE with an entropy bonus, per element, as one native op with its own backward pass."""

import torch
from torch import Tensor

from hdfast.ops import checks, library

OPS = ("actor_loss_fwd", "actor_loss_bwd")
PUBLIC = ("actor_loss",)


def actor_loss(logit: Tensor, action: Tensor, advantage: Tensor, weight: Tensor, *,
               entropy: float) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, log-probability and entropy of a policy: see the reference.

    logit (..., A) log-probabilities, action (...) int64, advantage, weight (...) without gradient -> three (...)
    float32. All three outputs carry gradients to the logits. bfloat16 inputs are computed in float32.
    """
    if logit.ndim == 0 or logit.shape[-1] < 1:
        raise ValueError(f"actor_loss: logit must have shape (..., A), got {tuple(logit.shape)}; the actions are its "
                         f"last axis")
    shape = logit.shape[:-1]
    checks.storage("actor_loss", logit=logit, advantage=advantage, weight=weight)
    checks.dtype("actor_loss", torch.int64, action=action)
    checks.shape("actor_loss", shape, "(...), logit's without its last axis", action=action, advantage=advantage,
                 weight=weight)
    checks.devices("actor_loss", logit=logit, action=action, advantage=advantage, weight=weight)
    others = [x.detach().contiguous() for x in (action, advantage.float(), weight.float())]
    return library.op("actor_loss_fwd")(logit.float().contiguous(), *others, entropy)


def register(namespace: str) -> None:
    """Shapes for tracing and the derivative, for the raw ops of one library."""
    library.register_pair(namespace, "actor_loss", lambda logit, action, advantage, *rest: tuple(
        torch.empty_like(advantage) for _ in range(3)))
