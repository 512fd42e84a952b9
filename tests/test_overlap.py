"""Environments step while the learner learns, and nothing else differs from the official, serial order."""

import threading

import numpy as np
import pytest

from agent_case import copied, unequal
from hdfast import envs as hdfast_envs
from hdfast.agent import Agent
from hdfast.envs import make_envs
from hdfast.protocol import Schedule
from hdfast.replay.sequences import Replay
from hdfast.trainer import PREFILL, REPLAY, TRAIN_ENVS, Trainer, stream_seed
from scripted_run import ScriptedAgent, ScriptedEnvs, short_episodes, small_config

STEPS, PREFILLED = 60, 40
ONE_UPDATE_A_STEP = {"run.steps": STEPS, "run.prefill": PREFILLED, "run.train_ratio": 32.0}


def test_a_step_and_an_update_are_under_way_at_the_same_time(tmp_path):
    gymnasium = pytest.importorskip("gymnasium")
    meeting, met = threading.Barrier(2, timeout=30), []  # breaks, and fails the run, if one waits for the other

    class Meeting(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
        action_space = gymnasium.spaces.Discrete(3)
        steps = 0

        def reset(self, *, seed=None, options=None):
            return np.zeros(4, np.float32), {}

        def step(self, action):
            self.steps += 1
            if self.steps > PREFILLED:
                meeting.wait()
                met.append(self.steps)
            return np.zeros(4, np.float32), 0.0, False, False, {}

    config = small_config(**ONE_UPDATE_A_STEP)
    envs = hdfast_envs.from_gymnasium(Meeting)
    agent = ScriptedAgent(config, on_update=lambda n: n < STEPS - PREFILLED and meeting.wait())  # none after the last
    Trainer(config, agent, envs, tmp_path, eval_envs=short_episodes).run()
    envs.close()
    assert met == list(range(PREFILLED + 1, STEPS))


@pytest.mark.parametrize(("num_envs", "ratio"), [(1, 32.0), (1, 64.0), (1, 8.0), (3, 32.0)])
def test_parameters_that_act_and_steps_that_are_learned_from(tmp_path, num_envs, ratio):
    config = small_config(**{**ONE_UPDATE_A_STEP, "env.num_envs": num_envs, "run.train_ratio": ratio})
    schedule, seen = Schedule.of(config.run), []

    def look(update):
        ring = t.replay.ring
        last = ring.obs["vector"][int(ring.steps) - 1, 0, 0]  # which counts records
        seen.append((update, len(t.replay), int(last)))

    class Versions(ScriptedAgent):
        def act(self, step, state, generator=None):
            if generator is None:
                versions.append((int(step.obs["vector"][0, 0]) * num_envs, self.updates))
            return super().act(step, state, generator)

    versions = []
    t = Trainer(config, Versions(config, on_update=look), ScriptedEnvs([10**6] * num_envs), tmp_path,
                eval_envs=short_episodes)
    t.run()
    # The policy of step k has learned from the updates that were due after step k - 1 ...
    assert versions and all(version == schedule.updates_due(before) for before, version in versions)
    # ... and an update finds every step up to the one after which it is due, and none from later.
    due = [step for step in range(num_envs, t.step + 1, num_envs)
           for _ in range(schedule.updates_due(step) - schedule.updates_due(step - num_envs))]
    assert seen == [(i + 1, step, step // num_envs - 1) for i, step in enumerate(due)]


def test_the_replay_hears_of_frames_before_an_action_is_chosen(tmp_path, monkeypatch):
    """An action waits for the device: a copy before that costs no time."""
    calls = []

    def noted(owner, name):
        method = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda self, step, *rest: calls.append((name, step)) or method(
            self, step, *rest))

    noted(Replay, "expect"), noted(Replay, "add")
    config = small_config(**ONE_UPDATE_A_STEP)
    agent = ScriptedAgent(config)
    t = Trainer(config, agent, ScriptedEnvs([10**6]), tmp_path, eval_envs=short_episodes)
    noted(type(t), "_act")
    t.run()
    assert [name for name, _ in calls] == ["expect", "_act", "add"] * STEPS
    assert all(calls[i][1] is calls[i + 1][1] is calls[i + 2][1] for i in range(0, len(calls), 3))


class Beside:
    """The environments as they are."""

    def __init__(self, envs):
        self.envs, self.num_envs = envs, envs.num_envs
        self.obs_space, self.act_space, self.reset, self.close = envs.obs_space, envs.act_space, envs.reset, envs.close
        self.send, self.recv = envs.send, envs.recv


class InSend(Beside):
    """Does all of a step in `send`: the learner waits for the environments."""

    def __init__(self, envs):
        super().__init__(envs)
        self.send, self.recv = self._send, lambda: self.record

    def _send(self, action):
        self.record = self.envs.step(action)


class InRecv(Beside):
    """Does all of a step in `recv`: the environments wait for the learner."""

    def __init__(self, envs):
        super().__init__(envs)
        self.send, self.recv = self._send, lambda: self.envs.step(self.action)

    def _send(self, action):
        self.action = action


def serial(config, agent, envs):
    """The official loop: act, store, learn, step."""
    run, rng = config.run, np.random.Generator(np.random.PCG64(stream_seed(config.seed, PREFILL)))
    replay = Replay(run.steps + 1, 1, envs.obs_space, envs.act_space, directory=None,
                    seed=stream_seed(config.seed, REPLAY))
    record, policy = envs.reset(), agent.init_policy(1)
    for step in range(run.steps):
        if step < run.prefill:
            action = envs.act_space.random(rng, 1)
        else:
            action, policy = agent.act(record, policy)
        replay.add(record, action)
        if step >= run.prefill:
            agent.update(replay.sample(run.batch_size, run.batch_length))
        if step < run.steps - 1:
            record = envs.step(action)
    return copied(agent), replay.checksum()


def test_results_equal_the_serial_order_bit_for_bit(tmp_path):
    config = small_config("dummy", **ONE_UPDATE_A_STEP)

    def made():
        envs = make_envs("dummy", config.env, seed=stream_seed(config.seed, TRAIN_ENVS, 0))
        return Agent(envs.obs_space, envs.act_space, config), envs

    expected, checksum = serial(config, *made())
    for kind in (Beside, InSend, InRecv):
        agent, envs = made()
        t = Trainer(config, agent, kind(envs), tmp_path / kind.__name__)
        t.run()
        assert t.replay.checksum() == checksum and not unequal(agent.state_dict(), expected)
