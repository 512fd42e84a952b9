"""The training loop: how many updates when, in which order, what evaluation may touch, and what stops it."""

import json
import os
import platform
import re
import shutil
import signal
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from agent_case import unequal
from hdfast import estimate, rng, trainer
from hdfast.agent import Agent
from hdfast.commands.dry_run import dry_run
from hdfast.config import Config, RunConfig
from hdfast.envs import make_envs
from hdfast.errors import ConfigError, RunError
from hdfast.evaluation import RandomAgent, against_random, evaluate
from hdfast.machine import choose_algorithms, pick_device
from hdfast.ops import library
from hdfast.protocol import Schedule, crossed
from hdfast.replay.ring import WORDS
from hdfast.run import checkpoint, stopping
from hdfast.run.directory import RunDir, check_settings, finished_step, read_meta
from hdfast.run.jsonl import read_rows
from hdfast.spaces import Discrete, ObsSpace, spaces
from hdfast.trainer import Trainer, with_backend
from kinds import KINDS
from programs import python
from scripted_run import ACTIONS, OBS, ScriptedAgent, ScriptedEnvs, new_trainer, short_episodes, small_config


def run(tmp_path, config, lengths=(5,), *, log=None, on_update=None):
    """Train a scripted agent in scripted environments; returns agent, environments, trainer."""
    agent, envs = ScriptedAgent(config, log, on_update), ScriptedEnvs(lengths, log)
    t = Trainer(config, agent, envs, tmp_path, eval_envs=short_episodes)
    t.run()
    return agent, envs, t


# Schedule

def test_the_official_preset_makes_99900_updates():
    schedule = Schedule.of(Config.preset("atari100k", task="pong").run)
    assert [schedule.updates_due(s) for s in (0, 1099, 1100, 1101, 1102, 5000, 101_000)] == [
        0, 0, 0, 1, 2, 3900, 99_900]
    assert [schedule.random_actions(s) for s in (0, 1099, 1100)] == [True, True, False]


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 7.0, 8.0, 33.3, 341.3, 1024.0])
@pytest.mark.parametrize("num_envs", [1, 3, 8])
def test_updates_never_drift(ratio, num_envs):
    run = RunConfig(steps=10**9, prefill=100, batch_size=5, batch_length=7, train_ratio=ratio)
    schedule, exact = Schedule.of(run), Fraction(str(ratio)) / 35
    for step in (*range(num_envs, 2000, num_envs), *(10**9 - num_envs * k for k in range(50))):
        expected = max(0, (step - 100) * exact)
        assert 0 <= expected - schedule.updates_due(step) < 1
    if ratio == 0.1:  # 1 update every 350 steps, to the step
        assert schedule.updates_due(100 + 350 * 10**6) == 10**6 == 1 + schedule.updates_due(99 + 350 * 10**6)


def test_crossed():
    assert [crossed(10, a, b) for a, b in ((0, 9), (0, 10), (10, 19), (9, 11), (5, 50))] == [
        False, True, False, True, True]
    assert not crossed(0, 0, 100)


