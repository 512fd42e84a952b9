"""Networks, RSSM, harmonizer and learner: restructurings change nothing, resets forget, initializers are official."""

import contextlib
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from hdfast import ops
from hdfast.arena import Arena
from hdfast.model.encoders import ConvStage, DeconvStage, ImageDecoder, ImageEncoder
from hdfast.model.harmonizer import Harmonizer
from hdfast.model.imagination import imagine
from hdfast.model.nets import Affine, Dense
from hdfast.model.rssm import RSSM
from hdfast.ops.state import State
from learner_case import A, B, T, draw, make_data, make_learner


def test_observe_equals_the_textbook_recurrence():
    """Hoisting the embedding's product and the prior head out of the loop changes neither values nor gradients."""
    torch.manual_seed(0)
    rssm = RSSM(embed=10, actions=A, deter=16, units=12, stoch=3, classes=4, unimix=0.01).double()
    rssm.initial.data.normal_()
    data, embed = make_data(), torch.randn(T, B, 10, dtype=torch.float64, requires_grad=True)
    u, action = torch.rand(T, B, 3, dtype=torch.float64), data.prev_action.double()
    out = rssm.observe(embed, action, data.is_first, u)
    state, rows = rssm.initial_state(), []
    start = state
    state = state.map(lambda x: x.expand(B, *x.shape))
    for t in range(T):
        m = (~data.is_first[t]).double()[:, None]
        deter0, stoch0 = m * state.deter + (1 - m) * start.deter, \
            m[..., None] * state.stoch + (1 - m[..., None]) * start.stoch
        x = rssm.img_in(torch.cat([stoch0.flatten(1), m * action[t]], -1))
        deter = ops.gru_gates(torch.cat([deter0, x], -1) @ rssm.gru.kernel, deter0, rssm.gru.norm.scale,
                              rssm.gru.norm.bias)
        post = rssm.logit(rssm.obs_stats(rssm.obs_out(torch.cat([deter, embed[t]], -1))))
        state = State(deter, *ops.sample_latent(post, u[t]))
        rows.append((deter, state.stoch, post, rssm.prior(deter)))
    want = [torch.stack(x) for x in zip(*rows, strict=True)]
    got = [out.state.deter, out.state.stoch, out.post, out.prior]
    weights = [torch.randn_like(x) for x in want]
    inputs = [embed, *rssm.parameters()]
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(sum((x * w).sum() for x, w in zip(xs, weights, strict=True)), inputs)
             for xs in (got, want)]
    for a, b in zip(*grads, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_first_step_forgets_the_past():
    learner, data, u = make_learner(), make_data(), draw()
    data.is_first[3] = True
    rssm, encoder = learner.world_model.rssm, learner.world_model.encoder
    whole = rssm.observe(encoder(data.obs), data.prev_action, data.is_first, u.post)
    tail = rssm.observe(encoder(data.obs[3:]), data.prev_action[3:],
                        data.is_first[3:], u.post[3:])
    assert_close(whole.state.deter[3:], tail.state.deter)
    assert torch.equal(whole.state.index[3:], tail.state.index)


def test_imagination_uses_uniforms_actions_and_no_gradient():
    learner, data, u = make_learner(), make_data(), draw()
    post = learner.world_model.rssm.observe(learner.world_model.encoder(data.obs), data.prev_action, data.is_first,
                                            u.post).state
    start = post.map(lambda x: x.detach().flatten(0, 1))
    rssm, actor = learner.world_model.rssm, learner.actor_critic.actor
    one, two = (imagine(rssm, actor, start, u.prior, u.action, keep_prior=True) for _ in range(2))
    feat = one.features.tensor()
    assert torch.equal(feat, two.features.tensor()) and not feat.requires_grad
    assert feat.shape == (4, T * B, 16 + 12) and one.action.shape == (3, T * B) and one.prior.shape[0] == 3
    onehot = F.one_hot(one.action[0], A).float()
    with torch.no_grad():
        state, _ = rssm.img_step(start, onehot, u.prior[0])
    assert_close(state.feat(), feat[1])
    last = imagine(rssm, actor, start, u.prior, torch.cat([u.action, u.action[:1]]))
    assert last.prior.numel() == 0 and last.action.shape == (4, T * B) and torch.equal(last.action[:3], one.action)


@pytest.mark.parametrize("size, channels", [(8, 1), (16, 3), (64, 3)])
def test_encoder_and_decoder_shapes(size, channels):
    shape = (size, size, channels)
    encoder, decoder = ImageEncoder(shape, 4), ImageDecoder(10, shape, 4)
    embed = encoder(torch.rand(2, 3, *shape))
    assert embed.shape == (2, 3, encoder.size) and encoder.size == 16 * 4 * (size // 8)
    assert decoder(torch.randn(2, 3, 10)).shape == (2, 3, *shape)


def test_initializers_follow_the_official_ones():
    torch.manual_seed(0)
    dense, affine, conv, last = Dense(300, 500), Affine(300, 500), ConvStage(32, 64), DeconvStage(64, 3, last=True)
    for weight, fan in ((dense.kernel, 400), (conv.kernel, 16 * 48)):
        assert weight.std().item() == pytest.approx(math.sqrt(1 / fan), rel=0.02)
        assert weight.abs().max() <= 2 * math.sqrt(1 / fan) / 0.8796 + 1e-6
    for weight, fan in ((affine.kernel, 400), (last.kernel, 16 * 33.5)):
        limit = math.sqrt(3 / fan)
        assert 0.99 * limit < weight.abs().max() <= limit
        assert weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.05)
    learner = make_learner()
    zero = [learner.world_model.reward.out.kernel, learner.actor_critic.critic.out.kernel,
            learner.world_model.rssm.initial, learner.world_model.harmonizer.s()]
    assert all(x.abs().max() == 0 for x in zero)
    assert learner.world_model.cont.out.kernel.abs().max() > 0
    slow, net = learner.actor_critic.slow, learner.actor_critic.critic
    assert all(torch.equal(a, b) for a, b in zip(slow.parameters(), net.parameters(), strict=True))


@pytest.mark.parametrize("mode", ["rectified", "plain", "off"])
def test_every_harmony_mode_trains(mode):
    learner = make_learner(**{"harmony.mode": mode})
    metrics = [learner.update(make_data(), draw(k)) for k in range(3)]
    assert all(torch.isfinite(v).all() for m in metrics for v in m.values())
    harmonizer = learner.world_model.harmonizer
    assert len(list(harmonizer.parameters())) == (0 if mode == "off" else 3)
    assert ("harmony/rew_s" in metrics[0]) == (mode != "off")
    if mode != "off":
        assert (harmonizer.s() != 0).all(), "the scalars are trained"


def test_fixed_scales_weigh_the_losses():
    scales = {"loss.reward_scale": 10.0, "loss.image_scale": 0.0}
    learner, data = make_learner(**scales, **{"harmony.mode": "off"}), make_data()
    out = learner.world_model(data, draw().post)
    m = {k: v.mean() for k, v in out.losses.items()}
    assert_close(out.total, 0.5 * m["dyn"] + 0.1 * m["rep"] + 10 * m["reward"] + m["cont"])


@pytest.mark.parametrize(("overrides", "silent"), [
    ({"loss.reward_grad": False}, "reward"), ({"loss.image_scale": 0.0}, "image"), ({}, None)])
def test_which_losses_shape_the_states(overrides, silent):
    """Without reward_grad the reward loss trains only its head; without image_scale nothing trains the decoder."""
    learner, data = make_learner(**overrides, **{"harmony.mode": "off"}), make_data()
    wm = learner.world_model
    learner.update(data, draw())  # the reward head starts at zero, where no gradient passes
    for name, head in (("reward", wm.reward), ("image", wm.decoder)):
        learner.model_opt.zero_grad()
        (wm.harmonizer.scales[name] * wm(data, draw().post).losses[name]).mean().backward()
        reached = {part: any(p.grad.any() for p in module.parameters())
                   for part, module in (("encoder", wm.encoder), ("rssm", wm.rssm), ("head", head))}
        assert reached == {"encoder": silent != name, "rssm": silent != name, "head": (silent, name) != ("image",) * 2}


def test_vector_observations_train():
    learner = make_learner((7,))
    metrics = learner.update(make_data((7,)), draw())
    assert torch.isfinite(metrics["loss/model"]) and learner.world_model.predict(torch.zeros(2, 28)).shape == (2, 7)


def test_updates_reduce_the_loss_of_a_fixed_batch():
    learner, data = make_learner(**{"optim.model_lr": 3e-3}), make_data()
    losses = [learner.update(data, draw(k))["loss/image"].item() for k in range(30)]
    assert losses[-1] < 0.75 * losses[0]  # noise images: their variance alone is 64 of the 93


def test_update_reaches_every_trained_parameter_and_nothing_else():
    learner = make_learner()
    learner.update(make_data(), draw())  # the zero output kernels hide the layers before them in the first update
    before = {k: v.clone() for k, v in learner.state_dict().items()}
    learner.update(make_data(seed=1), draw(1))
    same = [k for k, v in learner.state_dict().items() if torch.equal(v, before[k])]
    assert same == [], same


def test_update_is_deterministic():
    states = []
    for _ in range(2):
        learner = make_learner()
        for k in range(2):
            learner.update(make_data(seed=k), draw(k))
        states.append(learner.state_dict())
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def adam_oracle(param: Tensor, grads: list[Tensor], lr: float, eps: float, clip: float) -> Tensor:
    """torch's own clip and Adam."""
    p = torch.nn.Parameter(param.clone())
    optimizer = torch.optim.Adam([p], lr=lr, eps=eps)
    for grad in grads:
        p.grad = grad.clone()
        torch.nn.utils.clip_grad_norm_([p], clip)
        optimizer.step()
    return p.detach()


def test_arena_backward_is_autograds():
    """Bit for bit, for gradients with strides and parameters without one too, and over any earlier content."""
    params = {"a": torch.nn.Parameter(torch.randn(3, 5)), "b": torch.nn.Parameter(torch.randn(5)),
              "unused": torch.nn.Parameter(torch.randn(7))}
    arena = Arena(params, lr=1e-2, eps=1e-8, clip=1.0)

    def loss() -> torch.Tensor:
        return (params["a"].t() * params["b"][:, None]).square().sum() + (torch.randn(2, 3) @ params["a"]).sum()

    arena.zero_grad()
    torch.manual_seed(1)
    loss().backward()
    want = arena.grad.clone()
    arena.grad[:32] = torch.nan
    arena.grad[arena.slices["unused"][0]:][:7] = torch.nan
    torch.manual_seed(1)
    arena.backward(loss())
    for name in params:
        assert torch.equal(arena.view(arena.grad, name), arena.view(want, name)), name


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_arena_is_adam_with_a_global_norm_clip(clip):
    torch.manual_seed(0)
    params = {"a": torch.nn.Parameter(torch.randn(3, 5)), "b": torch.nn.Parameter(torch.randn(7)),
              "c": torch.nn.Parameter(torch.randn(()))}
    flat = torch.cat([p.detach().flatten() for p in params.values()])
    grads = [torch.randn(23) for _ in range(4)]
    arena = Arena(params, lr=1e-2, eps=1e-8, clip=clip)
    norms = []
    for grad in grads:
        arena.zero_grad()
        for p, g in zip(params.values(), grad.split([15, 7, 1]), strict=True):
            p.grad.copy_(g.view(p.shape))
        norms.append(arena.update())
    want = torch.stack([torch.stack([n, (clip / n).clamp(max=1), n.new_tensor(k)])
                        for k, n in enumerate((g.norm() for g in grads), 1)])
    assert_close(torch.stack(norms), want)
    got = torch.cat([p.detach().flatten() for p in params.values()])
    assert_close(got, adam_oracle(flat, grads, 1e-2, 1e-8, clip), rtol=1e-5, atol=1e-6)
    assert all(p.data_ptr() % 16 == 0 and p.grad.data_ptr() % 16 == 0 for p in params.values())


REFUSED = {"cumsum", "scatter_add", "scatter_add_", "index_add", "index_add_", "put_", "histc", "kthvalue",
           "scatter_reduce", "bincount", "grid_sampler_2d_backward", "embedding_dense_backward"}


class Refusing(TorchDispatchMode):
    """Raises at ops that torch refuses on CUDA if it must be deterministic."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        if name in REFUSED:
            raise AssertionError(f"{name} in a deterministic update")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("guarded", [False, True])
def test_the_reference_has_a_form_that_torch_can_make_deterministic(guarded):
    """The same numbers, up to the order of sums; without being asked for it takes torch's own ops."""
    plain, other = make_learner(), make_learner()
    with ops.use("reference"):
        want = plain.update(make_data(), draw())
        torch.use_deterministic_algorithms(guarded)
        try:
            with contextlib.nullcontext() if guarded else pytest.raises(AssertionError, match="cumsum"), Refusing():
                got = other.update(make_data(), draw())
        finally:
            torch.use_deterministic_algorithms(False)
    if guarded:
        assert_close_updates(got, want, other, plain)


def assert_close_updates(got, want, one, two):
    for name, x in want.items():
        assert_close(got[name], x, rtol=1e-4, atol=1e-5, msg=name)
    for name, arena in one.optimizers.items():
        assert (arena.grad - two.optimizers[name].grad).norm() <= 1e-5 * two.optimizers[name].grad.norm()


def test_harmony_scalars_learn_at_their_own_speed():
    losses = {name: torch.full((2, 3), 5.0) for name in ("reward", "image", "dyn", "rep", "cont")}
    scales = {"dyn": 0.5, "rep": 0.1, "image": 1.0, "reward": 1.0, "cont": 1.0}
    moved = {}
    for speed in (1.0, 10.0):
        harmonizer = Harmonizer("rectified", scales, speed)
        optimizer = torch.optim.Adam(harmonizer.parameters(), lr=1e-3)
        assert harmonizer.s().tolist() == [0, 0, 0]
        harmonizer(losses)[0].backward()
        optimizer.step()
        moved[speed] = harmonizer(losses)[1]["harmony/rew_s"].item()
    assert moved[1.0] == pytest.approx(1e-3, rel=1e-3) and moved[10.0] == pytest.approx(1e-2, rel=1e-3)
