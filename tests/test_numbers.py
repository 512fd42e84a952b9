"""Numbers going wrong: updates that are not finite change nothing, show in log and counters, and end the run."""

import math
from dataclasses import replace

import pytest
import torch

from agent_case import ACTIONS, copied, make_batch, unequal
from hdfast import ops
from hdfast.agent import Agent
from hdfast.arena import Arena
from hdfast.config import Config
from hdfast.errors import RunError
from hdfast.model.world_model import WorldModel
from hdfast.run import checkpoint
from hdfast.run.alarms import Alarms
from hdfast.run.directory import read_meta
from hdfast.run.jsonl import read_rows
from hdfast.spaces import Box, Discrete
from hdfast.trainer import Trainer
from kinds import VECTOR
from scripted_run import new_trainer, small_config


@pytest.fixture(params=[Discrete(4), Box(3)], ids=["choices", "continuous"])
def actions(request):
    return request.param


def make_agent(actions=ACTIONS, precision="auto") -> Agent:
    return Agent(VECTOR, actions, Config.preset("debug", task="dummy_vector", precision=precision))


def poisoned(what: str, value: float, actions):
    """A batch with one number that is not finite, in the observations or the rewards."""
    batch = make_batch(space=VECTOR, actions=actions, seed=1)
    (batch.reward if what == "rew" else batch.frames[what]).view(-1)[3] = value
    return batch


def changed(agent: Agent, batch) -> set[str]:
    """The optimizers, and 'range', in which an update changed anything; 'rest' must never be among them."""
    before = copied(agent)
    shadows = {name: [copy.clone() for _, copy in o.shadows] for name, o in agent.learner.optimizers.items()}
    agent.update(batch)
    found = set()
    for name in unequal(agent.state_dict(), before) - {"rng/learn"}:
        part = "range" if name in ("behavior/low", "behavior/high") else "rest"
        for prefix, owner in (("model/", "model"), ("opt/model/", "model"), ("behavior/actor", "actor"),
                              ("opt/actor/", "actor"), ("behavior/critic", "critic"), ("opt/critic/", "critic"),
                              ("behavior/slow", "critic")):
            part = owner if name.startswith(prefix) else part
        found.add(part)
    for name, o in agent.learner.optimizers.items():
        same = all(map(torch.equal, shadows[name], [copy for _, copy in o.shadows]))
        assert same or name in found
    return found


@pytest.mark.parametrize("precision", ["auto", "bf16"])
@pytest.mark.parametrize(("what", "bad"), [("vector", math.nan), ("vector", math.inf), ("rew", math.nan)])
def test_a_batch_that_is_not_finite_leaves_the_world_model_alone(backend, actions, what, bad, precision):
    """Sampling may or may not pass a NaN to the imagination. All stays finite."""
    agent, good = make_agent(actions, precision), make_batch(space=VECTOR, actions=actions)
    every = {"model", "actor", "critic", "range"}
    assert changed(agent, good) == every
    assert changed(agent, poisoned(what, bad, actions)) in (set(), every - {"model"})
    assert all(x.isfinite().all() for x in agent.state_dict().values() if x.is_floating_point())
    assert changed(agent, good) == every
    metrics = agent.read_metrics_sync()
    assert metrics["train/opt/model_skipped"] == 1 and metrics["train/opt/model_updates"] == 4 / 3  # 1, 1, 2
    assert all(math.isfinite(value) for value in metrics.values())  # means of the updates that were
    assert f"loss/{what} 1 times" in agent.diagnosis_sync() and agent.sound_sync()


def test_returns_that_are_not_finite_leave_behavior_and_range_alone(backend, monkeypatch, actions):
    agent, batch, mean = make_agent(actions), make_batch(space=VECTOR, actions=actions), ops.twohot_mean
    agent.update(batch)

    def infinite(logit):
        out = mean(logit).clone()
        out.view(-1)[0] = math.nan
        return out

    monkeypatch.setattr(ops, "twohot_mean", infinite)
    assert changed(agent, batch) == {"model"}


@pytest.mark.parametrize("name", ["model", "actor", "critic"])
def test_each_optimizer_is_guarded_by_itself(backend, monkeypatch, actions, name):
    """Only the gradient is not finite, or only the loss."""
    agent, backward, batch = make_agent(actions), Arena.backward, make_batch(space=VECTOR, actions=actions)
    agent.update(batch)

    def infinite_loss(self, loss):
        backward(self, loss + math.inf if self is agent.learner.optimizers[name] else loss)

    def bad_gradient(self, loss):
        backward(self, loss)
        if self is agent.learner.optimizers[name]:
            self.grad[1] = -math.inf

    for fault in (infinite_loss, bad_gradient):
        monkeypatch.setattr(Arena, "backward", fault)
        assert changed(agent, batch) == {"model", "actor", "critic", "range"} - {name}
    agent.read_metrics_sync()
    assert f"opt/{name}_grad_norm 2 times" in agent.diagnosis_sync()
    assert f"in the last update the {name} gradient of " in agent.diagnosis_sync()


def make_trainer(tmp_path, **overrides) -> Trainer:
    config = small_config("dummy_vector", **{"run.steps": 400, "run.prefill": 40, "run.log_every": 20,
                                             "run.max_skipped": 12, "cuda_graphs": False, **overrides})
    return new_trainer(config, tmp_path)


