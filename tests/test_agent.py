"""Agent: acting, updating, metrics, open-loop video, saving."""

import numpy as np
import pytest
import torch

from agent_case import ACTIONS, IMAGE, VECTOR, copied, make_agent, make_batch, make_step, unequal
from hdfast.errors import RunError


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
    assert not unequal(one.state_dict(), two.state_dict())


def test_seeds_decide_parameters_and_draws():
    same, again, other = make_agent(seed=1), make_agent(seed=1), make_agent(seed=2)
    a, b, c = (x.learner.world_model.encoder.stages[0].kernel for x in (same, again, other))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_state_round_trip_is_bit_exact():
    source, target = make_agent(seed=1), make_agent(seed=2)
    for k in range(3):
        source.update(make_batch(seed=k))
    target.load_state_dict(copied(source))
    for agent in (source, target):
        for k in range(3, 6):
            agent.update(make_batch(seed=k))
    assert not unequal(source.state_dict(), target.state_dict()) and source.updates == target.updates == 6
    assert source.read_metrics_sync()["train/opt/model_updates"] == 3.5  # 1 to 6: the source saw all six
    actions = [agent.act(make_step(8, first=True), agent.init_policy(8))[0] for agent in (source, target)]
    assert (actions[0] == actions[1]).all()


def test_a_checkpoint_of_half_an_update_is_refused():
    agent = make_agent()
    with pytest.raises(RunError, match="in the middle of an update.*version that wrote it.*or use a new logdir"):
        agent.load_state_dict(agent.state_dict() | {"half/deter": torch.zeros(8, 4, 32)})
