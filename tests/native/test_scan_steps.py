"""The step path of the sequence ops: what a CUDA graph needs of it, and how many launches a step takes."""

import pytest
import torch
from test_imagine import rollout
from test_observe_scan import gradients, make, native_scan, on

from hdfast.imagination import imagine

SIZES = (3, 2, 6, 3, 8, 4, 2, 3)
STEPS = pytest.mark.parametrize("sequences", ["steps"], indirect=True)


@STEPS
def test_scan_runs_without_values(sequences):
    """On the meta device a tensor has no values: any read by the host raises."""
    out, grads = gradients(native_scan, *on("meta", *make(SIZES)))
    want, want_grads = gradients(native_scan, *make(SIZES))
    assert all(out[k].is_meta and out[k].shape == x.shape for k, x in want.items())
    assert all(grads[k].is_meta and grads[k].shape == x.shape for k, x in want_grads.items())


@STEPS
@pytest.mark.parametrize("rows", [5, 300])
def test_rollout_runs_without_values(sequences, rows):
    args, actor = rollout(SIZES, 3, rows, 2, extra=1, device="meta")
    want_args, want_actor = rollout(SIZES, 3, rows, 2, extra=1)
    got, want = imagine(*args, actor=actor), imagine(*want_args, actor=want_actor)
    for name in ("deter", "index", "prior", "action", "features"):
        assert getattr(got, name).is_meta and getattr(got, name).shape == getattr(want, name).shape


@STEPS
def test_a_rollout_keeps_the_prior_only_where_wanted(sequences):
    (rssm, _, start, u, u_action), actor = rollout(SIZES, 3, 5, 1)
    layers = [p for layer in actor.hidden for p in (layer.kernel, layer.norm.scale, layer.norm.bias)]
    args = (start.deter, start.index, u, u_action, rssm.parameter_list(), [*layers, actor.out.kernel, actor.out.bias])
    with_prior, without = (torch.ops.hdfast.imagine_steps(*args, 3, 0.01, keep) for keep in (True, False))
    assert with_prior[2].shape == (3, 5, 2, 3) and without[2].numel() == 0
    assert torch.equal(with_prior[4], without[4])
