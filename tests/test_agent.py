"""Agent: acting, updating, metrics, open-loop video, saving."""

import numpy as np
import pytest
import torch

from agent_case import ACTIONS, IMAGE, VECTOR, make_agent, make_batch, make_step
from hdfast.agent import Agent
from hdfast.config import Config
from hdfast.errors import RunError
from hdfast.run import checkpoint
from hdfast.spaces import ActSpace, ObsSpace


@pytest.mark.parametrize("space", [IMAGE, VECTOR])
def test_acts_updates_and_reports(space):
    agent = make_agent(space)
    state = agent.init_policy(3)
    for i in range(4):
        action, state = agent.act(make_step(3, space, first=i == 0, seed=i), state)
        assert action.shape == (3,) and action.dtype == np.int64 and (0 <= action).all() and (action < ACTIONS).all()
    assert agent.read_metrics_sync() == {}
    for k in range(3):
        agent.update(make_batch(space=space, seed=k))
    metrics = agent.read_metrics_sync()
    assert agent.updates == 3 and metrics["train/opt/model_updates"] == 2.0  # the mean of 1, 2 and 3
    assert {"train/loss/image", "train/harmony/rew_s", "train/ret", "train/opt/critic_grad_norm"} <= metrics.keys()
    assert all(np.isfinite(v) for v in metrics.values()) and agent.read_metrics_sync() == {}


def test_the_action_of_a_last_record_is_all_zeros():
    agent, batch = make_agent(), make_batch()
    prev = agent.sequences(batch).prev_action
    assert prev[0].sum() == 0
    assert torch.equal(prev[1:].sum(-1) == 0, batch.is_last[:-1])
    assert torch.equal(prev[1:].argmax(-1)[~batch.is_last[:-1]],
                       batch.action[:-1][~batch.is_last[:-1]])


def test_the_policy_forgets_where_is_first():
    agent = make_agent()
    history = agent.init_policy(2)
    for i in range(5):
        _, history = agent.act(make_step(2, first=i == 0, seed=i), history)
    step = make_step(2, first=True, seed=9)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    (a, s1), (b, s2) = (agent.act(step, s, g) for s, g in zip((history, agent.init_policy(2)), generators, strict=True))
    assert (a == b).all() and torch.equal(s1.latent.deter, s2.latent.deter)


def test_acting_with_an_own_generator_leaves_training_alone():
    one, two = make_agent(), make_agent()
    for k in range(2):
        one.act(make_step(2, first=True), one.init_policy(2), torch.Generator().manual_seed(k))
        for agent in (one, two):
            agent.update(make_batch(seed=k))
    a, b = one.state_dict(), two.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_seeds_decide_parameters_and_draws():
    same, again, other = make_agent(seed=1), make_agent(seed=1), make_agent(seed=2)
    a, b, c = (x.learner.world_model.encoder.stages[0].kernel for x in (same, again, other))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_state_round_trip_is_bit_exact():
    source, target = make_agent(seed=1), make_agent(seed=2)
    for k in range(3):
        source.update(make_batch(seed=k))
    target.load_state_dict({k: v.clone() for k, v in source.state_dict().items()})
    for agent in (source, target):
        for k in range(3, 6):
            agent.update(make_batch(seed=k))
    a, b = source.state_dict(), target.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a) and source.updates == target.updates == 6
    assert source.read_metrics_sync()["train/opt/model_updates"] == 3.5  # 1 to 6: the source saw all six
    actions = [agent.act(make_step(8, first=True), agent.init_policy(8))[0] for agent in (source, target)]
    assert (actions[0] == actions[1]).all()


def halved(**overrides) -> Agent:
    """An agent between the halves of its second update."""
    agent = make_agent(**{"run.batch_size": 4, "run.batch_length": 8, **overrides})
    agent.update(make_batch(seed=0))
    agent.read_metrics_sync()
    agent.update_model(make_batch(seed=1))
    return agent