def plant(monkeypatch, bad) -> None:
    """Make the world model's loss NaN in the updates, counted from 1, that `bad` accepts; with updates as calls."""
    count, forward = [0], WorldModel.forward

    def faulty(self, data, u):
        out, count[0] = forward(self, data, u), count[0] + 1
        return replace(out, total=out.total * math.nan) if bad(count[0]) else out

    monkeypatch.setattr(WorldModel, "forward", faulty)


def test_too_many_skipped_updates_end_the_run_with_a_diagnosis(tmp_path, monkeypatch):
    plant(monkeypatch, lambda n: n > 20)  # from step 121 on, five updates a row
    t = make_trainer(tmp_path, **{"run.save_every": 60})
    with pytest.raises(RunError) as error:
        t.run()
    text = str(error.value)
    for part in ("15 updates up to step 180 were not taken", "opt/model_grad_norm 5 times", "saved at step 180",
                 "the checkpoint before is 000000000120", "in the last update the model gradient of encoder"):
        assert part in text, (part, text)
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if "train/opt/model_skipped" in row]
    assert [row["train/opt/model_skipped"] for row in rows] == [0] * 4 + [5, 5, 5]
    assert [row["alarm/skipped"] for row in rows] == [0] * 4 + [1] * 3
    assert (tmp_path / "console.log").read_text().count("warning: alarm skipped") == 1
    assert read_meta(tmp_path)["status"].startswith("failed: RunError")
    found = checkpoint.latest(tmp_path / "ckpt")
    assert found.step == 180 and int(found.tensors["opt/model/step"]) == 20
    assert all(x.isfinite().all() for x in found.tensors.values() if x.is_floating_point())
    assert {path.name for path in (tmp_path / "ckpt").iterdir()} == {"000000000120", "000000000180"}
    monkeypatch.undo()
    again = make_trainer(tmp_path, **{"run.save_every": 60})  # the fault is gone: the run continues
    again.run()
    assert again.step == 400


def test_some_skipped_updates_do_not(tmp_path, monkeypatch):
    plant(monkeypatch, lambda n: n in (10, 11, 20, 40, 41, 42, 60))
    t = make_trainer(tmp_path, **{"run.max_skipped": 4})
    t.run()
    assert t.updates == 90 and t.agent.updates == 83 and t.alarms.skipped == 0


def test_parameters_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    t = make_trainer(tmp_path, **{"run.save_every": 60})
    update, count = t.agent.update, [0]

    def breaking(batch):
        update(batch)
        count[0] += 1
        if count[0] == 8:  # step 72
            with torch.no_grad():
                t.agent.learner.model_opt.param[0] = math.nan

    monkeypatch.setattr(t.agent, "update", breaking)
    with pytest.raises(RunError, match="Parameters are not finite either, so nothing was saved"):
        t.run()
    saved = checkpoint.existing(tmp_path / "ckpt", None)
    assert saved and saved[0][0] == 60


# Alarms

def row(**values) -> dict[str, float]:
    healthy = {"harmony/rew_s": -1.0, "harmony/image_s": 4.0, "harmony/kl_s": 1.0, "harmony/rew_term": 0.5,
               "harmony/image_term": 4.0, "harmony/kl_term": 2.0, "ret_scale": 3.0}
    return {f"train/{name}": value for name, value in (healthy | values).items()}


@pytest.mark.parametrize(("rows", "name", "says"), [
    ([row(**{"opt/model_skipped": 2.0, "opt/actor_skipped": 1.0})], "skipped", "model 2, actor 1"),
    ([row(**{"harmony/kl_s": -10.5})], "harmony_s", "kl -10.50"),
    ([row(**{"harmony/image_term": 3e3})], "harmony_balance", "the image term is 3e+03, the others together 2.5"),
    ([row(ret_scale=2e7)], "return_range", "above 1e+07"),
    ([row(), row(ret_scale=301.0)], "return_range", "from 3 to 301 within one log row"),
    ([row(), row(ret_scale=250.0), row(ret_scale=2.0)], "return_range", "down to 2 from 250"),
])
def test_alarms(rows, name, says):
    alarms = Alarms()
    for healthy in rows[:-1]:
        scalars, told = alarms.check(healthy)
        assert told == [] and set(scalars.values()) == {0.0}
    scalars, told = alarms.check(rows[-1])
    assert scalars.pop(f"alarm/{name}") == 1.0 and set(scalars.values()) == {0.0}
    assert len(told) == 1 and told[0].startswith(f"alarm {name}: ") and says in told[0]
    assert alarms.check(rows[-1])[1] == []  # raised once


def test_an_alarm_that_comes_back_is_told_again():
    alarms = Alarms()
    bad = row(**{"harmony/kl_s": 11.0})
    assert [len(alarms.check(r)[1]) for r in (bad, bad, row(), bad)] == [1, 0, 0, 1]


def test_rows_without_harmony_or_updates_raise_nothing():
    alarms = Alarms()
    assert alarms.check({}) == ({}, [])
    assert alarms.check({"train/ret_scale": math.nan})[1] == []
    assert alarms.check({"train/ret_scale": 1.0, "train/loss/image": 5.0})[1] == []