@pytest.mark.parametrize(("num_envs", "ratio"), [(1, 8.0), (3, 8.0), (4, 33.0)])
def test_the_loop_follows_the_schedule(tmp_path, num_envs, ratio):
    config = small_config(**{"env.num_envs": num_envs, "run.train_ratio": ratio, "run.steps": 200, "run.prefill": 50})
    agent, _, t = run(tmp_path, config, lengths=[5] * num_envs)
    assert t.step == -(-200 // num_envs) * num_envs
    assert agent.updates == t.updates == int((t.step - 50) * Fraction(ratio) / 32)
    assert len(t.replay) == t.step
    assert agent.batches[0].reward.shape == (8, 4)


def test_the_environments_step_while_the_learner_learns(tmp_path):
    log = []
    run(tmp_path, small_config(**{"run.steps": 30, "run.prefill": 20, "run.train_ratio": 64.0}), log=log)
    prefill = ["reset"] + ["send", "recv"] * 20
    policy = ["act", "send", "update", "update", "recv"] * 9 + ["act", "update", "update"]
    evaluation = ["act"] * 4
    assert log == prefill + policy + evaluation


def test_the_policy_takes_over_in_the_middle_of_an_episode(tmp_path):
    config = small_config(**{"run.steps": 40, "run.prefill": 22})
    agent, envs, t = run(tmp_path, config, lengths=[6])
    first, state = agent.acted[0]
    assert state == ("initial", 1)
    assert first.obs["vector"][0, 0] == 22 and not first.is_first[0]  # record 23; episodes have 7 records
    assert [s for _, s in agent.acted[1:18]] == [("carried", 1)] * 17
    random = np.concatenate(envs.actions[:22])
    assert set(random) == {0, 1, 2}
    stored = t.replay.ring.meta[:40, 0, WORDS:].contiguous().view(torch.float32)
    assert not stored[6].any() and stored[:6].argmax(-1).tolist() == list(random[:6])  # none after is_last


def test_every_record_counts_and_episodes_are_recorded(tmp_path):
    config = small_config(**{"env.num_envs": 2, "run.steps": 48, "run.prefill": 20})
    _, _, t = run(tmp_path, config, lengths=[3, 5])
    rows = read_rows(tmp_path / "scores.jsonl")
    first = [(row["step"], row["episode/score"], row["episode/length"]) for row in rows if row["episode/length"] == 3]
    second = [(row["step"], row["episode/score"], row["episode/length"]) for row in rows if row["episode/length"] == 5]
    assert first == [(8 * k, 3.0, 3) for k in range(1, 7)]  # 4 records of 2 environments are 8 steps
    assert second == [(12 * k, 10.0, 5) for k in range(1, 5)]
    assert (t.episodes, t.best_score) == (10, 10.0)


def test_frames_are_steps_times_the_action_repeat_of_atari(tmp_path):
    config = small_config("atari_pong", **{"run.steps": 40, "run.prefill": 20})
    run(tmp_path, config)
    assert [row["step"] for row in read_rows(tmp_path / "scores.jsonl")] == [24 * k for k in range(1, 7)]
    assert read_rows(tmp_path / "eval.jsonl")[0]["step"] == 160


def test_what_falls_due_when(tmp_path):
    config = small_config("dummy", **{"run.steps": 50, "run.prefill": 20, "run.eval_every": 15, "run.log_every": 12,
                                      "run.video_every": 20, "run.save_every": 22})
    new_trainer(config, tmp_path).run()
    assert [row["agent_step"] for row in read_rows(tmp_path / "eval.jsonl")] == [15, 30, 45, 50]
    metrics = read_rows(tmp_path / "metrics.jsonl")
    assert [row["agent_step"] for row in metrics if "replay/items" in row] == [12, 24, 36, 48, 50]
    assert all(np.isfinite(row["train/loss/image"]) for row in metrics if "train/loss/image" in row)
    saved = sorted(path.name for path in (tmp_path / "ckpt").iterdir() if not path.name.startswith("best"))
    assert [name[:12] for name in saved] == ["000000000044", "000000000050"]
    videos = {path.name for path in (tmp_path / "videos").iterdir()}
    assert {f"eval-policy-{n:09d}.gif" for n in (15, 30, 45, 50)} <= videos
    assert {f"report-openloop-image-{n:09d}.png" for n in (20, 40, 50)} <= videos
    assert (tmp_path / "curve.png").stat().st_size > 1000


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_space_trains_and_resumes_bit_for_bit(tmp_path, kind):
    config, made = small_config("dummy", **{"run.steps": 60, "run.prefill": 40, "run.video_every": 50}), []

    def envs(lengths):
        made.append(ScriptedEnvs(lengths, spaces=KINDS[kind]))
        return made[-1]

    def trained(folder, steps) -> Trainer:
        longer = replace(config, run=replace(config.run, steps=steps))
        t = Trainer(longer, Agent(*KINDS[kind], longer), envs([5]), folder, eval_envs=lambda n, seed: envs([4] * n))
        t.run()
        return t

    first = trained(tmp_path / "run", 60)
    found = checkpoint.latest(tmp_path / "run" / "ckpt")
    assert spaces(found.manifest) == KINDS[kind] and not unequal(found.tensors, first.agent.state_dict())
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    one, two = trained(tmp_path / "run", 80), trained(tmp_path / "copy", 80)
    assert not unequal(one.agent.state_dict(), two.agent.state_dict()) and one.agent.updates == two.updates == 10
    assert one.replay.checksum() == two.replay.checksum() and len(one.replay) == 80
    assert [row["eval/score"] for row in read_rows(tmp_path / "run" / "eval.jsonl")] == [4.0, 4.0]
    assert (tmp_path / "run" / "videos").exists() == bool(KINDS[kind][0].images)
    played = [action for one in made for action in one.actions]
    assert not any(KINDS[kind][1].wrong(action).any() for action in played)


# Evaluation

@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_of_every_kind_of_space(kind):
    config = small_config("dummy")
    scores = []
    for player in (Agent(*KINDS[kind], config), RandomAgent(*KINDS[kind])):
        envs = [ScriptedEnvs([3, 5], spaces=KINDS[kind]) for _ in range(2)]
        scores += [evaluate(player, config, episodes=2, seed=3, envs=one).scores for one in envs]
        one, two = (np.stack(each.actions) for each in envs)
        assert np.array_equal(one, two) and one[:3].any() and not one[3:, 0].any()  # zeros for those that are done
        assert one.dtype == KINDS[kind][1].dtype
        other = next(spaces for name, spaces in KINDS.items() if name != kind)
        with pytest.raises(ConfigError, match="the agent was trained on .*, but these environments have"):
            evaluate(player, config, episodes=2, seed=3, envs=ScriptedEnvs([3, 5], spaces=other))
    assert scores == [[3.0, 10.0]] * 4


def test_evaluation_plays_one_episode_in_each_environment():
    config = small_config()
    agent, envs = ScriptedAgent(config), ScriptedEnvs([2, 5, 9])
    result = evaluate(agent, config, episodes=7, seed=0, envs=envs)
    assert result.lengths == [2, 5, 9, 2, 5, 9, 2]  # the first seven finishers would be shorter
    assert result.scores == [2.0, 10.0, 27.0, 2.0, 10.0, 27.0, 2.0]
    assert result.score_mean == pytest.approx(np.mean(result.scores))
    assert result.score_std == pytest.approx(np.std(result.scores))
    assert result.human_normalized is None and not envs.closed
    rounds = np.split(np.stack(envs.actions), [9, 18])
    assert all((r[2:, 0] == 0).all() and (r[5:, 1] == 0).all() for r in rounds[:2])  # done: action 0
    assert len(rounds[2]) == 2 and (rounds[2][:, 1:] == 0).all()
    assert [s for _, s in agent.acted if s[0] == "initial"] == [("initial", 3)] * 3


def test_evaluation_leaves_an_environment_without_a_time_limit(monkeypatch):
    monkeypatch.setattr("hdfast.protocol.ENDLESS", 30)
    config = small_config()
    result = evaluate(ScriptedAgent(config), config, episodes=1, seed=0, envs=ScriptedEnvs([10**9]))
    assert result.lengths == [30] and result.scores == [30.0] and result.cut == 1


def test_evaluation_is_fixed_by_its_seed_and_makes_a_video(tmp_path):
    config = small_config("dummy", **{"run.eval_envs": 3})
    envs = make_envs("dummy", config.env)
    agent = Agent(envs.obs_space, envs.act_space, config)
    first, again, other = (evaluate(agent, episodes=4, seed=s, video=tmp_path / f"{i}.gif")
                           for i, s in enumerate((1, 1, 2)))
    assert first.scores == again.scores != other.scores
    assert (tmp_path / "0.gif").read_bytes() == (tmp_path / "1.gif").read_bytes()
    assert first.video == tmp_path / "0.gif" and first.frames is None
    with pytest.raises(ConfigError, match="vector"):
        evaluate(ScriptedAgent(config), config, episodes=1, seed=0, video=tmp_path / "v.gif")


def test_evaluation_changes_nothing_in_training(tmp_path):
    def final(name, **overrides):
        config = small_config("dummy", **{"run.steps": 80, "run.prefill": 40, **overrides})
        t = new_trainer(config, tmp_path / name)
        t.run()
        return t.agent.state_dict(), t.replay.checksum(), rng.to_text(t.replay.rng)

    plain = final("plain")
    busy = final("busy", **{"run.eval_every": 25, "run.video_every": 30, "run.log_every": 7, "run.save_every": 50})
    assert plain[1:] == busy[1:]
    assert not unequal(plain[0], busy[0])


# Signals

@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt),
                                                 (signal.SIGHUP, SystemExit)])
