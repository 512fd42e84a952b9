"""Environments of a user's own: how they are made and remembered, what they may return, and processes for them."""

import functools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import hdfast
from hdfast.config import Config, EnvConfig
from hdfast.envs import from_gymnasium, make_envs
from hdfast.errors import ConfigError, EnvError, RunError
from hdfast.evaluation import evaluate, evaluate_run, load_agent
from hdfast.spaces import ObsSpace
from hdfast.tasks import canonical_task

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"run.threads": 1, "run.steps": 100, "run.prefill": 64, "run.batch_length": 16, "run.batch_size": 4,
         "run.train_ratio": 8.0, "run.eval_every": 0, "run.eval_episodes": 2, "run.eval_envs": 2}
Box, Discrete = gymnasium.spaces.Box, gymnasium.spaces.Discrete


class Count(gymnasium.Env):
    """Shows how many steps were made, and pays 1 for each; `told` is what its constructor was given."""

    action_space = Discrete(2)

    def __init__(self, last=5, width=3):
        self.last = last
        self.observation_space = Box(-9, 9, (width,), np.float32)

    def see(self):
        return np.full(self.observation_space.shape, self.count, np.float32)

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return self.see(), {}

    def step(self, action):
        self.count += 1
        return self.see(), 1.0, self.count == self.last, False, {"pid": os.getpid()}


class Other(Count):
    pass


def quick(task, logdir, **settings) -> Config:
    return Config.preset("debug", task=task, logdir=str(logdir), **QUICK | settings)


class Drawing(Count):
    """Draws its count on a square; `gives` breaks that."""

    def __init__(self, render_mode="rgb_array", gives=None):
        super().__init__()
        self.render_mode, self.gives = render_mode, gives

    def render(self):
        if self.gives == "error":
            raise gymnasium.error.DependencyNotInstalled("no pygame")
        return "text" if self.gives else np.full((8, 8, 3), 10 * self.count, np.uint8)


def test_a_vector_environment_is_filmed_if_it_draws_itself(tmp_path):
    hdfast.train(quick(Drawing, tmp_path / "run"))
    agent = load_agent(tmp_path / "run")
    assert len([*(tmp_path / "run" / "videos").glob("eval-policy-*.gif")]) == 1
    result = evaluate(agent, episodes=3, num_envs=2, record=True, video=tmp_path / "film.gif")
    assert [int(frame.max()) for frame in result.frames] == [0, 10, 20, 30, 40, 50] and result.video.stat().st_size
    assert result.scores == evaluate(agent, episodes=3, num_envs=2).scores == [5.0] * 3


@pytest.mark.parametrize("gives", ["error", "text", None])
def test_what_cannot_be_drawn_is_evaluated_without_a_film(tmp_path, gives):
    make = Drawing if gives else Count
    kwargs = json.dumps({"gives": gives} if gives else {})
    hdfast.train(quick(make, tmp_path / "run", **{"env.kwargs": kwargs}))
    agent = load_agent(tmp_path / "run")
    assert not (tmp_path / "run" / "videos").exists()
    with pytest.raises(ConfigError, match="draws none of itself; leave the video out, or let"):
        evaluate(agent, episodes=1, video=tmp_path / "film.gif")


# A run remembers how its environments are made

