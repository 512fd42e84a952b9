"""Environments that raise, hang or give numbers that are not finite: reported, replaced, and never stored."""

import gc
import itertools
import json
import threading
import time
from queue import Empty

import gymnasium
import numpy as np
import pytest
import torch

from hdfast.envs import from_gymnasium
from hdfast.envs.dummy import DummyBackend
from hdfast.envs.stream import Stream
from hdfast.envs.worker import Worker
from hdfast.errors import EnvError
from hdfast.evaluation import evaluate
from hdfast.run import checkpoint
from hdfast.run.jsonl import read_rows
from hdfast.trainer import Trainer
from scripted_run import OBS, ScriptedAgent, ScriptedEnvs, small_config

SHAPE = OBS.parts[0].shape
RELEASE = threading.Event()  # lets hanging environments go
HANGING: list[threading.Thread] = []  # what they hang on


class Fails(gymnasium.Env):
    """Episodes of seven steps; number `bad` of those made does what `how` says at its step `at`, counted over episodes.

    Observations: the number of the step in its episode. `made` is shared by all that one test makes.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, SHAPE, np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, how: str, made: list, *, bad=(1,), at: int = 12):
        self.how, self.number, self.at, self.steps = how if len(made) in bad else "", len(made), at, 0
        made.append(self)

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return np.zeros(SHAPE, np.float32), {}

    def step(self, action):
        self.count, self.steps, reward = self.count + 1, self.steps + 1, 1.0
        obs = np.full(SHAPE, self.count, np.float32)
        if self.how and self.steps == self.at:
            if self.how == "raise":
                raise ValueError("the emulator lost its window")
            if self.how == "exit":
                raise SystemExit(0)
            if self.how == "hang":
                HANGING.append(threading.current_thread())
                RELEASE.wait(600)
            reward = {"nan reward": np.nan, "huge reward": 1e300}.get(self.how, 1.0)
            obs[1] = {"inf obs": np.inf, "nan obs": np.nan}.get(self.how, obs[1])
        return obs, reward, False, self.count == 7, {}


@pytest.fixture(autouse=True)
def release():
    RELEASE.clear()
    HANGING.clear()
    yield
    RELEASE.set()


@pytest.fixture
def only_what_hangs_is_late(monkeypatch):
    """A step that is slow because the machine is has all the time it needs."""
    real = Worker.result

    def result(self, seconds=0.0, progress=lambda: 0):
        while seconds and self._results.empty() and self._thread not in HANGING:
            time.sleep(1e-3)
        return real(self, seconds if self._thread in HANGING else 0.0, progress)

    monkeypatch.setattr(Worker, "result", result)


HOW = {"exit": "raised RuntimeError: SystemExit 0", "raise": "raised ValueError: the emulator lost its window",
       "hang": r"did not answer for 0.3 seconds \(env.timeout",
       "nan reward": "gave the reward nan, which is not finite", "huge reward": "gave the reward inf, which is not",
       "inf obs": r"gave the observation \[ *5. *inf", "nan obs": r"gave the observation \[ *5. *nan"}


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("how", HOW)
def test_a_failure_is_reported_and_a_reset_makes_new_environments(how, only_what_hangs_is_late):
    made, at = [], 12
    envs = from_gymnasium(lambda: Fails(how, made, at=at), num_envs=2, timeout=0.3)
    action, step = np.zeros(2, np.int64), envs.reset()
    for _ in range(at):
        step = envs.step(action)  # every eighth record is that of a reset
    with pytest.raises(EnvError, match=f"environment 1 {HOW[how]}") as error:
        for _ in range(3):
            step = envs.step(action)
    assert "at step 13 since it was made; fix" in str(error.value) and "--env.retries" in str(error.value)
    for call in (envs.recv, lambda: envs.send(action)):
        with pytest.raises(RuntimeError, match=r"an environment failed; call reset\(\)"):
            call()
    again = envs.reset()
    assert len(made) == 4 and again.is_first.all() and not again.reward.any()
    for _ in range(20):
        step = envs.step(action)
    assert np.isfinite(step.obs["vector"]).all()
    start = time.monotonic()
    envs.close()
    envs.close()
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("how", ["raise", "hang"])
def test_a_failure_in_close_is_of_no_account(monkeypatch, how):
    monkeypatch.setattr("hdfast.envs.stream.CLOSING", 0.1)

    def close(self):
        if how == "hang":
            RELEASE.wait(600)
        raise ValueError("cannot close")

    monkeypatch.setattr(Fails, "close", close)
    envs = from_gymnasium(lambda: Fails("", []))
    envs.reset()
    envs.close()
    with pytest.raises(RuntimeError, match="closed"):
        envs.reset()


def test_a_hang_does_not_hold_up_closing(monkeypatch):
    monkeypatch.setattr("hdfast.envs.stream.CLOSING", 0.1)
    made = []
    envs = from_gymnasium(lambda: Fails("hang", made, bad=(0,), at=1))
    envs.reset()
    envs.send(np.array([0]))
    start = time.monotonic()
    envs.close()
    assert time.monotonic() - start < 60
    with pytest.raises(RuntimeError, match="closed"):
        envs.recv()


@pytest.mark.parametrize("call", ["reset", "send", "recv"])
def test_whichever_call_of_a_library_fails(call):
    seeds = []

    class Broken(DummyBackend):
        def __init__(self, seed):
            super().__init__(3, seed, size=None)
            if not seeds:
                setattr(self, call, self.fail)
            seeds.append(seed)

        def fail(self, *_):
            raise TimeoutError

    envs = Stream(Broken, 5, name="broken", timeout=60)
    with pytest.raises(EnvError, match="broken: one of the environments 0 to 2 raised TimeoutError, at step"):
        envs.reset()
        envs.send(np.zeros(3, np.int64))
        envs.recv()
    assert envs.reset().is_first.all() and seeds[0] == 5 != seeds[1] and len(seeds) == 2


def test_threads_end_with_their_environments():
    before = set(threading.enumerate())
    closed, dropped = (Stream(lambda seed: DummyBackend(1, seed, size=None)) for _ in range(2))
    threads = [thread for thread in threading.enumerate() if thread not in before]
    assert [thread.name for thread in threads] == ["environments"] * 2 and all(t.daemon for t in threads)
    closed.close()
    del dropped
    gc.collect()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_suspended_time_does_not_count(monkeypatch):
    """The wait is counted in slices: a process that was stopped for an hour finds one of them over, not its timeout."""
    class Late:
        def __init__(self, slices):
            self.slices = slices

        def get(self, timeout):
            assert timeout <= 1.0
            self.slices -= 1
            if self.slices >= 0:
                raise Empty
            return "late", None

    worker = Worker()
    for seconds, most in ((3.5, 7), (60, 59)):
        monkeypatch.setattr(worker, "_results", Late(most))
        assert worker.result(seconds) == "late"
        monkeypatch.setattr(worker, "_results", Late(most + 1))
        with pytest.raises(TimeoutError):
            worker.result(seconds)
    monkeypatch.setattr(worker, "_results", Late(500))  # one environment after the other: each has its own time
    assert worker.result(3.5, itertools.count().__next__) == "late"


# In a run

def train(tmp_path, envs, *, eval_envs=None, **overrides) -> Trainer:
    config = small_config(**{"run.steps": 60, "run.prefill": 20, **overrides})
    t = Trainer(config, ScriptedAgent(config), envs, tmp_path,
                eval_envs=eval_envs or (lambda n, seed: ScriptedEnvs([4] * n)))
    t.run()
    return t


def test_a_failure_saves_and_stops(tmp_path):
    made = []
    with pytest.raises(EnvError, match=r"environment 0 raised ValueError: .*, at step 34 since"):
        train(tmp_path, from_gymnasium(lambda: Fails("raise", made, bad=(0,), at=30)))
    found = checkpoint.latest(tmp_path / "ckpt")
    assert found.step == 34 and found.manifest["updates"] == 3
    assert json.loads((tmp_path / "meta.json").read_text())["status"].startswith("failed: EnvError")
    t = train(tmp_path, from_gymnasium(lambda: Fails("", made)))
    assert (t.step, t.updates) == (60, 10)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("how", HOW)
def test_a_retry_keeps_the_data_right(tmp_path, how, only_what_hangs_is_late):
    """Steps and updates are those of the schedule; the replay holds whole records, new episodes begin with is_first."""
    made = []
    envs = from_gymnasium(lambda: Fails(how, made, bad=(1, 2), at=15), num_envs=2, timeout=0.3)
    t = train(tmp_path, envs, **{"env.num_envs": 2, "env.retries": 2, "run.steps": 80})
    assert (t.step, t.updates, t.retries, len(made)) == (80, 15, 2, 6)
    ring = t.replay.ring
    count, first = ring.obs["vector"][:40, :, 0].numpy(), np.zeros((40, 2), bool)
    first[[0, 8, 16, 17, 25, 33, 34]] = True  # 17 records before step 15 of the environments, and again 17
    assert np.array_equal(count == 0, first) and np.isfinite(ring.obs["vector"][:40].numpy()).all()
    window = t.replay.ring.windows(torch.zeros(1, dtype=torch.float64), 40)  # of environment 0
    assert window.is_first[1:, 0].tolist() == first[1:, 0].tolist()
    assert window.reward[:, 0].tolist() == np.where(first[:, 0], 0, 1).tolist()
    text = (tmp_path / "console.log").read_text()
    assert text.count("(retry 1 of 2)") == text.count("(retry 2 of 2)") == 1 and "warning: step 34: " in text
    scores = [row["episode/score"] for row in read_rows(tmp_path / "scores.jsonl")]
    assert scores == [7.0] * 8  # the cut episodes are not among them


def test_retries_end(tmp_path):
    made = []
    with pytest.raises(EnvError, match="environment 0 gave the reward nan"):
        train(tmp_path, from_gymnasium(lambda: Fails("nan reward", made, bad=range(99), at=5)), **{"env.retries": 3})
    assert len(made) == 4 and checkpoint.latest(tmp_path / "ckpt").step == 20


def test_an_evaluation_plays_a_failed_round_anew(tmp_path):
    made, reported = [], []
    config = small_config()
    envs = from_gymnasium(lambda: Fails("raise", made, bad=(1,), at=10), num_envs=2)
    result = evaluate(ScriptedAgent(config), config, episodes=4, seed=0, envs=envs, failed=reported.append)
    assert result.scores == [7.0] * 4 and result.lengths == [7] * 4 and len(reported) == 1 and len(made) == 4
    made.clear()
    with pytest.raises(EnvError):
        evaluate(ScriptedAgent(config), config, episodes=4, seed=0,
                 envs=from_gymnasium(lambda: Fails("raise", made, bad=(1,), at=10), num_envs=2))


def test_a_failure_in_an_evaluation_saves_too(tmp_path):
    made = []
    with pytest.raises(EnvError):
        train(tmp_path, ScriptedEnvs([5]), **{"run.eval_every": 30},
              eval_envs=lambda n, seed: from_gymnasium(lambda: Fails("raise", made, bad=(0,), at=3), num_envs=n))
    assert checkpoint.latest(tmp_path / "ckpt").step == 30
