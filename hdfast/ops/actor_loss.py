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
    checks.storage("actor_loss", "logit", logit)
    checks.dtype("actor_loss", "action", action, torch.int64)
    shape = logit.shape[:-1]
    for name, x in (("action", action), ("advantage", advantage), ("weight", weight)):
        checks.shape("actor_loss", name, x, shape, "(...), logit's without its last axis")
    checks.storage("actor_loss", "advantage", advantage)
    checks.storage("actor_loss", "weight", weight)
    checks.devices("actor_loss", logit=logit, action=action, advantage=advantage, weight=weight)
    flat = [x.detach().reshape(shape.numel()) for x in (action, advantage.float(), weight.float())]
    rows = logit.float().reshape(shape.numel(), logit.shape[-1]).contiguous()
    loss, logp, ent = library.op("actor_loss_fwd")(rows, *(x.contiguous() for x in flat), entropy)
    return loss.reshape(shape), logp.reshape(shape), ent.reshape(shape)


def register(namespace: str) -> None:
    """Shapes for tracing and the derivative, for the raw ops of one library."""
    backward_op = getattr(torch.ops, namespace).actor_loss_bwd.default

    def fake_fwd(logit, action, advantage, weight, entropy):
        return torch.empty_like(advantage), torch.empty_like(advantage), torch.empty_like(advantage)

    def fake_bwd(dloss, dlogp, dent, logit, action, advantage, weight, entropy):
        return torch.empty_like(logit)

    def setup_context(ctx, inputs, output):
        ctx.set_materialize_grads(False)  # or autograd makes zeros for unused outputs
        ctx.save_for_backward(*inputs[:4])
        ctx.entropy = inputs[4]

    def backward(ctx, dloss, dlogp, dent):
        advantage = ctx.saved_tensors[2]
        dloss = torch.zeros_like(advantage) if dloss is None else dloss.contiguous()
        others = (None if g is None else g.contiguous() for g in (dlogp, dent))
        return backward_op(dloss, *others, *ctx.saved_tensors, ctx.entropy), None, None, None, None

    library.register_fake(f"{namespace}::actor_loss_fwd", fake_fwd)
    library.register_fake(f"{namespace}::actor_loss_bwd", fake_bwd)
    torch.library.register_autograd(f"{namespace}::actor_loss_fwd", backward, setup_context=setup_context)
