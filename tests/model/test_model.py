"""Networks, RSSM, harmonizer and learner: restructurings change nothing, resets forget, initializers are official."""

import contextlib
import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from hdfast import ops
from hdfast.arena import Arena
from hdfast.config import ModelConfig
from hdfast.errors import ConfigError
from hdfast.model.encoders import ConvStage, Decoder, DeconvStage, Encoder
from hdfast.model.harmonizer import Harmonizer
from hdfast.model.imagination import imagine
from hdfast.model.nets import Affine, Dense
from hdfast.model.rssm import RSSM
from hdfast.ops.state import State
from hdfast.spaces import Box, ObsSpace
from kinds import KINDS
from learner_case import ACTIONS, B, T, draw, make_data, make_learner


@pytest.mark.parametrize("actions", [ACTIONS, Box(4)], ids=str)
def test_observe_equals_the_textbook_recurrence(actions):
    """Hoisting the embedding's product and the prior head out of the loop changes neither values nor gradients."""
    torch.manual_seed(0)
    rssm = RSSM(embed=10, actions=actions, deter=16, units=12, stoch=3, classes=4, unimix=0.01).double()
    rssm.initial.data.normal_()
    data, embed = make_data(actions=actions), torch.randn(T, B, 10, dtype=torch.float64, requires_grad=True)
    u, action = torch.rand(T, B, 3, dtype=torch.float64), 3 * data.prev_action.double()
    if actions is ACTIONS:
        action /= 3  # one-hot codes; numbers beyond [-1, 1] become -1 and 1
    out = rssm.observe(embed, action, data.is_first, u)
    action = action.clamp(-1, 1)
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
    tail = rssm.observe(encoder({k: x[3:] for k, x in data.obs.items()}), data.prev_action[3:], data.is_first[3:],
                        u.post[3:])
    assert_close(whole.state.deter[3:], tail.state.deter)
    assert torch.equal(whole.state.index[3:], tail.state.index)


@pytest.mark.parametrize("kind", KINDS)
def test_imagination_uses_noise_actions_and_no_gradient(kind):
    (space, actions), learner = KINDS[kind], make_learner(*KINDS[kind])
    data, u = make_data(space, actions), draw(0, learner)
    post = learner.world_model.rssm.observe(learner.world_model.encoder(data.obs), data.prev_action, data.is_first,
                                            u.post).state
    start = post.map(lambda x: x.detach().flatten(0, 1))
    rssm, actor = learner.world_model.rssm, learner.actor_critic.actor
    one, two = (imagine(rssm, actor, start, u.prior, u.action, keep_prior=True) for _ in range(2))
    feat = one.features.tensor()
    assert torch.equal(feat, two.features.tensor()) and not feat.requires_grad
    assert feat.shape == (4, T * B, 16 + 12) and one.action.shape == u.action.shape and one.prior.shape[0] == 3
    with torch.no_grad():
        policy = actor(start.feat())
        assert_close(policy.sample(u.action[0]), one.action[0])
        code = policy.encode(one.action[0])
        state, _ = rssm.img_step(start, code, u.prior[0])
    assert_close(code, torch.from_numpy(actions.encode(one.action[0].numpy())))
    assert_close(state.feat(), feat[1])
    last = imagine(rssm, actor, start, u.prior, torch.cat([u.action, u.action[:1]]))
    assert last.prior.numel() == 0 and len(last.action) == 4 and torch.equal(last.action[:3], one.action)


@pytest.mark.parametrize("how", ["dynamics", "reinforce"])
def test_where_the_gradient_of_the_returns_goes(how):
    """Through imagined states to the actions, and to no parameter but the actor's; else only through log-densities."""
    kind = KINDS["images"]
    learner = make_learner(*kind, **{"behavior.actor_gradient": how})
    learner.update(make_data(*kind), draw(0, learner))  # reward and value heads start at zero, where no gradient passes
    out = learner.world_model(make_data(*kind), draw(0, learner).post)
    u = draw(1, learner)
    b = learner.imagine(out.observed.state, make_data(*kind).cont, u.prior, u.action)
    assert b.ret.requires_grad == (how == "dynamics")
    params = dict(learner.world_model.named_parameters()) | {
        f"critic.{name}": p for name, p in learner.actor_critic.critic.named_parameters()}
    if b.ret.requires_grad:
        reached = torch.autograd.grad(b.ret.sum(), params.values(), retain_graph=True, allow_unused=True)
        assert not any(x is not None and x.any() for x in reached)
        mean, = torch.autograd.grad(b.ret.sum(), b.policy.mean, retain_graph=True)
        assert (mean != 0).any((1, 2)).all()  # of the actions of all steps
    assert all(p.requires_grad for p in params.values())
    actor = learner.actor_loss(b).loss
    assert all(x.any() for x in torch.autograd.grad(actor, list(learner.actor_critic.actor.parameters())))


