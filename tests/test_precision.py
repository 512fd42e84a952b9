"""Precisions: what a setting means on a device, how far bfloat16 is from float32, and what stays float32 in it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import golden_digest
from agent_case import copied, unequal
from hdfast import machine, ops
from hdfast.adapters import official
from hdfast.agent import Agent
from hdfast.config import Config
from hdfast.errors import ConfigError
from hdfast.learner import Learner, Uniforms
from hdfast.machine import resolve_precision, set_precision
from hdfast.ops import library
from hdfast.ops.bf16 import shadow
from kinds import KINDS
from learner_case import draw, make_data, make_learner
from precision_case import assert_official_losses
from programs import python
from scripted_run import small_config

CPU = torch.device("cpu")
EVERYWHERE = pytest.mark.parametrize("backend", ["reference", "native", "emulated"], indirect=True)

# Largest distance from the float32 reference. loss: of each loss, relative. gradient: of an optimizer's whole gradient,
# relative. parameter: of the step that Adam takes, relative; the first one has the gradients' signs, so this grows with
# the share of signs that differ. A bfloat16 has 8 bits, 4e-3; over layers and steps it comes to a few times that.
TOLERANCE = {"fp32": {"loss": 1e-5, "gradient": 1e-5, "parameter": 1e-3},
             "bf16": {"loss": 5e-3, "gradient": 2e-2, "parameter": 2.5e-1}}


def twins(precision: str) -> tuple[Learner, Learner]:
    """Two learners with the same parameters, none of them at a special value: float32, and the given precision."""
    exact, other = make_learner(precision="fp32"), make_learner(precision=precision)
    rng = torch.Generator().manual_seed(1)
    for a, b in zip(exact.optimizers.values(), other.optimizers.values(), strict=True):
        a.param.add_(0.05 * torch.randn(a.param.shape, generator=rng))
        b.param.copy_(a.param)
    other.refresh()
    return exact, other


@torch.no_grad()
def central(learner: Learner, data, u: Uniforms) -> Uniforms:
    """Uniforms of the same posterior samples, each in the middle of its class: rounding does not flip them."""
    with ops.use("reference"):
        observed = learner.world_model(data, u.post).observed
    cdf = observed.post.exp().cumsum(-1)
    index = observed.state.index.unsqueeze(-1)
    high = cdf.gather(-1, index)
    low = torch.where(index > 0, cdf.gather(-1, (index - 1).clamp(min=0)), torch.zeros(()))
    return Uniforms(((low + high) / 2).squeeze(-1), u.prior, u.action)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


def behave(learner, b):
    """Both gradients on a trajectory, and the steps they make."""
    metrics = learner.actor_gradient(b) | learner.critic_gradient(b)
    return metrics | learner.step("actor") | learner.step("critic")


@EVERYWHERE
@pytest.mark.parametrize("precision", TOLERANCE)
def test_losses_gradients_and_parameters(backend, precision):
    """The world model with forced samples, then actor and critic on the same trajectory."""
    exact, other = twins(precision)
    limit, data = TOLERANCE[precision], make_data()
    u = central(exact, data, draw())
    before = {name: arena.param.clone() for name, arena in exact.optimizers.items()}
    with ops.use("reference"):
        out, metrics = exact.update_model(data, u.post)
        behavior = exact.imagine(out.observed.state, data.cont, u.prior, u.action)
        metrics |= behave(exact, behavior)
    got, found = other.update_model(data, u.post)
    assert torch.equal(got.observed.state.index, out.observed.state.index)
    trajectory = replace(behavior.trajectory, past=behavior.trajectory.features[:-1])  # without float32 products
    with torch.enable_grad():
        behavior = replace(behavior, trajectory=trajectory, policy=other.actor_critic.actor(trajectory.past),
                           critic_logit=other.actor_critic.critic(trajectory.features))
    found |= behave(other, behavior)
    for name in (name for name in metrics if name.startswith("loss/")):
        assert abs(found[name] - metrics[name]) <= limit["loss"] * max(1, abs(metrics[name])), name
    for name, arena in other.optimizers.items():
        want = exact.optimizers[name]
        assert distance(arena.grad, want.grad) <= limit["gradient"], name
        assert distance(arena.param - before[name], want.param - before[name]) <= limit["parameter"], name
    if precision == "bf16":  # it is another computation
        assert distance(other.model_opt.grad, exact.model_opt.grad) > 1e-4


@EVERYWHERE
def test_bf16_rounds_operands_alone(backend):
    """Outputs of the networks, states and every trained tensor are float32; activations between layers are not."""
    _, learner = twins("bf16")
    seen = {}
    for name, module in learner.world_model.named_modules():
        module.register_forward_hook(lambda _, __, y, name=name: seen.update({name: y}))
    out, _ = learner.update_model(make_data(), draw().post)
    assert seen["encoder"].dtype == seen["reward.hidden.0"].dtype == torch.bfloat16
    heads = (*seen["decoder"].values(), seen["reward"], seen["cont"], out.observed.state.deter, out.observed.post,
             out.total)
    assert {x.dtype for x in heads} == {torch.float32}
    for arena in learner.optimizers.values():
        assert {x.dtype for x in (arena.param, arena.grad, arena.mean, arena.var)} == {torch.float32}
    assert {x.dtype for name, x in learner.state_dict().items() if not name.endswith("/step")} == {torch.float32}


def stale(learner: Learner) -> list[str]:
    """Matrices whose bfloat16 copy is missing or differs from them."""
    named = [*learner.world_model.named_parameters(), *learner.actor_critic.named_parameters()]
    return [name for name, p in named if p.ndim > 1 and (shadow(p) is None or not torch.equal(shadow(p), p.bfloat16()))]


@EVERYWHERE
def test_copies_follow_their_parameters(backend):
    learner, data = make_learner(precision="bf16"), make_data()
    assert stale(learner) == []
    learner.update(data, draw())
    learner.update(data, draw(1))
    assert stale(learner) == []
    official.load(learner, official.export(make_learner(seed=1)) | {
        name: value for name, value in official.export(learner).items() if "slow" in name})
    assert stale(learner) == []
    learner.model_opt.param.add_(1.0)
    assert stale(learner)
    assert all(shadow(p) is None for p in make_learner().world_model.parameters())


@EVERYWHERE
@pytest.mark.parametrize("kind", ["image", "images"])
def test_a_bf16_run_continues_bit_for_bit(backend, kind):
    spaces = KINDS[kind]
    agents = [Agent(*spaces, small_config("dummy", precision="bf16")) for _ in range(2)]
    whole, resumed = (agent.learner for agent in agents)
    data = make_data(*spaces)
    shape = (*data.reward.shape, whole.config.behavior.horizon, whole.config.model.stoch, whole.actor_critic.actor)
    us = [Uniforms.draw(*shape, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    whole.update(data, us[0])
    agents[1].load_state_dict(copied(agents[0]))
    for u in us[1:]:
        whole.update(data, u)
        resumed.update(data, u)
    assert not unequal(whole.state_dict(), resumed.state_dict())


@EVERYWHERE
@pytest.mark.parametrize("name", golden_digest.names())
def test_official_losses_in_bf16(backend, name):
    assert_official_losses(name, "bf16")


def test_a_processor_without_bf16_products_gets_the_same_numbers(tmp_path):
    if reason := library.problem():
        pytest.skip(f"the native library is not there: {reason}")
    program = ("import torch, hdfast.ops; torch.manual_seed(0); a, b = torch.randn(40, 900), torch.randn(900, 70); "
               "torch.save([torch.ops.hdfast.mm_bf16(x, y, h) for x in (a, a.bfloat16()) "
               f"for y in (b, b.t().contiguous().t()) for h in (False, True)], '{tmp_path}/out')")
    found = []
    for extra in ({}, {"HDFAST_NO_BF16": ""}, {"HDFAST_NO_BF16": "1"}):
        python("-c", program, **extra)
        found.append(torch.load(tmp_path / "out"))
    for a, empty, b in zip(*found, strict=True):
        assert torch.equal(a, empty)  # empty means unset
        torch.testing.assert_close(a, b, rtol=2 ** -7 if a.dtype is torch.bfloat16 else 1e-5, atol=1e-4)


def test_what_a_precision_means(monkeypatch, capsys):
    cuda = torch.device("cuda")
    assert [resolve_precision("auto", d) for d in (CPU, cuda)] == ["fp32", "tf32"]
    assert resolve_precision("tf32", cuda) == "tf32" and resolve_precision("bf16", CPU) == "bf16"
    with pytest.raises(ConfigError, match="tf32 is a mode of CUDA devices"):
        resolve_precision("tf32", CPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old one")
    with pytest.raises(ConfigError, match=r"8\.0 or newer, got an old one"):
        resolve_precision("bf16", cuda)
    for here, said in ((True, ""), (False, "slow here")):
        monkeypatch.setattr(machine, "multiplies_bf16", lambda here=here: here)
        assert set_precision("bf16", CPU) == "bf16"
        assert (said in capsys.readouterr().err) if said else not capsys.readouterr().err


@pytest.mark.parametrize("name, matmul, cudnn", [("fp32", "highest", False), ("tf32", "high", True),
                                                 ("bf16", "high", True), ("auto", "high", True)])
def test_tf32_switches(monkeypatch, name, matmul, cudnn):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        set_precision(name, torch.device("cuda"))
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == (matmul, cudnn)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_the_preset_and_the_flag():
    for config in (Config.preset("atari100k", "bf16"), Config.preset("bf16", "atari100k"),
                   Config.preset(precision="bf16")):
        assert config.precision == "bf16"
    with pytest.raises(ConfigError, match="one of auto, fp32, tf32, bf16"):
        Config.preset(precision="fp16")
