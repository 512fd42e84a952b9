"""The policy over continuous actions as native ops with their own backward passes."""

import torch
from torch import Tensor

from hdfast.ops import checks, library

OPS = ("normal_policy_fwd", "normal_policy_bwd", "normal_log_prob_fwd", "normal_log_prob_bwd", "normal_sample")
PUBLIC = ("normal_policy", "normal_log_prob")


def normal_policy(mean_raw: Tensor, std_raw: Tensor) -> tuple[Tensor, Tensor]:
    """mean_raw, std_raw (..., A), outputs of two heads, float32 or bfloat16 -> mean, std (..., A) float32."""
    checks.storage("normal_policy", mean_raw=mean_raw, std_raw=std_raw)
    checks.shape("normal_policy", mean_raw.shape, "(..., A), that of mean_raw", std_raw=std_raw)
    checks.devices("normal_policy", mean_raw=mean_raw, std_raw=std_raw)
    return library.op("normal_policy_fwd")(mean_raw.float().contiguous(), std_raw.float().contiguous())


def normal_log_prob(mean: Tensor, std: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy: mean, std, action without gradient (..., A) -> two (...) float32."""
    if mean.ndim == 0 or mean.shape[-1] < 1:
        raise ValueError(f"normal_log_prob: mean must have shape (..., A), got {tuple(mean.shape)}; the actions are "
                         f"its last axis")
    checks.storage("normal_log_prob", mean=mean, std=std, action=action)
    checks.shape("normal_log_prob", mean.shape, "(..., A), that of mean", std=std, action=action)
    checks.devices("normal_log_prob", mean=mean, std=std, action=action)
    shape = mean.shape[:-1]
    rows = [x.float().reshape(shape.numel(), mean.shape[-1]).contiguous() for x in (mean, std, action.detach())]
    return tuple(x.reshape(shape) for x in library.op("normal_log_prob_fwd")(*rows))


def sample(mean_raw: Tensor, mean_bias: Tensor, std_raw: Tensor, std_bias: Tensor, noise: Tensor, action: Tensor,
           taken: Tensor) -> None:
    """A draw into buffers (N, A): `action` from both heads' outputs without their biases (A,) and from normal noise,
    and `taken`, float32 or bfloat16, as the dynamics read it."""
    library.op("normal_sample")(mean_raw, mean_bias, std_raw, std_bias, noise, action, taken)


def register(namespace: str) -> None:
    """Shapes for tracing and the derivatives, for the raw ops of one library."""
    library.register_pair(namespace, "normal_policy",
                          lambda mean_raw, std_raw: (torch.empty_like(mean_raw), torch.empty_like(std_raw)))
    library.register_pair(namespace, "normal_log_prob",
                          lambda mean, std, action: (mean.new_empty(mean.shape[:1]), mean.new_empty(mean.shape[:1])))
    library.register_fake(f"{namespace}::normal_sample", lambda *args: None)
