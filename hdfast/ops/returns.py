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
    checks.dtype("lambda_return", torch.float32, reward=reward, value=value, cont=cont)
    checks.shape("lambda_return", after, "(H+1, ...), one step more than reward", value=value, cont=cont)
    checks.devices("lambda_return", reward=reward, value=value, cont=cont)
    columns = reward.shape[1:].numel()
    cells = (x.reshape(len(x), columns).contiguous() for x in (reward, value, cont))
    return library.op("lambda_return_fwd")(*cells, gamma, lam).reshape(reward.shape)


def return_weight(cont: Tensor, *, gamma: float) -> Tensor:
    """Probability weight of each imagined state: cont (T, ...) float32 -> (T, ...)."""
    if cont.ndim == 0:
        raise ValueError("return_weight: cont must have shape (T, ...), got a tensor without axes; add one")
    checks.dtype("return_weight", torch.float32, cont=cont)
    checks.devices("return_weight", cont=cont)
    cells = cont.reshape(len(cont), cont.shape[1:].numel()).contiguous()
    return library.op("return_weight_fwd")(cells, gamma).reshape(cont.shape)


def register(namespace: str) -> None:
    """Shapes for tracing and the derivatives, for the raw ops of one library."""
    library.register_pair(namespace, "lambda_return", lambda reward, *rest: torch.empty_like(reward),
                          lambda dret, value, cont, *rest: tuple(map(torch.empty_like, (dret, value, cont))))
    library.register_pair(namespace, "return_weight", lambda cont, gamma: torch.empty_like(cont))