def test_a_signal_saves_at_the_end_of_the_update_and_the_run_goes_on_from_there(tmp_path, number, raised):
    config = small_config(**{"run.steps": 100, "run.prefill": 20, "run.train_ratio": 64.0})  # two updates a step
    if signal.getsignal(number) == signal.SIG_IGN:  # the suite runs under nohup, which a run respects
        signal.signal(number, signal.SIG_DFL)
    before = signal.getsignal(number)
    with pytest.raises(raised) as error:
        run(tmp_path, config, on_update=lambda n: n == 11 and os.kill(os.getpid(), number))
    assert number == signal.SIGINT or error.value.code == 128 + number
    assert signal.getsignal(number) == before
    found = checkpoint.latest(tmp_path / "ckpt")
    assert (found.step, found.manifest["updates"]) == (26, 11)  # the second update of this step is made up for
    agent, _, t = run(tmp_path, config)
    assert (t.step, t.updates, agent.updates, float(agent.weight[0])) == (100, 160, 149, 160.0)


def test_a_signal_ends_an_evaluation_which_is_made_up_for_later(tmp_path):
    config = small_config(**{"run.steps": 40, "run.prefill": 20, "run.eval_every": 30})

    class Interrupting(ScriptedEnvs):
        def send(self, action):
            super().send(action)
            if len(self.actions) == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    envs = ScriptedEnvs([5])
    t = Trainer(config, ScriptedAgent(config), envs, tmp_path, eval_envs=lambda n, seed: Interrupting([10**6] * n))
    with pytest.raises(SystemExit):
        t.run()
    assert checkpoint.latest(tmp_path / "ckpt").step == 30 and not read_rows(tmp_path / "eval.jsonl")
    run(tmp_path, config)
    assert [row["agent_step"] for row in read_rows(tmp_path / "eval.jsonl")] == [30, 40]