def test_the_script_of_the_page(tmp_path):
    """Trains, continues, and is evaluated from other processes: by its module, and not by the name of a script."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "environments.md").read_text(), re.DOTALL)[1]
    made, ran = code.split("\nconfig = ")
    (tmp_path / "my_corridor.py").write_text(made)
    (tmp_path / "own.py").write_text(code)
    (tmp_path / "again.py").write_text(f"from my_corridor import *\nconfig = {ran}".replace("runs/corridor", "again"))

    def run(*words, script="") -> str:
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, *([script] if script else ["-c", "import hdfast.cli; hdfast.cli.main()"]), *words]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        return done.stdout + done.stderr

    assert re.search(r"\n[\d.]+\n$", run(script="own.py"))
    assert "is finished: 400 steps" in run(script="own.py")
    assert "the script that started the run defined it" in run("eval", "runs/corridor", "--episodes", "1")
    assert re.search(r"\n[\d.]+\n$", run(script="again.py"))
    assert json.loads((tmp_path / "again" / "config.json").read_text())["task"] == "env_my_corridor:Corridor"
    train = ["train", "--configs", "debug", "--task", "env_my_corridor:Corridor", "--logdir", "again",
             "--env.max_episode_steps", "50", "--run.steps"]
    assert "resumed from" in run(*train, "440")
    assert "score mean" in run("eval", "again", "--episodes", "2")


def test_kwargs_and_the_other_ways_to_name_a_function(tmp_path):
    config = quick(Count, tmp_path / "a", **{"env.kwargs": '{"last": 3}'})
    assert config.task == canonical_task(Count) and Config.from_json(config.to_json()) == config
    hdfast.train(config)
    agent = load_agent(tmp_path / "a")
    assert evaluate(agent, episodes=2, envs=Count).scores == [3.0, 3.0]
    assert evaluate_run(tmp_path / "a", episodes=1, seed=1).scores == [3.0]
    hdfast.train(quick("gym_CartPole-v1", tmp_path / "b"), envs=functools.partial(Count, last=4))
    found, = {row["episode/score"] for row in map(json.loads, (tmp_path / "b" / "scores.jsonl").open())}
    assert found == 4.0 and json.loads((tmp_path / "b" / "config.json").read_text())["task"] == "env_functools:partial"
    with pytest.raises(TypeError, match=r"got str; write lambda: gymnasium\.make"):
        hdfast.train(config, envs="CartPole-v1")


def test_a_run_plays_its_own_environment_only(tmp_path):
    hdfast.train(quick(Count, tmp_path / "a"))
    agent = load_agent(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"was trained on env_.*:Count, not on env_.*:Other; evaluate it on its own"):
        evaluate(agent, episodes=1, envs=Other)
    with pytest.raises(ConfigError, match="was trained on env_.*, not on dummy"):
        evaluate(agent, Config.preset("debug", task="dummy"), episodes=1)
    with pytest.raises(ConfigError, match=r"trained on vector 3 float32 and 2 actions, .* have vector 4 float32"):
        evaluate(agent, episodes=1, envs=from_gymnasium(lambda: Count(width=4)))
    assert evaluate(agent, episodes=1, envs=from_gymnasium(Other)).scores == [5.0]
    with pytest.raises(ConfigError, match=r"other settings.*task \(there env_.*:Count, now env_.*:Other"):
        hdfast.train(quick(Other, tmp_path / "a"))


@pytest.mark.parametrize(("task", "settings", "says"), [
    ("env_nosuchmodule:Game", {}, "cannot be made here: No module named 'nosuchmodule'"),
    ("env_json:Game", {}, "module 'json' has no attribute 'Game'"),
    ("env_json", {}, "write env_<module>:<name>"),
    (canonical_task(Count), {"kwargs": "[1]"}, r"env\.kwargs must be a JSON object"),
    (canonical_task(Count), {"grayscale": True}, r"env\.grayscale has no effect on observations Box"),
    ("gym_CartPole-v1", {"sticky": 0.5}, r"env\.sticky 0\.5 exists only for atari_<game>, got task gym_CartPole-v1"),
    ("gym_CartPole-v1", {"frame_skip": 2}, r"env\.frame_skip 2 exists only for atari_"),
    ("pong", {"workers": 2}, r"env\.workers 2 exists only for gym_<Gymnasium id> and env_<module>:<name>"),
    ("catch", {"grayscale": True}, r"env\.grayscale True exists only for atari_")])
def test_wrong_names_and_settings(task, settings, says):
    with pytest.raises(ConfigError, match=says):
        make_envs(task, EnvConfig(**settings))


@pytest.mark.parametrize(("settings", "says"), [
    ({"kwargs": '{"color": 1}'}, "cannot make Count: TypeError: .*unexpected keyword argument 'color'"),
    ({"kwargs": '{"color": 1}', "workers": 1}, "cannot make Count: TypeError: .*unexpected keyword argument 'color'")])
def test_a_constructor_that_raises(settings, says):
    with pytest.raises(RunError, match=says):
        make_envs(Count, EnvConfig(**settings))


def test_the_console_script_finds_a_module_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "registers_mine.py").write_text(
        "import gymnasium\ngymnasium.register('Mine-v0', entry_point='gymnasium.envs.classic_control:CartPoleEnv')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    assert make_envs("gym_registers_mine:Mine-v0", EnvConfig()).obs_space == ObsSpace.single((4,), "float32")


# What an environment returns

class Returns(gymnasium.Env):
    """The results of reset and step, whatever they are."""

    action_space = Discrete(2)

    def __init__(self, space, first, then):
        self.observation_space, self.first, self.then = space, first, then

    def reset(self, *, seed=None, options=None):
        return self.first

    def step(self, action):
        return self.then


VECTOR, IMAGE = Box(-1, 1, (2,), np.float32), Box(0, 255, (8, 8, 3), np.uint8)
GOOD, SEEN = np.zeros(2, np.float32), np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(("space", "obs", "rest", "says"), [
    (VECTOR, np.zeros(3), (), r"an observation of shape \(3,\), expected \(2,\), as its space Box"),
    (VECTOR, "left", (), "an observation of type str, expected float32 numbers"),
    (VECTOR, [[1], [2, 3]], (), "an observation of type list, expected float32 numbers"),
    (VECTOR, None, (), "an observation of type NoneType"),
    (VECTOR, np.array([0, 1e300]), (), r"the observation \[ *0. *inf.* which is not finite"),
    (IMAGE, SEEN / 255, (), "an observation of float64 numbers, expected uint8 numbers"),
    (IMAGE, SEEN[..., 0], (), r"an observation of shape \(8, 8\), expected \(8, 8, 3\)"),
    (Discrete(5), 7, (), r"the observation 7, which is not in its space Discrete\(5\)"),
    (Discrete(5, start=2), 1, (), "the observation 1, which is not in its space"),
    (Discrete(5), 2.5, (), r"the observation 2\.5, expected a number"),
    (VECTOR, GOOD, (None, False, False, {}), "the reward None, expected a number"),
    (VECTOR, GOOD, (np.zeros(2), False, False, {}), r"the reward array\(\[0\., 0\.\]\), expected a number"),
    (VECTOR, GOOD, (0.0, "no", False, {}), "terminated='no', expected True or False"),
    (VECTOR, GOOD, (0.0, False, 2, {}), "truncated=2, expected True or False"),
    (VECTOR, GOOD, (0.0, False, {}), "returned 4 values from step.*old gym API needs a wrapper")])
def test_what_an_environment_may_not_return(space, obs, rest, says):
    """Refused where it arrives, with the environment, what came and what was expected; the first one is fine."""
    good = GOOD if space is VECTOR else SEEN if space is IMAGE else 2
    envs = from_gymnasium(lambda: Returns(space, (good, {}), (obs, *(rest or (0.0, False, False, {})))))
    envs.reset()
    with pytest.raises(EnvError, match=f"environment 0 (gave )?{says}"):
        envs.step(np.array([0]))


def test_a_reset_of_the_old_api_is_refused():
    with pytest.raises(EnvError, match=r"returned a ndarray from reset\(\), expected the pair"):
        from_gymnasium(lambda: Returns(VECTOR, GOOD, None)).reset()


@pytest.mark.parametrize("info", [None, [1, 2], {"moves": [np.zeros(2), np.zeros(3)]}, {"id": 2**200}, object(),
                                  {"success": "yes"}, {"success": np.zeros(3)}, {"success": np.str_("1")}])
def test_info_never_stops_a_run(info):
    step = (GOOD, np.float64(1), np.bool_(False), 0, info)
    envs = from_gymnasium(lambda: Returns(VECTOR, (GOOD, info), step), num_envs=2)
    envs.reset()
    seen = envs.step(np.zeros(2, np.int64))
    assert seen.reward.tolist() == [1.0, 1.0] and seen.is_success is None


class Planes(Count):
    """Images of some channels, all but the last dark."""

    def __init__(self, channels):
        self.observation_space, self.last = Box(0, 255, (16, 16, channels), np.uint8), 5

    def see(self):
        image = np.zeros(self.observation_space.shape, np.uint8)
        image[..., -1] = 40 * self.count
        return image


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_of_any_channels_train_to_the_end(channels, tmp_path):
    hdfast.train(quick(Planes, tmp_path, **{"env.kwargs": json.dumps({"channels": channels}), "run.video_every": 50}))
    assert {path.suffix for path in (tmp_path / "videos").rglob("*.*")} >= {".gif"}


@pytest.mark.parametrize("workers", [0, 1])
def test_gray_repeat_and_limit(workers):
    """Gray by Rec. 601; a repeated action adds up its rewards; the limit counts steps and is no true end."""
    env = EnvConfig(size=16, grayscale=True, action_repeat=2, max_episode_steps=2, kwargs='{"channels": 3}',
                    terminal_on_limit=False, workers=workers)
    envs = make_envs(Planes, env)
    step = envs.reset()
    assert envs.obs_space == ObsSpace.single((16, 16, 1), "uint8")
    for t in range(1, 5):
        step = envs.step(np.array([0]))
        first = t == 3
        assert (step.image == round(0.114 * 40 * (0 if first else 2 * (t % 3)))).all()
        assert step.reward[0] == (0 if first else 2) and step.is_last[0] == step.is_cut[0] == (t == 2)
        assert not step.is_terminal[0]
    envs.close()


def test_time_limits_mean_the_same_in_training_and_evaluation(tmp_path):
    """The environment's own limit, whatever Atari's settings say; an evaluation says what was cut."""
    make = functools.partial(gymnasium.wrappers.TimeLimit, Count(last=10**9), max_episode_steps=30)
    hdfast.train(quick("dummy", tmp_path, **{"env.max_episode_frames": 20}), envs=lambda: make())
    last = json.loads((tmp_path / "eval.jsonl").read_text().splitlines()[-1])
    scores = {row["episode/score"] for row in map(json.loads, (tmp_path / "scores.jsonl").open())}
    assert scores == {*last["scores"]} == {30.0} and last["cut"] == 2
    assert "over 2 episodes, 2 of them cut by a time limit" in (tmp_path / "console.log").read_text()


# Processes

class Fails(Count):
    """Action 1 fails; action 0 of another environment comes later than that."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def step(self, action):
        if self.count == 2:
            fail = {"exit": lambda: os._exit(3), "raise": lambda: {}["the window"], "hang": lambda: time.sleep(600)}
            (fail[self.how] if action else lambda: time.sleep(1))()
        return super().step(action)