def test_an_agent_between_the_halves_of_an_update_is_saved(tmp_path):
    source, target = halved(seed=1), make_agent(seed=2, **{"run.batch_size": 4, "run.batch_length": 8})
    checkpoint.save(tmp_path, 1, source.state_dict(), {})
    target.load_state_dict(checkpoint.latest(tmp_path).tensors)
    for agent in (source, target):
        agent.update_behaviour()
        agent.update(make_batch(seed=2))
    a, b = source.state_dict(), target.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) and target.half is None
    metrics = source.read_metrics_sync()
    assert target.read_metrics_sync() == metrics and metrics["train/opt/model_updates"] == 2.5


def test_until_it_commits_the_second_half_changes_nothing():
    class Enough(Exception):
        pass

    def enough():
        raise Enough

    agent = halved()
    before = {name: x.clone() for name, x in agent.state_dict().items()}
    agent.committing = enough
    with pytest.raises(Enough):
        agent.update_behaviour()
    assert [name for name, x in agent.state_dict().items() if not torch.equal(x, before[name])] == ["rng/learn"]


@pytest.mark.parametrize("name, value, message", [
    ("half/cont", torch.ones(7, 4), r"'half/cont' is .*expected .*\(8, 4\)"),
    ("half/deter", torch.ones(8, 4, 32, dtype=torch.float64), "float64.*expected .*float32"),
    ("half/index", torch.full((8, 4, 4), 99), "has values 99 to 99"), ("half/more", torch.ones(()), "'half/more'"),
    ("half/metric/loss/model", None, "'half/metric/loss/model' is None"), ("half/stoch", None, "'half/stoch' is None"),
    ("half/metric/kl", torch.ones(2), "'half/metric/kl'")])
def test_a_half_that_cannot_be_is_refused(name, value, message):
    state = halved().state_dict()
    assert name in state or name == "half/more"
    state = {key: x for key, x in (state | {name: value}).items() if x is not None}
    with pytest.raises(RunError, match=message):
        make_agent(**{"run.batch_size": 4, "run.batch_length": 8}).load_state_dict(state)


@pytest.mark.parametrize("change, message", [
    (lambda s: s.pop("model/rssm.initial"), "missing"),
    (lambda s: s.update({"model/extra": torch.zeros(1)}), "unknown"),
    (lambda s: s.update({"model/rssm.initial": torch.zeros(3)}), "shape"),
])
def test_a_foreign_state_is_refused(change, message):
    agent = make_agent()
    state = dict(agent.state_dict())
    change(state)
    with pytest.raises(RunError, match=message):
        agent.load_state_dict(state)


def test_openloop_video_has_three_rows_and_copies_the_truth():
    agent, batch = make_agent(), make_batch(length=8, batch=4)
    video = agent.openloop(batch, context=3, sequences=2)
    assert video.shape == (8, 3 * 16, 2 * 16, 3) and video.dtype == np.uint8
    inner = (slice(1, 15), slice(1, 15))
    np.testing.assert_array_equal(video[(5, *inner)], batch.obs[(5, 0, *inner)])
    assert (agent.openloop(batch, context=3, sequences=2) == video).all()
    with pytest.raises(ValueError, match="image observations"):
        make_agent(VECTOR).openloop(make_batch(space=VECTOR))


def test_full_preset_has_the_published_number_of_parameters():
    agent = Agent(ObsSpace((64, 64, 3), "uint8"), ActSpace(6), Config.preset("atari100k"))
    count = agent.num_params()
    assert sum(count.values()) == 17_922_952 + 3 and count["harmony"] == 3
    assert count["rssm"] == 5_778_944 and count["decoder"] == 6_985_667


def test_a_state_of_another_kind_of_device_loads():
    agent = make_agent()
    state = {name: x.clone() for name, x in agent.state_dict().items()}
    agent.update(make_batch())
    on_gpu = state | {"rng/act": torch.arange(16, dtype=torch.uint8), "rng/learn": torch.ones(16, dtype=torch.uint8)}
    agent.load_state_dict(on_gpu)  # as a CUDA generator's
    loaded = agent.state_dict()
    assert all(torch.equal(loaded[name], x) for name, x in state.items() if not name.startswith("rng/"))
    assert not torch.equal(loaded["rng/act"], loaded["rng/learn"])
    with pytest.raises(RunError, match="generator state is damaged"):
        agent.load_state_dict(state | {"rng/act": torch.zeros(17, dtype=torch.uint8)})
