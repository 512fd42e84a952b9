"""The reference ops against their equations: values by another route, gradients by finite differences."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from hdfast import ops
from hdfast.ops.state import Parameters


def rand(*shape: int, seed: int = 0, dtype=torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_grad(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.requires_grad_() for t in tensors)


@pytest.mark.parametrize("rows, size", [(1, 1), (3, 7), (5, 32)])
def test_norm_act_is_layernorm_and_silu(rows, size):
    x, scale, bias = rand(rows, size), 1 + 0.1 * rand(size, seed=1), rand(size, seed=2)
    y = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, correction=0) + 1e-3) * scale + bias
    assert_close(ops.norm_act(x, scale, bias), y * torch.sigmoid(y))
    assert gradcheck(ops.norm_act, with_grad(x, scale, bias))


def test_gru_gates_order_bias_and_joint_norm():
    x, deter, scale, bias = rand(4, 15), rand(4, 5, seed=1), 1 + 0.1 * rand(15, seed=2), rand(15, seed=3)
    y = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, correction=0) + 1e-3) * scale + bias
    reset, cand, update = y[:, :5].sigmoid(), y[:, 5:10], (y[:, 10:] - 1).sigmoid()
    want = update * (reset * cand).tanh() + (1 - update) * deter
    assert_close(ops.gru_gates(x, deter, scale, bias), want)
    assert gradcheck(ops.gru_gates, with_grad(x, deter, scale, bias))


def test_unimix_bounds_every_probability():
    logit = torch.tensor([[0.0, 1000.0, -1000.0, 3.0]], dtype=torch.float64)
    probs = ops.unimix(logit, 0.01).exp()
    assert_close(probs.sum(-1), torch.ones(1, dtype=torch.float64))
    assert probs.min() >= 0.01 / 4 - 1e-12
    assert_close(probs, 0.99 * logit.softmax(-1) + 0.01 / 4)


@pytest.mark.parametrize("u, want", [(0.0, 0), (0.1999, 0), (0.2, 1), (0.4999, 1), (0.5, 2), (0.9999999, 2), (1.5, 2)])
def test_sample_index_is_inverse_cdf(u, want):
    logit = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
    assert ops.sample_index(logit, torch.tensor(u, dtype=torch.float64)) == want


def test_sample_index_follows_the_distribution():
    """Chi-square with 4 degrees of freedom; 18.5 is its 99.9 % point."""
    probs = torch.tensor([0.05, 0.1, 0.15, 0.3, 0.4], dtype=torch.float64)
    count = torch.bincount(ops.sample_index(probs.log().expand(20_000, 5), uniform(20_000)), minlength=5)
    assert ((count - 20_000 * probs) ** 2 / (20_000 * probs)).sum() < 18.5


def test_sample_latent_is_one_hot_with_the_gradient_of_the_probabilities():
    raw, u, out = rand(3, 2, 4), uniform(3, 2), rand(3, 2, 4, seed=1)
    raw.requires_grad_()
    onehot, index = ops.sample_latent(ops.unimix(raw, 0.01), u)
    assert torch.equal(onehot.argmax(-1), index)
    assert_close(onehot.detach(), torch.nn.functional.one_hot(index, 4).double())
    grad, = torch.autograd.grad((onehot * out).sum(), raw)
    probs = 0.99 * raw.softmax(-1) + 0.01 / 4
    want, = torch.autograd.grad((probs * out).sum(), raw)
    assert_close(grad, want)


def test_balanced_kl_values_stop_gradients_and_free_nats():
    post, prior = (ops.unimix(x, 0.01) for x in with_grad(3 * rand(6, 2, 4), rand(6, 2, 4, seed=1)))
    kl = (post.exp() * (post - prior)).sum((-1, -2))
    free = kl.detach().sort().values[2].item() + 1e-9  # three rows below, three above
    dyn, rep, plain = ops.balanced_kl(post, prior, free)
    assert_close(plain, kl.detach())
    assert_close(dyn, kl.clamp(min=free))
    to_post, to_prior = torch.autograd.grad(dyn.sum(), [post, prior], retain_graph=True, allow_unused=True)
    assert to_post is None and [bool(row.abs().sum() > 0) for row in to_prior] == (kl > free).tolist()
    to_post, to_prior = torch.autograd.grad(rep.sum(), [post, prior], retain_graph=True, allow_unused=True)
    assert to_prior is None and [bool(row.abs().sum() > 0) for row in to_post] == (kl > free).tolist()


def test_symlog_and_symexp_are_inverse():
    x = torch.tensor([-1e6, -3.0, -1e-9, 0.0, 1e-9, 2.5, 1e6], dtype=torch.float64)
    assert_close(ops.symexp(ops.symlog(x)), x)
    assert_close(ops.symlog(torch.tensor(math.e - 1)), torch.tensor(1.0))


@pytest.mark.parametrize("bins", [3, 41, 255])
def test_twohot_weights_recover_the_target(bins):
    grid = ops.twohot_bins(bins)
    x = torch.cat([ops.symexp(grid), torch.tensor([0.3, -17.0, 400.0, 1e10, -1e10])])
    below, above, weight = ops.twohot(x, grid)
    assert (weight >= 0).all() and (weight <= 1).all() and (above - below <= 1).all()
    back = (1 - weight) * grid[below] + weight * grid[above]
    assert_close(back, ops.symlog(x).clamp(-20, 20), rtol=1e-5, atol=1e-5)


def test_twohot_loss_is_cross_entropy_with_the_encoded_target():
    logit, x = rand(5, 41, dtype=torch.float32), torch.tensor([0.0, 1.0, -3.5, 1e9, -1e9])
    below, above, weight = ops.twohot(x, ops.twohot_bins(41))
    target = torch.zeros(5, 41)
    target.scatter_add_(1, below[:, None], (1 - weight)[:, None]).scatter_add_(1, above[:, None], weight[:, None])
    assert_close(ops.twohot_loss(logit, x), -(target * logit.log_softmax(-1)).sum(-1))
    assert gradcheck(lambda z: ops.twohot_loss(z, x), with_grad(rand(5, 41)))


def test_twohot_losses_are_one_loss_per_target():
    logit, targets = rand(5, 41), (rand(5), 3 * rand(5, seed=1))
    for got, x in zip(ops.twohot_losses(logit, *targets), targets, strict=True):
        assert_close(got, ops.twohot_loss(logit, x))


def test_twohot_mean_of_a_sharp_distribution_is_its_bin():
    logit = torch.full((1, 255), -1e4)
    logit[0, 200] = 0
    assert_close(ops.twohot_mean(logit), ops.symexp(ops.twohot_bins(255)[200:201]))
    assert ops.twohot_mean(torch.zeros(1, 255)).abs() < 1e-5


def test_cont_image_and_vector_losses():
    logit, cont = rand(8), (uniform(8) > 0.5).double()
    bernoulli = torch.distributions.Bernoulli(logits=logit)
    assert_close(ops.cont_loss(logit, cont), -bernoulli.log_prob(cont))
    assert torch.isfinite(ops.cont_loss(torch.tensor([1e4, -1e4]), torch.tensor([0.0, 1.0]))).all()
    a, b = rand(2, 3, 4, 4, 3), rand(2, 3, 4, 4, 3, seed=1)
    assert_close(ops.image_loss(a, b), ((a - b) ** 2).reshape(2, 3, -1).sum(-1))
    assert_close(ops.vector_loss(a, b), (a - ops.symlog(b)).square().sum(-1))
    assert gradcheck(lambda x: ops.vector_loss(x, b), with_grad(a))


def test_small_errors_of_a_vector_are_none():
    target = rand(6)
    error = torch.tensor([2e-4, 0.9e-4, 0.0, -0.9e-4, -2e-4, 1.0], dtype=torch.float64)
    recon = (ops.symlog(target) + error).requires_grad_()
    loss = ops.vector_loss(recon, target.requires_grad_())
    seen = torch.where(error.abs() > 1e-4, error, 0)
    assert_close(loss, seen.square().sum())
    assert_close(torch.autograd.grad(loss, recon)[0], 2 * seen)
    assert target.grad is None


def losses(seed: int = 0) -> dict[str, Tensor]:
    return {name: 5 * uniform(4, 3, seed=seed + i) for i, name in enumerate(("reward", "image", "dyn", "rep", "cont"))}


@pytest.mark.parametrize("mode", ["rectified", "plain"])
def test_harmony_equation_and_gradient(mode):
    data, s = losses(), torch.tensor([0.3, -0.4, 0.7], dtype=torch.float64, requires_grad=True)
    total, terms = ops.harmony_loss(data, s, mode=mode)
    reg = [math.log1p(math.exp(x)) if mode == "rectified" else x for x in s.tolist()]
    scale = [math.exp(-x) for x in s.tolist()]
    element = (scale[0] * data["reward"] + reg[0] + scale[1] * data["image"] + reg[1]
               + 5 / 6 * (scale[2] * data["dyn"] + reg[2]) + 1 / 6 * scale[2] * data["rep"] + data["cont"])
    assert_close(total, element.mean())
    assert_close(terms.sum() + data["cont"].mean(), total)
    grad, = torch.autograd.grad(total, s)
    assert_close(ops.harmony_grad(data, s.detach(), mode=mode), grad)


def test_weighted_loss_is_the_scaled_sum_of_means():
    data, scales = losses(), {"reward": 1.0, "image": 2.0, "dyn": 0.5, "rep": 0.1, "cont": 3.0}
    total, terms = ops.weighted_loss(data, scales)
    assert_close(total, sum(scales[name] * data[name].mean() for name in scales))
    assert_close(terms, torch.stack([scales[name] * value.mean() for name, value in data.items()]))


@pytest.mark.parametrize("mode", ["rectified", "plain"])
def test_harmony_over_other_names(mode):
    """A harmonized name without a loss adds nothing; a loss that is not harmonized is added as it is."""
    data = losses() | {"position": 3 * uniform(4, 3, seed=9)}
    del data["image"]
    names, s = ("kl", "image", "position"), torch.tensor([0.3, -0.4, 0.7], dtype=torch.float64, requires_grad=True)
    total, terms = ops.harmony_loss(data, s, harmonized=names, mode=mode, dyn_share=0.8)
    reg = [math.log1p(math.exp(x)) if mode == "rectified" else x for x in s.tolist()]
    mean = {name: value.mean() for name, value in data.items()}
    want = [math.exp(-0.3) * (0.8 * mean["dyn"] + 0.2 * mean["rep"]) + 0.8 * reg[0], 0.0,
            math.exp(-0.7) * mean["position"] + reg[2]]
    assert_close(terms, torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in want]))
    assert_close(total, sum(want) + mean["reward"] + mean["cont"])
    grad, = torch.autograd.grad(total, s)
    assert grad[1] == 0 and terms[1] == 0
    assert_close(ops.harmony_grad(data, s.detach(), harmonized=names, mode=mode, dyn_share=0.8), grad)


def test_harmony_modes_share_weights_and_differ_in_the_regularizer():
    """At its optimum the plain mode has e^-s L = 1; the rectified one stays below one, which bounds the weight."""
    data = {k: torch.full((1,), 0.01, dtype=torch.float64) for k in losses()}
    s = torch.tensor([math.log(0.01)] * 3, dtype=torch.float64)
    assert_close(ops.harmony_grad(data, s, mode="plain")[0], torch.zeros((), dtype=torch.float64))
    assert ops.harmony_grad(data, s, mode="rectified")[0] < -0.9  # pulls s up: no weight of 100 for a small loss


def test_lambda_return_and_weight_by_hand():
    reward, value = torch.tensor([[1.0], [2.0]]), torch.tensor([[10.0], [20.0], [30.0]])
    cont, gamma, lam = torch.tensor([[1.0], [1.0], [0.0]]), 0.9, 0.5
    second = 2 + 0.9 * 0 * 30
    first = 1 + 0.9 * 1 * ((1 - 0.5) * 20 + 0.5 * second)
    assert_close(ops.lambda_return(reward, value, cont, gamma=gamma, lam=lam), torch.tensor([[first], [second]]))
    assert_close(ops.return_weight(cont, gamma=gamma), torch.tensor([[1.0], [0.9], [0.0]]))
    assert ops.return_weight(torch.zeros(3, 1), gamma=gamma).sum() == 0  # a terminal start has no weight


def test_return_range_is_a_moving_percentile_with_a_floor():
    ret, zero = torch.arange(101.0).view(1, 101), torch.tensor(0.0)
    low, high, scale = ops.return_range(ret, zero, zero)
    assert_close(torch.stack([low, high, scale]), torch.tensor([0.05, 0.95, 1.0]))
    low, high, scale = ops.return_range(ret, torch.tensor(-2.0), torch.tensor(5.0))
    assert_close(torch.stack([low, high]), torch.tensor([-1.93, 5.9]))
    assert_close(scale, high - low)


def test_actor_loss_by_hand_and_its_gradient():
    raw, action, adv = rand(6, 4), torch.tensor([0, 1, 2, 3, 0, 1]), rand(6, seed=1)
    weight = uniform(6)
    dist = torch.distributions.Categorical(logits=ops.unimix(raw, 0.01))
    loss, logp, ent = ops.actor_loss(ops.unimix(raw, 0.01), action, adv, weight, entropy=3e-4)
    assert_close(logp, dist.log_prob(action))
    assert_close(ent, dist.entropy())
    assert_close(loss, weight * (-dist.log_prob(action) * adv - 3e-4 * dist.entropy()))
    check = lambda x: ops.actor_loss(ops.unimix(x, 0.01), action, adv, weight, entropy=0.1)[0]  # noqa: E731
    assert gradcheck(check, with_grad(raw))


def test_normal_policy_and_its_log_probability():
    raw, action = (rand(5, 3), rand(5, 3, seed=1)), 2 * rand(5, 3, seed=2)
    mean, std = ops.normal_policy(*raw)
    assert_close(mean, raw[0].tanh())
    assert_close(std, 0.1 + 0.9 / (1 + torch.exp(-raw[1] - 2)))
    normal = torch.distributions.Independent(torch.distributions.Normal(mean, std), 1)
    logp, ent = ops.normal_log_prob(mean, std, action)
    assert_close(logp, normal.log_prob(action))
    assert_close(ent, normal.entropy())
    assert gradcheck(lambda *x: ops.normal_log_prob(*ops.normal_policy(*x), action), with_grad(*raw))


def test_actions_are_clipped_by_component_with_a_gradient_outside():
    action = torch.tensor([0.5, -1.0, 4.0, -2.0], dtype=torch.float64, requires_grad=True)
    clipped = ops.clip_action(action)
    assert_close(clipped, action.clamp(-1, 1))
    assert_close(torch.autograd.grad(clipped.sum(), action)[0], torch.tensor([1.0, 1.0, 0.25, 0.5]).double())


A, D, U, S, K, H, N = 5, 6, 7, 3, 4, 3, 2


def recurrence() -> Parameters:
    z = S * K
    shapes = [(D,), (z + A, U), (U,), (U,), (D + U, 3 * D), (3 * D,), (3 * D,), (D, U), (U,), (U,), (U, z), (z,),
              (D + 1, U), (U,), (U,), (U, z), (z,)]
    return Parameters(*(rand(*shape, seed=i) for i, shape in enumerate(shapes)))


def imagined(groups, extra=1):
    """A rollout under a policy of one hidden layer."""
    heads = [rand(U, A, seed=33), rand(A, seed=34)] * (2 if groups == () else 1)
    actor = [rand(D + S * K, U, seed=30), rand(U, seed=31), rand(U, seed=32), *heads]
    shape = {None: (), (): (A,)}.get(groups, (len(groups or ()),))
    noise = (rand if groups == () else uniform)(H + extra, N, *shape, seed=35)
    index = (uniform(N, S, seed=36) * K).long()
    return ops.imagine(rand(N, D, seed=37), index, uniform(H, N, S, seed=38), noise, recurrence(), actor,
                       classes=K, mix=0.01, groups=groups, keep_prior=True), actor, noise


@pytest.mark.parametrize("groups", [None, (A,), (2, 3), (1, 1, 3), ()], ids=str)
@pytest.mark.parametrize("extra", [0, 1])
def test_a_rollout_under_every_policy(groups, extra):
    """Each action is drawn from the features it is of, and the next state follows from it."""
    (deter, index, _, action, pre, feat), (kernel, scale, bias, *heads), noise = imagined(groups, extra)
    p = recurrence()
    assert_close(pre[0], (feat @ kernel)[:H + extra])
    hidden = ops.norm_act(pre[0], scale, bias)
    out = hidden @ heads[0] + heads[1]
    if groups == ():
        mean, std = out.tanh(), 0.1 + 0.9 * torch.sigmoid(hidden @ heads[2] + heads[3] + 2)
        assert_close(action, mean + std * noise)
        assert action.abs().max() > 1
        taken = action.clamp(-1, 1)
    else:
        parts, taken = out.split(groups or (A,), -1), []
        for g, part in enumerate(parts):
            chosen = action[..., g] if groups else action
            cdf = (0.99 * part.softmax(-1) + 0.01 / part.shape[-1]).cumsum(-1)
            assert torch.equal(chosen, (cdf <= (noise[..., g] if groups else noise)[..., None]).sum(-1))
            taken.append(torch.nn.functional.one_hot(chosen, part.shape[-1]).double())
        taken = torch.cat(taken, -1)
    x = torch.cat([feat[:-1, :, D:], taken[:H]], -1) @ p.img_in
    x = torch.cat([deter[:-1], ops.norm_act(x, p.img_in_scale, p.img_in_bias)], -1)
    assert_close(deter[1:], ops.gru_gates(x @ p.gru, deter[:-1], p.gru_scale, p.gru_bias))
    assert torch.equal(feat[..., D:].reshape(H + 1, N, S, K).argmax(-1), index)


def test_states_of_a_rollout_as_a_function_of_its_actions():
    """The gradient is that of the deterministic recurrence in which each latent is shifted by its probabilities."""
    (deter, index, _, action, _, _), _, _ = imagined((), 0)
    p, known = recurrence(), torch.nn.functional.one_hot(index, K).double()
    factor, shifts = 1 / action.abs().clamp(min=1), []
    action.requires_grad_()
    states = ops.imagine_states(action, deter, index, p, classes=K, mix=0.01)
    assert torch.equal(states[0], deter) and torch.equal(states[1], known)

    def recompute(moved):
        h, z, out = deter[0], known[0], []
        for t in range(H):
            x = torch.cat([z.flatten(-2), factor[t] * moved[t]], -1) @ p.img_in
            x = torch.cat([h, ops.norm_act(x, p.img_in_scale, p.img_in_bias)], -1) @ p.gru
            h = ops.gru_gates(x, h, p.gru_scale, p.gru_bias)
            hidden = ops.norm_act(h @ p.img_out, p.img_out_scale, p.img_out_bias)
            probs = ops.unimix((hidden @ p.img_stats + p.img_stats_bias).unflatten(-1, (S, K)), 0.01).exp()
            if len(shifts) == t:  # the first time, at the actions themselves
                shifts.append(known[t + 1] - probs.detach())
            z = probs + shifts[t]
            out += [h, z]
        return torch.cat([x.flatten() for x in out])

    recompute(action.detach())
    weight = rand(H * N * (D + S * K), seed=40)
    assert gradcheck(lambda a: recompute(a) @ weight, action)
    flat = torch.cat([x[t + 1].flatten() for t in range(H) for x in states])
    got, = torch.autograd.grad(flat @ weight, action)
    want, = torch.autograd.grad(recompute(action) @ weight, action)
    assert_close(got, want)


def test_every_public_op_is_exported_and_the_backend_is_named():
    assert all(callable(getattr(ops, name)) for name in ops.__all__)
    with ops.use("reference"):
        assert ops.backend() == "reference"


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_what_is_no_dense_tensor_is_refused_by_name(backend):
    x, scale = torch.randn(3, 4), torch.ones(4)
    with ops.use(backend):
        for value, kind in ((x.numpy(), "ndarray"), (None, "NoneType"), ([1.0], "list"), ("x", "str"),
                            (x.to_sparse(), "layout torch.sparse_coo"), (x.to_sparse_csr(), "layout torch.sparse_csr")):
            with pytest.raises(TypeError, match=rf"norm_act: x must be a dense torch\.Tensor, got .*{kind}; conv"):
                ops.norm_act(value, scale, scale)
            with pytest.raises(TypeError, match="norm_act: scale must be a dense"):
                ops.norm_act(x, value, scale)
        for given in (dict(x=x, scale=scale, bias=scale), dict(bias=scale, scale=scale, x=x)):
            assert torch.equal(ops.norm_act(**given), ops.norm_act(x, scale, scale))
        with pytest.raises(TypeError, match="missing a required argument: 'x'"):
            ops.symlog()