def test_processes_give_the_same_records():
    """In the order of the environments, with the same seeds, for every number of processes."""
    def records(workers):
        envs = make_envs("gym_CartPole-v1", EnvConfig(workers=workers), num_envs=5, seed=3)
        steps = [envs.reset()] + [envs.step(np.full(5, t % 2)) for t in range(60)]
        envs.close()
        return np.concatenate([np.concatenate([s.obs["vector"].ravel(), s.reward, s.is_first, s.is_terminal])
                               for s in steps])

    one = records(0)
    for workers in (1, 2, 5, 9):
        np.testing.assert_array_equal(records(workers), one)


@pytest.mark.parametrize(("how", "says"), [
    ("raise", "raised KeyError: 'the window'"), ("exit", r"ended its process \(env.workers\)"),
    ("hang", "did not answer for 3 seconds")])
def test_a_process_that_fails_is_named_and_replaced(how, says):
    config = EnvConfig(workers=2, timeout=3, kwargs=json.dumps({"how": how}))
    envs = make_envs(Fails, config, num_envs=4)
    envs.reset()
    with pytest.raises(EnvError, match=rf"Fails: environment 2 {says}.*, at step 3 since it was made"):
        for _ in range(5):
            envs.step(np.array([0, 0, 1, 0]))
    assert envs.reset().is_first.all()
    deadline = time.monotonic() + 60
    while len(children()) > 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(children()) == 2  # what hung is gone
    envs.close()
    assert not children() and time.monotonic() < deadline


