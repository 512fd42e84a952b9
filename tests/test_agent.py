"""Agent: acting, updating, metrics, open-loop video, saving."""

import numpy as np
import pytest
import torch

from agent_case import copied, make_agent, make_batch, make_step, unequal
from hdfast.errors import ConfigError, RunError
from hdfast.spaces import Discrete, ObsSpace, Part
from kinds import KINDS, VECTOR


@pytest.mark.parametrize("kind", KINDS)
def test_acts_updates_and_reports(kind):
    space, actions = KINDS[kind]
    agent = make_agent(space, actions)
    state = agent.init_policy(3)
    for i in range(4):
        action, state = agent.act(make_step(3, space, first=i == 0, seed=i), state)
        assert action.shape == (3, *actions.shape) and action.dtype == actions.dtype and not actions.wrong(action).any()
        np.testing.assert_array_equal(state.action, actions.encode(action))
    assert agent.read_metrics_sync() == {}
    for k in range(3):
        agent.update(make_batch(space=space, actions=actions, seed=k))
    metrics = agent.read_metrics_sync()
    assert agent.updates == 3 and metrics["train/opt/model_updates"] == 2.0  # the mean of 1, 2 and 3
    assert {"train/loss/rew", "train/harmony/rew_s", "train/ret", "train/opt/critic_grad_norm"} <= metrics.keys()
    assert {f"train/loss/{part.name}" for part in space.parts} <= metrics.keys()
    assert all(np.isfinite(v) for v in metrics.values()) and agent.read_metrics_sync() == {}


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_learner_reads_of_a_batch(kind):
    """Each action comes with the observation after it, images in [0, 1], vectors as they are."""
    space, actions = KINDS[kind]
    batch = make_batch(space=space, actions=actions)
    data = make_agent(space, actions).sequences(batch)
    assert not data.prev_action[0].any() and torch.equal(data.prev_action[1:], batch.action[:-1])
    assert torch.equal(data.prev_action[1:].any(-1), ~batch.is_last[:-1])
    assert list(data.obs) == [part.name for part in space.parts]
    for part in space.parts:
        torch.testing.assert_close(data.obs[part.name], batch.obs[part.name] / (255 if part.is_image else 1))


def test_the_policy_forgets_where_is_first():
    agent = make_agent()
    history = agent.init_policy(2)
    for i in range(5):
        _, history = agent.act(make_step(2, first=i == 0, seed=i), history)
    step = make_step(2, first=True, seed=9)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    (a, s1), (b, s2) = (agent.act(step, s, g) for s, g in zip((history, agent.init_policy(2)), generators, strict=True))
    assert (a == b).all() and torch.equal(s1.latent.deter, s2.latent.deter)


@pytest.mark.parametrize("kind", KINDS)
def test_acting_with_an_own_generator_leaves_training_alone(kind):
    space, actions = KINDS[kind]
    one, two = make_agent(space, actions), make_agent(space, actions)
    for k in range(2):
        one.act(make_step(2, space, first=True), one.init_policy(2), torch.Generator().manual_seed(k))
        for agent in (one, two):
            agent.update(make_batch(space=space, actions=actions, seed=k))
    assert not unequal(one.state_dict(), two.state_dict())


def test_seeds_decide_parameters_and_draws():
    same, again, other = make_agent(seed=1), make_agent(seed=1), make_agent(seed=2)
    a, b, c = (x.learner.world_model.encoder.stages[0].kernel for x in (same, again, other))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("kind", KINDS)
def test_state_round_trip_is_bit_exact(kind):
    space, actions = KINDS[kind]
    source, target = make_agent(space, actions, seed=1), make_agent(space, actions, seed=2)
    for k in range(3):
        source.update(make_batch(space=space, actions=actions, seed=k))
    target.load_state_dict(copied(source))
    for agent in (source, target):
        for k in range(3, 6):
            agent.update(make_batch(space=space, actions=actions, seed=k))
    assert not unequal(source.state_dict(), target.state_dict()) and source.updates == target.updates == 6
    assert source.read_metrics_sync()["train/opt/model_updates"] == 3.5  # 1 to 6: the source saw all six
    actions = [agent.act(make_step(8, space, first=True), agent.init_policy(8))[0] for agent in (source, target)]
    assert (actions[0] == actions[1]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_open_loop_video_shows_the_first_image(kind):
    space, actions = KINDS[kind]
    agent, batch = make_agent(space, actions), make_batch(space=space, actions=actions)
    if not space.images:
        with pytest.raises(ValueError, match="needs an image, got vector 5 float32"):
            agent.openloop(batch)
        return
    side, _, channels = space.images[0].shape
    before = copied(agent)
    grid = agent.openloop(batch, context=3, sequences=2)
    assert grid.shape == (8, 3 * side, 2 * side, channels) and grid.dtype == np.uint8
    truth = batch.obs[space.images[0].name][0, :2].numpy().swapaxes(0, 1).reshape(side, 2 * side, channels)
    inner = np.s_[1:-1]  # a border may mark what the model saw
    for column in range(2):
        here = np.s_[column * side:(column + 1) * side]
        np.testing.assert_array_equal(grid[0, :side, here][inner, inner], truth[:, here][inner, inner])
    assert not unequal(before, agent.state_dict())


def test_a_checkpoint_of_a_vector_agent_from_before_named_parts_loads():
    """It named the output layer of the only vector `decoder.out`."""
    source, target = make_agent(VECTOR, seed=1), make_agent(VECTOR, seed=2)
    source.update(make_batch(space=VECTOR))
    old = {name.replace("decoder.outs.0.", "decoder.out."): x for name, x in copied(source).items()}
    assert {"model/decoder.out.kernel", "opt/model/mean/decoder.out.bias"} < old.keys() - source.state_dict().keys()
    target.load_state_dict(old)
    assert not unequal(source.state_dict(), target.state_dict())


@pytest.mark.parametrize("parts, says", [
    ((Part("image", (16, 16, 3), "uint8"), Part("kl", (2,), "float32")), "none of reward, cont, dyn, rep, kl"),
    ((Part("a", (16, 16, 3), "uint8"), Part("b", (8, 8, 3), "uint8")), "must have one size"),
    (tuple(Part(f"v{i}", (2,), "float32") for i in range(13)), "may have 12 parts, got 13"),
    ((Part("a", (12, 12, 3), "uint8"),), "square with a side of 8, 16"), ((), "needs parts")])
def test_observations_that_no_network_fits_are_refused(parts, says):
    with pytest.raises(ConfigError, match=says):
        make_agent(ObsSpace(parts), Discrete(2))


def test_parameters_are_counted_by_part_of_the_agent():
    agent = make_agent(*KINDS["images"], **{"harmony.parts": "all"})
    counts = agent.num_params()
    assert counts["harmony"] == 6 and counts["actor"] == sum(p.numel() for p in agent.learner.actor_opt.params)
    assert sum(counts.values()) == sum(p.numel() for arena in agent.learner.optimizers.values() for p in arena.params)


def test_a_checkpoint_of_half_an_update_is_refused():
    agent = make_agent()
    with pytest.raises(RunError, match="in the middle of an update.*version that wrote it.*or use a new logdir"):
        agent.load_state_dict(agent.state_dict() | {"half/deter": torch.zeros(8, 4, 32)})
