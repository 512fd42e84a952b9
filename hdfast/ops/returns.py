"""Lambda returns and state weights of imagined trajectories: one native op each way instead of H small ones."""

import torch
from torch import Tensor

from hdfast.ops import checks, library

OPS = ("lambda_return_fwd", "lambda_return_bwd", "return_weight_fwd", "return_weight_bwd")
PUBLIC = ("lambda_return", "return_weight")


def lambda_return(reward: Tensor, value: Tensor, cont: Tensor, *, gamma: float, lam: float) -> Tensor:
    """reward (H, ...), value, cont (H+1, ...) float32 -> returns (H, ...); H at least 1."""
    if reward.ndim == 0 or not len(reward):
        raise ValueError(f"lambda_return: reward must have shape (H, ...) with H at least 1, got "
                         f"{tuple(reward.shape)}; time is its first axis")
    after = (len(reward) + 1, *reward.shape[1:])
    for name, x in (("reward", reward), ("value", value), ("cont", cont)):
        checks.dtype("lambda_return", name, x, torch.float32)
        if x is not reward:
            checks.shape("lambda_return", name, x, after, "(H+1, ...), one step more than reward")
    checks.devices("lambda_return", reward=reward, value=value, cont=cont)
    columns = reward.shape[1:].numel()
    cells = (x.reshape(len(x), columns).contiguous() for x in (reward, value, cont))
    return library.op("lambda_return_fwd")(*cells, gamma, lam).reshape(reward.shape)


def return_weight(cont: Tensor, *, gamma: float) -> Tensor:
    """Probability weight of each imagined state: cont (T, ...) float32 -> (T, ...)."""
    if cont.ndim == 0:
        raise ValueError("return_weight: cont must have shape (T, ...), got a tensor without axes; add one")
    checks.dtype("return_weight", "cont", cont, torch.float32)
    checks.devices("return_weight", cont=cont)
    cells = cont.reshape(len(cont), cont.shape[1:].numel()).contiguous()
    return library.op("return_weight_fwd")(cells, gamma).reshape(cont.shape)


def register(namespace: str) -> None:
    """Shapes for tracing and the derivatives, for the raw ops of one library."""
    raw = getattr(torch.ops, namespace)

    def setup_return(ctx, inputs, output):
        _, value, cont, ctx.gamma, ctx.lam = inputs
        ctx.save_for_backward(value, cont, output)

    def backward_return(ctx, dret):
        grads = raw.lambda_return_bwd.default(dret.contiguous(), *ctx.saved_tensors, ctx.gamma, ctx.lam)
        return *grads, None, None

    def setup_weight(ctx, inputs, output):
        cont, ctx.gamma = inputs
        ctx.save_for_backward(cont, output)

    def backward_weight(ctx, dweight):
        return raw.return_weight_bwd.default(dweight.contiguous(), *ctx.saved_tensors, ctx.gamma), None

    library.register_fake(f"{namespace}::lambda_return_fwd",
                          lambda reward, value, cont, gamma, lam: torch.empty_like(reward))
    library.register_fake(f"{namespace}::lambda_return_bwd", lambda dret, value, cont, ret, gamma, lam: (
        torch.empty_like(dret), torch.empty_like(value), torch.empty_like(cont)))
    library.register_fake(f"{namespace}::return_weight_fwd", lambda cont, gamma: torch.empty_like(cont))
    library.register_fake(f"{namespace}::return_weight_bwd",
                          lambda dweight, cont, weight, gamma: torch.empty_like(cont))
    torch.library.register_autograd(f"{namespace}::lambda_return_fwd", backward_return, setup_context=setup_return)
    torch.library.register_autograd(f"{namespace}::return_weight_fwd", backward_weight, setup_context=setup_weight)
