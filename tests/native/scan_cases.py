"""A model and a batch for the posterior scan, and both executions of it."""

import pytest
import torch
import torch.nn.functional as F

from hdfast.model.rssm import RSSM
from hdfast.ops.observe_scan import observe_scan
from hdfast.spaces import Discrete

# Tracing does not see which library computes.
TRACED = pytest.mark.parametrize("sequences", ["call", "steps", pytest.param("cuda", marks=pytest.mark.gpu)],
                                 indirect=True)
STEPS = pytest.mark.parametrize("sequences", ["steps", pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True)
OUTPUTS = ("deter", "stoch", "index", "post", "prior")


def make(sizes, *, seed=0, mix=0.01, first=0.3):
    """A model with no parameter at a special value, and a batch: embed, action, is_first, u."""
    length, batch, embed, actions, deter, units, stoch, classes = sizes
    torch.manual_seed(seed)
    rssm = RSSM(embed=embed, actions=Discrete(actions), deter=deter, units=units, stoch=stoch, classes=classes,
                unimix=mix)
    with torch.no_grad():
        for p in rssm.parameters():
            if p.ndim == 1:
                p.add_(0.3 * torch.randn_like(p))
    is_first = torch.rand(length, batch) < first
    is_first[0] = True
    batch = (torch.randn(length, batch, embed), F.one_hot(torch.randint(actions, (length, batch)), actions).float(),
             is_first, torch.rand(length, batch, stoch))
    return rssm, batch


def on(device, rssm, batch):
    return rssm.to(device), tuple(x.to(device) for x in batch)


def native_scan(rssm, embed, action, is_first, u):
    return observe_scan(embed, action, is_first, u, rssm.weights(), classes=rssm.classes, mix=rssm.mix)


def gradients(scan, rssm, batch, used=("deter", "stoch", "post", "prior")):
    """Outputs, and the gradients of a fixed weighting of the used ones for embed and all parameters."""
    embed = batch[0].clone().requires_grad_()
    out = dict(zip(OUTPUTS, scan(rssm, embed, *batch[1:]), strict=True))
    rng = torch.Generator().manual_seed(1)
    weights = {k: torch.randn(out[k].shape, generator=rng) for k in ("deter", "stoch", "post", "prior")}
    loss = sum((out[k] * weights[k].to(out[k])).sum() for k in used)
    leaves = {"embed": embed, **dict(rssm.named_parameters())}
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return out, {k: torch.zeros_like(x) if g is None else g for (k, x), g in zip(leaves.items(), grads, strict=True)}


HALF = pytest.mark.parametrize("sequences", ["steps", "steps-emu-rev-rr", pytest.param("cuda", marks=pytest.mark.gpu)],
                               indirect=True)
