"""The posterior scan of a batch of sequences: one native call each way on the CPU, a sequence of launches on CUDA.

Only what depends on the step before is in the recurrence. Embedding and action parts, the prior head and all weight
gradients are single products over all steps, and the one-hot latent is gathered, not multiplied.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from hdfast.ops import bf16, checks, library, observe_steps
from hdfast.ops.execution import usable
from hdfast.ops.state import Parameters

OPS = ("observe_scan_fwd", "observe_scan_bwd")
PUBLIC = ("observe_scan",)


def observe_scan(embed: Tensor, action: Tensor, is_first: Tensor, u: Tensor, params: Parameters, *, classes: int,
                 mix: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As reference.observe_scan, for float32.

    An embed in bfloat16 makes the operands of all products bfloat16; everything else stays float32.
    """
    checks.storage("observe_scan", embed=embed)
    checks.dtype("observe_scan", torch.float32, action=action, u=u)
    checks.dtype("observe_scan", torch.bool, is_first=is_first)
    if embed.ndim != 3:
        raise ValueError(f"observe_scan: embed must have shape (T, B, E), got {tuple(embed.shape)}")
    length, batch = embed.shape[:2]
    checks.shape("observe_scan", (length, batch, len(params.img_in) - params.latent), "(T, B, A)", action=action)
    checks.shape("observe_scan", (length, batch), "(T, B)", is_first=is_first)
    checks.shape("observe_scan", (length, batch, params.latent // classes), "(T, B, S)", u=u)
    args = (embed.contiguous(), action.contiguous(), is_first.contiguous(), u.contiguous(),
            [p.contiguous() for p in params], classes, mix)
    if usable(embed):  # rounds the kernels while it packs them
        return library.op("observe_scan_fwd")(*args)[:5]
    return torch.ops.hdfast.observe_launches_fwd.default(*args, bf16.shadows(params.kernels))[:5]


def register(namespace: str) -> None:
    """Shapes for tracing and the derivative, for the raw ops of one library."""
    def fake_fwd(embed, action, is_first, u, params, classes, mix):
        (length, batch), p = is_first.shape, Parameters(*params)
        deter, units, stoch = p.deter, p.units, p.latent // classes
        latent = [action.new_empty(length, batch, stoch, classes) for _ in range(3)]
        index = action.new_empty(length, batch, stoch, dtype=torch.int64)
        saved = action.new_empty(length * batch * (3 * units + 3 * deter + 8))
        return (action.new_empty(length, batch, deter), latent[0], index, latent[1], latent[2], saved,
                action.new_empty(stoch, dtype=torch.int64))

    def fake_bwd(ddeter, dstoch, dpost, dprior, inputs, params, kept, classes, mix, need_embed):
        embed, action, _ = inputs
        return [torch.empty_like(embed) if need_embed else action.new_empty(0), *(torch.empty_like(p) for p in params)]

    library.register_fake(f"{namespace}::observe_scan_fwd", fake_fwd)
    library.register_fake(f"{namespace}::observe_scan_bwd", fake_bwd)
    library.register_derivative(namespace, "observe_scan_fwd", *derivative(namespace, "observe_scan", dense=True))


def derivative(namespace: str, name: str, dense: bool) -> tuple[Callable, Callable]:
    """Backward and setup_context of NAME_fwd, by NAME_bwd. Both executions have one signature: inputs are embed,
    action, is_first; kept is what forward returned, without stoch. `dense`: the op reads only contiguous gradients."""
    backward_op = getattr(getattr(torch.ops, namespace), f"{name}_bwd").default

    def setup_context(ctx, inputs, output):
        embed, action, is_first, _, params, classes, mix, *copies = inputs
        deter, _, index, *others = output
        ctx.mark_non_differentiable(index, *others[2:])
        ctx.set_materialize_grads(False)
        groups = [[embed, action, is_first], params, [deter, index, *others], *copies]
        ctx.save_for_backward(*(x for group in groups for x in group))
        ctx.sizes, ctx.options = [len(group) for group in groups], (classes, mix, embed.requires_grad)

    def backward(ctx, ddeter, dstoch, _index, dpost, dprior, *_):
        saved = iter(ctx.saved_tensors)
        inputs, params, kept, *copies = ([*itertools.islice(saved, size)] for size in ctx.sizes)
        grads = (g.contiguous() if dense and g is not None else g for g in (ddeter, dstoch, dpost, dprior))
        dembed, *dparams = backward_op(*grads, inputs, params, kept, *ctx.options, *copies)
        nothing = [[None] * len(x) for x in copies]
        return dembed if ctx.options[2] else None, None, None, None, dparams, None, None, *nothing

    return backward, setup_context


library.define("observe_launches_fwd",
               "(Tensor embed, Tensor action, Tensor is_first, Tensor u, Tensor[] params, int classes, float mix, "
               "Tensor[] copies) -> (Tensor deter, Tensor stoch, Tensor index, Tensor post, Tensor prior, Tensor "
               f"start, {', '.join(f'Tensor saved_{name}' for name in observe_steps.Saved._fields)})",
               observe_steps.forward)
library.define("observe_launches_bwd",
               "(Tensor? ddeter, Tensor? dstoch, Tensor? dpost, Tensor? dprior, Tensor[] inputs, Tensor[] params, "
               "Tensor[] kept, int classes, float mix, bool need_embed, Tensor[] copies) -> Tensor[]",
               observe_steps.backward)
_backward, _setup_context = derivative(library.NAMESPACE, "observe_launches", dense=False)
torch.library.register_autograd("hdfast::observe_launches_fwd", _backward, setup_context=_setup_context)
