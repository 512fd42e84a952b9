"""The posterior scan of a batch of sequences as one native call each way.

The recurrence keeps only what depends on the step before: embedding and action parts, the prior head and all weight
gradients are single products over all steps, and the one-hot latent is gathered, not multiplied.
"""

import torch
from torch import Tensor

from hdfast.ops import checks

OPS = ("observe_scan_fwd", "observe_scan_bwd")
PUBLIC = ()
# Order and names of `params`, relative to the RSSM module.
PARAMETERS = ("initial", "img_in.kernel", "img_in.norm.scale", "img_in.norm.bias", "gru.kernel", "gru.norm.scale",
              "gru.norm.bias", "img_out.kernel", "img_out.norm.scale", "img_out.norm.bias", "img_stats.kernel",
              "img_stats.bias", "obs_out.kernel", "obs_out.norm.scale", "obs_out.norm.bias", "obs_stats.kernel",
              "obs_stats.bias")


def usable(x: Tensor) -> bool:
    """Whether the sequence ops serve this tensor now: native backend, on the CPU, float32."""
    from hdfast import ops
    return (ops.backend() == "native" and x.device.type == "cpu" and x.dtype == torch.float32
            and hasattr(torch.ops.hdfast, OPS[0]))


def observe_scan(embed: Tensor, action: Tensor, is_first: Tensor, u: Tensor, params: list[Tensor], *, classes: int,
                 mix: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Filter a batch of sequences, all from the learned initial state.

    embed (T, B, E), action (T, B, A) chosen before each observation, is_first (T, B) bool, u (T, B, S) uniforms, params
    as PARAMETERS lists them -> deter (T, B, D), stoch (T, B, S, K) one-hot with straight-through gradient, index
    (T, B, S), posterior and prior log-probabilities (T, B, S, K). Gradients reach embed and every parameter; actions
    have none. Equal to RSSM.observe step by step.
    """
    if len(params) != len(PARAMETERS):
        raise ValueError(f"observe_scan: params must be the {len(PARAMETERS)} tensors of PARAMETERS, got {len(params)}")
    for name, x in (("embed", embed), ("action", action), ("u", u)):
        checks.dtype("observe_scan", name, x, torch.float32)
    checks.dtype("observe_scan", "is_first", is_first, torch.bool)
    if embed.ndim != 3:
        raise ValueError(f"observe_scan: embed must have shape (T, B, E), got {tuple(embed.shape)}")
    length, batch = embed.shape[:2]
    latents = params[11].shape[0] // classes
    actions = params[1].shape[0] - params[11].shape[0]
    checks.shape("observe_scan", "action", action, (length, batch, actions), "(T, B, A)")
    checks.shape("observe_scan", "is_first", is_first, (length, batch), "(T, B)")
    checks.shape("observe_scan", "u", u, (length, batch, latents), "(T, B, S)")
    return torch.ops.hdfast.observe_scan_fwd.default(
        embed.contiguous(), action.contiguous(), is_first.contiguous(), u.contiguous(),
        [p.contiguous() for p in params], classes, mix)[:5]


def register(namespace: str) -> None:
    """Shapes for tracing and the derivative, for the raw ops of one library."""
    backward_op = getattr(torch.ops, namespace).observe_scan_bwd.default

    def fake_fwd(embed, action, is_first, u, params, classes, mix):
        length, batch = is_first.shape
        deter, units = params[7].shape
        stoch = params[10].shape[1] // classes
        latent = [embed.new_empty(length, batch, stoch, classes) for _ in range(3)]
        index = embed.new_empty(length, batch, stoch, dtype=torch.int64)
        saved = embed.new_empty(length * batch * (3 * units + 3 * deter + 8))
        return (embed.new_empty(length, batch, deter), latent[0], index, latent[1], latent[2], saved,
                embed.new_empty(stoch, dtype=torch.int64))

    def fake_bwd(ddeter, dstoch, dpost, dprior, embed, action, is_first, params, deter, index, post, prior, saved,
                 start, classes, mix, need_embed):
        return [torch.empty_like(embed) if need_embed else embed.new_empty(0), *(torch.empty_like(p) for p in params)]

    def setup_context(ctx, inputs, output):
        embed, action, is_first, _, params, classes, mix = inputs
        deter, _, index, post, prior, saved, start = output
        ctx.mark_non_differentiable(index, saved, start)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(embed, action, is_first, deter, index, post, prior, saved, start, *params)
        ctx.extra = classes, mix, embed.requires_grad

    def backward(ctx, ddeter, dstoch, _index, dpost, dprior, _saved, _start):
        embed, action, is_first, deter, index, post, prior, saved, start, *params = ctx.saved_tensors
        grads = (None if g is None else g.contiguous() for g in (ddeter, dstoch, dpost, dprior))
        dembed, *dparams = backward_op(*grads, embed, action, is_first, params, deter, index, post, prior, saved, start,
                                       *ctx.extra)
        return dembed if ctx.extra[2] else None, None, None, None, dparams, None, None

    torch.library.register_fake(f"{namespace}::observe_scan_fwd", fake_fwd)
    torch.library.register_fake(f"{namespace}::observe_scan_bwd", fake_bwd)
    torch.library.register_autograd(f"{namespace}::observe_scan_fwd", backward, setup_context=setup_context)
