"""The fused operations of HarmonyDream as functions of tensors.

Ops are pure: whatever is random comes in as a tensor of uniforms. `backend()` names the implementation that runs.
"""

from hdfast.ops.reference import (
    actor_loss,
    balanced_kl,
    cont_loss,
    gru_gates,
    harmony_grad,
    harmony_loss,
    harmony_regulariser,
    image_loss,
    kl_divergence,
    lambda_return,
    norm_act,
    return_range,
    return_weight,
    sample_index,
    sample_latent,
    symexp,
    symlog,
    twohot,
    twohot_bins,
    twohot_loss,
    twohot_mean,
    unimix,
    vector_loss,
)

__all__ = [
    "actor_loss", "backend", "balanced_kl", "cont_loss", "gru_gates", "harmony_grad", "harmony_loss",
    "harmony_regulariser", "image_loss", "kl_divergence", "lambda_return", "norm_act", "return_range",
    "return_weight", "sample_index", "sample_latent", "symexp", "symlog", "twohot", "twohot_bins", "twohot_loss",
    "twohot_mean", "unimix", "vector_loss",
]


def backend() -> str:
    """Name of the implementation behind the ops: 'reference' (plain PyTorch)."""
    return "reference"
