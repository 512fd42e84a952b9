"""KL divergences: free nats, which side a loss reaches, edges; the rest is in test_public_ops.py."""

import torch
from op_cases import CASES, compare, on_device, op_of, results  # noqa: F401

from hdfast import ops


def inputs(*shape):
    return CASES["balanced_kl"].make(*shape)


def test_below_the_free_nats_there_is_no_gradient(native):
    post, prior = inputs(6, 4, 8)
    prior[::2] = post[::2]
    dyn, rep, value, dpost, dprior = results(ops.balanced_kl, [post, prior])
    assert (value[::2].abs() < 1e-6).all() and (value[1::2] > 1).all()
    assert (dyn[::2] == 1).all() and (rep[::2] == 1).all() and torch.equal(dyn[1::2], value[1::2])
    for d in (dpost, dprior):
        assert not d[::2].any() and d[1::2].flatten(1).any(1).all()


def test_each_loss_reaches_one_side_only(native):
    for which in (0, 1):
        leaves = [t.requires_grad_() for t in inputs(3, 4, 8)]
        out = ops.balanced_kl(*leaves, 0.0)
        assert not out[2].requires_grad
        dpost, dprior = torch.autograd.grad(out[which].sum(), leaves)
        assert (dpost if which == 0 else dprior).count_nonzero() == 0
        assert (dprior if which == 0 else dpost).count_nonzero() > 0


def test_only_one_input_wants_a_gradient(native):
    post, prior = inputs(3, 4, 8)
    prior.requires_grad_()
    dyn, _, _ = ops.balanced_kl(post, prior, 0.0)
    ddyn = torch.randn(3)
    got, = torch.autograd.grad(dyn, prior, ddyn)
    torch.testing.assert_close(got, -ddyn[:, None, None] * post.exp())


def test_probabilities_near_zero_and_one(native):
    post = torch.tensor([[[0.0, -90.0, -90.0]], [[-1e-7, -16.0, -40.0]], [[-3.0, -0.1, -3.0]]])
    prior = torch.tensor([[[-60.0, 0.0, -60.0]], [[-1e-7, -16.0, -30.0]], [[-100.0, -100.0, 0.0]]])
    compare(op_of("balanced_kl 0.0"), post, prior, least=1.0)


def test_no_latents(native):
    post = torch.zeros(3, 0, 8)
    dyn, rep, value = ops.balanced_kl(post, post, 0.5)
    assert dyn.tolist() == rep.tolist() == [0.5] * 3
    assert value.tolist() == ops.kl_divergence(post, post).tolist() == [0] * 3
