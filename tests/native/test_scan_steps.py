"""The step path of the sequence ops: what a CUDA graph needs of it, and how many launches a step takes."""

import pytest
import torch
from imagine_cases import POLICIES, gradient, policy_rollout, rollout, states_case
from launches import launches
from scan_cases import gradients, make, native_scan, on

from hdfast.model.imagination import imagine
from hdfast.ops import imagine_grad, imagine_steps, observe_steps
from hdfast.ops.imagine import imagine as native_imagine
from hdfast.ops.imagine import imagine_states

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
    got, want = (imagine(rssm, actor, *inputs, keep_prior=True)
                 for (rssm, *inputs), actor in ((args, actor), (want_args, want_actor)))
    pairs = zip((*vars(got.past).values(), got.action, got.prior, *got.past.known.values()),
                (*vars(want.past).values(), want.action, want.prior, *want.past.known.values()), strict=True)
    assert all(x.is_meta and x.shape == y.shape for x, y in pairs if isinstance(x, torch.Tensor))


@STEPS
@POLICIES
def test_every_policy_runs_without_values(sequences, groups):
    sizes = (*SIZES[:3], 6, *SIZES[4:])
    got, want = (native_imagine(*args, **options, keep_prior=True) for args, options in (
        policy_rollout(sizes, 3, 5, groups, extra=1, device=device) for device in ("meta", "cpu")))
    assert all(x.is_meta and x.shape == y.shape and x.dtype is y.dtype for x, y in zip(got, want, strict=True))


@STEPS
def test_states_run_without_values(sequences):
    case, grads = states_case(SIZES, 3, 5)
    meta = [x.to("meta") for x in case[:3]], type(case[3])(*(x.to("meta") for x in case[3]))
    got = gradient(imagine_states, (*meta[0], meta[1]), [x.to("meta") for x in grads], 3)
    want = gradient(imagine_states, case, grads, 3)
    assert all(x.is_meta and x.shape == y.shape for x, y in zip(got, want, strict=True))


@STEPS
def test_a_rollout_keeps_the_prior_only_where_wanted(sequences):
    (rssm, start, u, u_action), actor = rollout(SIZES, 3, 5, 1)
    args = (start.deter, start.index, u, u_action, rssm.weights(), actor.weights())
    with_prior, without = (torch.ops.hdfast.imagine_steps(*args, 3, 0.01, keep, False, []) for keep in (True, False))
    assert with_prior[2].shape == (3, 5, 2, 3) and without[2].numel() == 0
    assert torch.equal(with_prior[5], without[5])


@STEPS
def test_copies_of_kernels_are_read_and_spare_their_rounding(sequences):
    rssm, (embed, action, is_first, u) = make(SIZES)
    params = [p.detach() for p in rssm.weights()]
    kernels = [kernel.detach() for kernel in rssm.weights().kernels]
    copies = [kernel.bfloat16() for kernel in kernels]
    results, casts = [], []
    for given in ((), copies, [2 * copy for copy in copies]):
        with launches() as taken:
            out = observe_steps.forward(embed.bfloat16(), action, is_first, u, params, 3, 0.01, given)
            grads = [torch.randn_like(x, generator=torch.Generator().manual_seed(0)) for x in out[:2]]
            inputs, kept = (embed.bfloat16(), action, is_first), (out[0], *out[2:])
            back = observe_steps.backward(*grads, None, None, inputs, params, kept, 3, 0.01, True, given)
        results.append([*out, *back])
        casts.append(taken["_to_copy"])
    assert all(torch.equal(a, b) for a, b in zip(*results[:2], strict=True))
    assert casts[0] - casts[1] == 2 * len(kernels) and not torch.equal(results[0][0], results[2][0])