def test_a_gradient_through_states_needs_continuous_actions():
    with pytest.raises(ConfigError, match="actor_gradient dynamics needs continuous actions, got 5 actions; take auto"):
        make_learner(**{"behavior.actor_gradient": "dynamics"})


SIZES = ModelConfig(cnn_depth=4, units=12)


@pytest.mark.parametrize("size, channels", [(8, 1), (16, 3), (64, 3)])
def test_encoder_and_decoder_shapes(size, channels):
    space = ObsSpace.single((size, size, channels), "uint8")
    encoder, decoder = Encoder(space, SIZES), Decoder(10, space, SIZES)
    embed = encoder({"image": torch.rand(2, 3, size, size, channels)})
    assert embed.shape == (2, 3, encoder.size) and encoder.size == 16 * 4 * (size // 8)
    assert decoder(torch.randn(2, 3, 10))["image"].shape == (2, 3, size, size, channels)


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_is_encoded_and_decoded(kind):
    """Each part changes its share of the embedding: that of the images, which comes first, or that of the vectors."""
    space, _ = KINDS[kind]
    encoder, decoder = Encoder(space, SIZES), Decoder(10, space, SIZES)
    obs = {part.name: torch.rand(2, 3, *part.shape) for part in space.parts}
    embed, out = encoder(dict(reversed(obs.items()))), decoder(torch.randn(2, 3, 10))
    assert embed.shape == (2, 3, encoder.size) and {name: x.shape for name, x in out.items()} == {
        name: x.shape for name, x in obs.items()}
    images = 16 * 4 * space.images[0].shape[0] // 8 if space.images else 0
    for part in space.parts:
        same = (encoder(obs | {part.name: obs[part.name] + 0.1}) == embed).all((0, 1))
        assert [same[:images].all(), same[images:].all()] == [not part.is_image, part.is_image]


def test_vectors_have_layers_of_their_own():
    space, _ = KINDS["named"]
    sizes = ModelConfig(cnn_depth=4, units=12, vector_layers=3, vector_units=20)
    encoder, decoder = Encoder(space, sizes), Decoder(10, space, sizes)
    assert [layer.kernel.shape for layer in encoder.hidden] == [(5, 20), (20, 20), (20, 20)]
    assert [layer.kernel.shape for layer in decoder.hidden] == [(10, 20), (20, 20), (20, 20)]
    assert [out.kernel.shape for out in decoder.outs] == [(20, 3), (20, 2)] and encoder.size == 16 * 4 + 20


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


@pytest.mark.parametrize("actions", [ACTIONS, Box(2)])
def test_an_actor_whose_output_begins_at_zero_begins_with_random_play(actions):
    learner = make_learner(actions=actions, **{"model.actor_outscale": 0.0})
    actor = learner.actor_critic.actor
    policy = actor(torch.randn(7, actor.hidden[0].kernel.shape[0]))
    if actions is ACTIONS:
        assert torch.allclose(policy.logits[0], torch.tensor(-math.log(actions.width)))
    else:
        assert policy.mean.abs().max() == 0 and policy.std.unique().numel() == 1


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
    kind = KINDS["named"]
    out = make_learner(*kind, **{"loss.vector_scale": 2.0, "harmony.mode": "off"}).world_model(
        make_data(*kind), draw().post)
    m = {k: v.mean() for k, v in out.losses.items()}
    assert_close(out.total, 0.5 * m["dyn"] + 0.1 * m["rep"] + m["reward"] + m["cont"] + m["image"]
                 + 2 * (m["speed"] + m["angle"]))


@pytest.mark.parametrize("parts, more", [("image", ()), ("all", ("speed", "angle"))])
def test_which_observations_have_learned_weights(parts, more):
    """As in the official code only an image of that name has one, or every part has; the others have weight one."""
    kind = KINDS["named"]
    learner = make_learner(*kind, **{"harmony.parts": parts})
    wm = learner.world_model
    assert wm.harmonizer.names == ("reward", "image", "kl", *more)
    s = torch.linspace(-0.5, 0.5, 3 + len(more))
    for p, value in zip(wm.harmonizer.parameters(), s, strict=True):
        p.data.copy_(value)
    assert torch.equal(wm.harmonizer.s(), s)
    out = wm(make_data(*kind), draw().post)
    m = {k: v.mean() for k, v in out.losses.items()}
    m["kl"] = (5 * m.pop("dyn") + m.pop("rep")) / 6
    want, reg = 0, torch.log1p(s.exp())
    for i, name in enumerate(wm.harmonizer.names):
        want = want + m.pop(name) * torch.exp(-s[i]) + reg[i] * (5 / 6 if name == "kl" else 1)
    assert_close(out.total, want + sum(m.values()))
    learner.update(make_data(*kind), draw(0, learner))
    assert (wm.harmonizer.s() != s).all(), "the scalars are trained"
    assert ("harmony/speed_s" in out.metrics) == (parts == "all")


@pytest.mark.parametrize(("overrides", "silent"), [
    ({"loss.reward_grad": False}, "reward"), ({"loss.cont_grad": False}, "cont"), ({"loss.image_scale": 0.0}, "image"),
    ({}, None)])
def test_which_losses_shape_the_states(overrides, silent):
    """Without reward_grad or cont_grad that loss trains only its head; without image_scale nothing trains the decoder.
    """
    learner, data = make_learner(**overrides, **{"harmony.mode": "off"}), make_data()
    wm = learner.world_model
    learner.update(data, draw())  # the reward head starts at zero, where no gradient passes
    for name, head in (("reward", wm.reward), ("cont", wm.cont), ("image", wm.decoder)):
        learner.model_opt.zero_grad()
        (wm.harmonizer.scales[name] * wm(data, draw().post).losses[name]).mean().backward()
        reached = {part: any(p.grad.any() for p in module.parameters())
                   for part, module in (("encoder", wm.encoder), ("rssm", wm.rssm), ("head", head))}
        assert reached == {"encoder": silent != name, "rssm": silent != name, "head": (silent, name) != ("image",) * 2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("harmony", ["rectified", "off"])
def test_every_kind_of_space_trains(kind, harmony):
    space, _ = KINDS[kind]
    learner = make_learner(*KINDS[kind], **{"harmony.mode": harmony})
    for k in range(2):
        metrics = learner.update(make_data(*KINDS[kind], seed=k), draw(k, learner))
    assert all(torch.isfinite(x) for x in metrics.values())
    assert {f"loss/{part.name}" for part in space.parts} <= metrics.keys() and 0 < metrics["rand/action"] < 1
    assert {name: x.shape for name, x in learner.world_model.predict(torch.zeros(2, 28)).items()} == {
        part.name: (2, *part.shape) for part in space.parts}


def test_updates_reduce_the_loss_of_a_fixed_batch():
    learner, data = make_learner(**{"optim.model_lr": 3e-3}), make_data()
    losses = [learner.update(data, draw(k))["loss/image"].item() for k in range(30)]
    assert losses[-1] < 0.75 * losses[0]  # noise images: their variance alone is 64 of the 93


@pytest.mark.parametrize("kind", KINDS)
def test_update_reaches_every_trained_parameter_and_nothing_else(kind):
    (space, _), learner = KINDS[kind], make_learner(*KINDS[kind])
    for k in range(2):  # the zero output kernels hide the layers before them in the first update
        before = {k: v.clone() for k, v in learner.state_dict().items()}
        learner.update(make_data(*KINDS[kind], seed=k), draw(k, learner))
    same = {k for k, v in learner.state_dict().items() if torch.equal(v, before[k])}
    image = {"model/harmonizer.image", "opt/model/mean/harmonizer.image", "opt/model/var/harmonizer.image"}
    assert same == (set() if "image" in {part.name for part in space.parts} else image)


@pytest.mark.parametrize("kind", KINDS)
def test_update_is_deterministic(kind):
    states = []
    for _ in range(2):
        learner = make_learner(*KINDS[kind])
        for k in range(2):
            learner.update(make_data(*KINDS[kind], seed=k), draw(k, learner))
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