# The end of a run's time

@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [100.0]
    monkeypatch.setattr(stopping, "monotonic", lambda: now[0])
    return now


def pass_time(clock, seconds):
    clock[0] += seconds


def test_a_run_out_of_time_saves_and_goes_on_from_there(tmp_path, clock):
    limited = small_config(**{"run.steps": 100, "run.prefill": 20, "run.train_ratio": 64.0, "run.max_seconds": 5.0})
    agent, _, t = run(tmp_path, limited, on_update=lambda n: pass_time(clock, 0.5))  # no exception: exit code 0
    found = checkpoint.latest(tmp_path / "ckpt")
    assert (t.step, agent.updates) == (found.step, found.manifest["updates"]) == (25, 10)
    meta = read_meta(tmp_path)
    assert meta["status"] == "stopped by run.max_seconds" and meta["finished"] is None
    assert not read_rows(tmp_path / "eval.jsonl")
    assert "stopped by run.max_seconds, saved at step 25" in (tmp_path / "console.log").read_text()
    _, _, t = run(tmp_path, limited)  # five seconds more, of which nothing passes
    assert (t.step, t.updates) == (100, 160)
    assert read_meta(tmp_path)["finished"] == 100


def test_time_that_ends_in_the_last_evaluation(tmp_path, clock):
    class Slow(ScriptedEnvs):
        def send(self, action):
            super().send(action)
            pass_time(clock, 1)

    config = small_config(**{"run.steps": 40, "run.prefill": 20, "run.max_seconds": 10})
    for made in (lambda n, seed: Slow([10**6] * n), short_episodes):
        t = Trainer(config, ScriptedAgent(config), ScriptedEnvs([5]), tmp_path, eval_envs=made)
        t.run()
        rows = read_rows(tmp_path / "eval.jsonl")
        assert checkpoint.latest(tmp_path / "ckpt").step == t.step == 40
        assert (tmp_path / "curve.png").exists() == bool(rows) == (t.evaluated == 40)
    assert len(rows) == 1


# The function behind `hdfast train`

def test_dry_run_reports_and_writes_nothing(tmp_path, capsys):
    logdir = tmp_path / "run"
    dry_run(small_config("dummy", logdir=str(logdir)))
    out = capsys.readouterr().out
    for part in ("run.batch_size 4", "encoder", "harmony", "total", "train/loss/image", "nothing was written"):
        assert part in out
    assert not logdir.exists()


def test_a_run_of_days_says_so(monkeypatch):
    """By the speed of a product, measured: at 1 TFLOP/s 100,000 updates at the official sizes take 37 hours."""
    def said(*presets, speed=1e12) -> str:
        monkeypatch.setattr(estimate, "product_speed", lambda: speed)
        config = Config.preset(*presets)
        return estimate.slow(config, Agent(ObsSpace.single((64, 64, 3), "uint8"), Discrete(6), config))

    assert re.search(r"about [12] days: 99,900 updates of some 1\.[0-9] s each; take a GPU, or", said("atari100k"))
    assert not said("atari100k", speed=1e13) and not said("atari100k", "cpu", speed=1e11)


def test_a_run_keeps_the_library_it_began_with(tmp_path, monkeypatch):
    config, ale = Config.preset("debug", task="pong"), Config.preset("debug", task="pong", **{"env.backend": "ale"})
    monkeypatch.setattr("hdfast.envs.find_spec", lambda name: None)
    assert config.env.backend == "auto" and with_backend(config, tmp_path) == ale
    monkeypatch.setattr("hdfast.envs.find_spec", lambda name: name)
    assert with_backend(config, tmp_path).env.backend == "envpool"
    (tmp_path / "config.json").write_text(ale.to_json())
    assert with_backend(config, tmp_path) == ale and check_settings(tmp_path, config)