def children() -> list[str]:
    """Running processes with environments of this one."""
    found = subprocess.run(["ps", "-o", "stat=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return [line for line in found.stdout.splitlines() if "hdfast.envs.processes" in line and line[0] != "Z"]


def test_no_process_outlives_a_program_that_is_killed(tmp_path):
    (tmp_path / "hangs.py").write_text(
        "import os, signal, time\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
        "from hdfast.config import EnvConfig\nfrom hdfast.envs import make_envs\n"
        "class Hangs(CartPoleEnv):\n    def step(self, action):\n        time.sleep(600)\n"
        "if __name__ == '__main__':\n    import hangs\n"
        "    envs = make_envs(hangs.Hangs, EnvConfig(workers=1), num_envs=1)\n    envs.reset()\n"
        "    import numpy as np\n    envs.send(np.zeros(1, np.int64))\n    time.sleep(0.5)\n"
        "    print(envs._backend._workers[0][0].pid, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n")
    done = subprocess.run([sys.executable, "hangs.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"})
    left, deadline = Path("/proc") / done.stdout.strip(), time.monotonic() + 60
    assert done.stdout.strip(), done.stderr
    while left.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left.exists()


class Watchdog(Count):
    """Takes a signal handler, as only a main thread may."""

    def __init__(self):
        import signal
        super().__init__()
        signal.signal(signal.SIGUSR2, lambda *_: None)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_may_want_the_main_thread(workers):
    envs = make_envs(Watchdog, EnvConfig(workers=workers), num_envs=2)
    assert envs.reset().is_first.all()
    envs.close()


def test_the_timeout_is_that_of_one_environment():
    class Slow(Count):
        def reset(self, *, seed=None, options=None):
            time.sleep(0.15)
            return super().reset()

    envs = from_gymnasium(Slow, num_envs=12, timeout=1.0)
    assert envs.reset().is_first.all()
    envs.close()