@STEPS
def test_a_rollout_reads_copies_of_kernels(sequences):
    (rssm, start, u, u_action), actor = rollout(SIZES, 3, 5, 2)
    args = (start.deter, start.index, u, u_action, rssm.weights(), actor.weights(), 3, 0.01, False, True)
    kernels = [*rssm.weights().kernels,
               *(layer.kernel for layer in (*actor.hidden, actor.out))]
    with torch.no_grad():
        copies = [kernel.bfloat16() for kernel in kernels]
        own, given, other = (imagine_steps.rollout(*args, x) for x in ((), copies, [2 * copy for copy in copies]))
    assert all(torch.equal(a, b) for a, b in zip(own, given, strict=True))
    assert not torch.equal(own[0], other[0]) and not torch.equal(own[4], other[4])


def counts(length):
    """Launches of the forward and the backward pass over `length` steps."""
    rssm, (embed, action, is_first, u) = make((length, *SIZES[1:]))
    params = [p.detach() for p in rssm.weights()]
    with launches() as forward:
        deter, stoch, *kept = observe_steps.forward(embed, action, is_first, u, params, 3, 0.01)
    grads = [torch.randn_like(x) for x in (deter, stoch, *kept[1:3])]
    with launches() as backward:
        observe_steps.backward(*grads, (embed, action, is_first), params, (deter, *kept), 3, 0.01, True)
    return forward, backward


@STEPS
def test_launches_of_a_step(sequences):
    """The difference of two lengths is what a step takes: three products and three kernels, then four and four."""
    (forward, backward), (longer, longer_backward) = counts(4), counts(5)
    step, back = dict(longer - forward), dict(longer_backward - backward)
    assert step == {"scan_next_fwd": 1, "scan_norm_fwd": 1, "scan_gates_fwd": 1, "mm": 2, "addmm_": 1}
    assert back == {"scan_next_bwd": 1, "scan_norm_bwd": 1, "scan_gates_bwd": 1, "scan_sample_bwd": 1, "mm": 2,
                    "addmm_": 2}
    # What stands beside the loop does not grow with it.
    assert forward.total() - 4 * 6 < 25 and backward.total() - 4 * 8 < 50


@STEPS
@pytest.mark.parametrize("rows, products", [(5, 6), (300, 7)])
def test_launches_of_an_imagined_step(sequences, rows, products):
    """Two hidden layers of the actor: three products and two kernels for the action, three and four for the model,
    of which the first draws the action, and for many rows one more product in place of the gather."""
    with launches() as four:
        rollout_raw(4, rows)
    with launches() as five:
        rollout_raw(5, rows)
    step = five - four
    assert step["mm"] == products and step.total() - products == 6


@STEPS
@pytest.mark.parametrize("groups, products, others", [((6,), 7, 8), ((1, 2, 3), 9, 10), ((), 8, 8)], ids=str)
def test_launches_of_a_step_under_other_policies(sequences, groups, products, others):
    """A product and a draw for each part of the action, two products and a draw for the normal policy."""
    def run(horizon):
        (*tensors, params, actor), options = policy_rollout((*SIZES[:3], 6, *SIZES[4:]), horizon, 5, groups)
        with launches() as taken:
            imagine_steps.rollout(*tensors, params, actor, 3, 0.01, False, False, (), options["groups"])
        return taken

    step = run(5) - run(4)
    assert step["mm"] == products and step["addmm_"] == 1 and step.total() - products == others


@STEPS
def test_launches_of_a_step_back_from_the_states(sequences):
    def run(horizon):
        (*tensors, params), grads = states_case(SIZES, horizon, 5)
        with launches() as taken:
            imagine_grad.backward(*grads, *tensors, params, 3, 0.01, False)
        return taken

    four, five = run(4), run(5)
    assert dict(five - four) == {"scan_sample_bwd": 1, "scan_norm_bwd": 1, "scan_gates_bwd": 1, "scan_joint_bwd": 1,
                                 "mm": 2, "addmm_": 2}
    assert four.total() - 4 * 8 < 30


def rollout_raw(horizon, rows):
    (rssm, start, u, u_action), actor = rollout(SIZES, horizon, rows, 2)
    return imagine_steps.rollout(start.deter, start.index, u, u_action, rssm.weights(), actor.weights(), 3, 0.01,
                                 True, False)