def test_a_missing_device_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="--device cpu or --device auto"):
        pick_device("cuda:1")


def test_deterministic_algorithms_are_for_cuda_alone(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory
    try:
        choose_algorithms(torch.device("cuda"), False)
        choose_algorithms(torch.device("cpu"), True)
        assert not torch.are_deterministic_algorithms_enabled() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
        choose_algorithms(torch.device("cuda"), True)
        assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert cudnn.deterministic and not torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.use_deterministic_algorithms(False)
        cudnn.deterministic, cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory = before


def test_a_backend_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "problem", lambda: "it was not built")
    with pytest.raises(ConfigError, match="--backend auto"):
        trainer.train(small_config(backend="native", logdir=str(tmp_path / "run")))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="keep_memory is for glibc")
def test_kept_memory_is_not_given_back():
    code = """if True:
        import ctypes, resource, sys, numpy
        from hdfast.machine import keep_memory
        ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages of 4 KiB, so that they count
        if sys.argv[1] == "keep":
            keep_memory()
        numpy.full(1 << 26, 1, numpy.uint8)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            numpy.full(1 << 26, 1, numpy.uint8)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"""

    def faults(mode):
        return int(python("-c", code, mode).stdout)

    assert faults("keep") < 1000 < faults("as it is")


@pytest.mark.parametrize("backend", ["not_a_backend", None])
def test_a_run_ends_well_where_its_curve_cannot_be_drawn(tmp_path, monkeypatch, backend):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    if backend:
        monkeypatch.setenv("MPLBACKEND", backend)
    else:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    run(tmp_path, small_config(**{"run.steps": 80}))
    assert finished_step(tmp_path) == 80 and not (tmp_path / "curve.png").exists()
    assert "no learning curve is drawn: matplotlib cannot be imported" in (tmp_path / "console.log").read_text()


def test_random_play_is_measured_once_and_told_at_the_end(tmp_path, capsys):
    config = small_config(**{"run.steps": 40, "run.prefill": 20, "run.eval_episodes": 3, "run.eval_random": True})
    made = []

    def run(steps):
        def eval_envs(n, seed):
            made.append(seed)
            return ScriptedEnvs([4] * n)
        more = Config.from_flat(config.flat() | {"run.steps": steps})
        Trainer(more, ScriptedAgent(more), ScriptedEnvs([5]), tmp_path, eval_envs=eval_envs).run()
        return json.loads((tmp_path / "random.json").read_text()), capsys.readouterr().out

    found, told = run(40)
    assert found == {"scores": [4.0] * 3, "lengths": [4] * 3} and len(set(made)) == 2
    assert "random play: 4.00 +- 0.00 over 3 episodes" in told and "no sign yet that it plays better" in told
    assert run(60)[0] == found and len(made) == 3  # resumed: one more evaluation, random play is known
    (tmp_path / "random.json").write_text("{}")
    assert "no sign yet" not in run(80)[1]  # a file that cannot be used is no reason to stop


def test_random_agent_draws_every_action():
    agent = RandomAgent(OBS, ACTIONS)
    envs = ScriptedEnvs([400])
    with pytest.raises(TypeError, match="a RandomAgent has no configuration of its own"):
        evaluate(agent, episodes=1, envs=envs)
    result = evaluate(agent, small_config(), episodes=1, seed=0, envs=envs)
    assert result.lengths == [400] and np.bincount(np.concatenate(envs.actions), minlength=3).min() > 90


def test_what_an_evaluation_says_beside_random_play():
    told = against_random("atari_krull", [2000.0, 3000.0] * 50, [1500.0, 1700.0] * 50)
    assert "average 2,500, random play's 100 average 1,600: better by 900.0 (95% interval 800.1 to 999.9)" in told
    assert "published at 7,754 after 400K frames, human play at 2,666" in told
    assert "no sign" in against_random("catch_5x5", [1.0, -1.0], [0.0, 0.0])


def test_a_run_whose_end_cannot_be_recorded_has_failed(tmp_path, monkeypatch):
    note = RunDir.note

    def full(self, status, **options):
        if status == "finished":
            raise RunError("the disk is full")
        note(self, status, **options)

    monkeypatch.setattr(RunDir, "note", full)
    with pytest.raises(RunError, match="the disk is full"):
        run(tmp_path, small_config("dummy", **{"run.steps": 40, "run.prefill": 40}))
    assert read_meta(tmp_path)["status"] == "failed: RunError: the disk is full"
