"""One conformance test for every backend, the protocol's misuse table, and what is special about each backend."""

import itertools
import subprocess
import sys
import threading
from functools import partial

import gymnasium
import numpy as np
import pytest

import scripted_gym
from checkout import ENV
from hdfast.config import EnvConfig
from hdfast.envs import Step, from_gymnasium, make_envs
from hdfast.envs.dummy import DummyBackend
from hdfast.envs.gate import area_resize, area_weights
from hdfast.envs.stream import Stream, env_seeds
from hdfast.errors import ConfigError, RunError
from hdfast.spaces import Box, Discrete, ObsSpace

# Freeway: three actions and pictures that tell every no-op apart; cut after 12 steps.
SHORT = dict(max_episode_frames=50, size=32, num_threads=2)
TASKS = {
    "envpool": ("freeway", SHORT), "ale": ("freeway", SHORT | {"backend": "ale"}), "catch": ("catch", {"size": 16}),
    "noise": ("catch", {"size": 8, "background": "noise"}), "moving": ("catch", {"size": 16, "background": "moving"}),
    "dummy": ("dummy", {"size": 16}), "dummy_vector": ("dummy_vector", {}), "gym": ("gym_CartPole-v1", {}),
    "pendulum": ("gym_Pendulum-v1", {"max_episode_steps": 9}),
    "dmc": ("dmc_walker_walk", {"observe": "state", "action_repeat": 2, "max_episode_steps": 9}),
    "metaworld": ("metaworld_reach", {"observe": "state", "max_episode_steps": 9})}
ENDLESS = ("dmc", "metaworld")  # a time limit is no end there
N = 2
FIELDS = ("reward", "is_first", "is_last", "is_terminal")


atari = pytest.mark.parametrize("name", ["envpool", "ale"])


def made(name: str, num_envs: int, seed: int, **settings):
    if name == "gym_image":
        return from_gymnasium(scripted_gym.maker(seed, 24), num_envs=num_envs, size=16, **settings)
    task, own = TASKS[name]
    return make_envs(task, EnvConfig(**own, **settings), num_envs=num_envs, seed=seed)


@pytest.fixture(params=[*TASKS, "gym_image"])
def backend(request):
    return partial(made, request.param)


def play(envs, steps: int, seed: int = 7) -> list[Step]:
    """The records of a reset and `steps` random steps."""
    rng = np.random.default_rng(seed)
    return [envs.reset()] + [envs.step(envs.act_space.random(rng, envs.num_envs)) for _ in range(steps)]


def zeros(envs) -> np.ndarray:
    """An action for each environment."""
    return np.zeros((envs.num_envs, *envs.act_space.shape), envs.act_space.dtype)


def vars_of(step: Step) -> list[np.ndarray]:
    return [*step.obs.values(), *(getattr(step, name) for name in FIELDS)]


def same(a: Step, b: Step) -> bool:
    return all(map(np.array_equal, vars_of(a), vars_of(b)))


def test_records(backend):
    envs = backend(N, 1)
    stream = play(envs, 80)
    kept = {name: values.copy() for name, values in stream[0].obs.items()}
    assert stream[0].is_first.all() and not stream[0].is_last.any()
    assert sum(step.is_last.sum() for step in stream) > N
    for before, step in itertools.pairwise(stream):
        assert np.array_equal(step.is_first, before.is_last)
        assert not (step.is_first & step.is_last).any()
    for step in stream:
        assert (step.reward[step.is_first] == 0).all()
        assert np.array_equal(step.is_terminal, step.is_last & (backend.args[0] not in ENDLESS))
        found = [(name, values.shape, str(values.dtype)) for name, values in step.obs.items()]
        assert found == [(part.name, (N, *part.shape), part.dtype) for part in envs.obs_space.parts]
        assert all(values.flags.c_contiguous for values in step.obs.values())
        assert step.reward.shape == (N,) and step.reward.dtype == np.float32
        assert all(flags.dtype == bool and flags.shape == (N,) for flags in vars_of(step)[-3:])
    arrays = [id(array) for step in stream for array in vars_of(step)]
    assert len(set(arrays)) == len(arrays)
    for array in vars_of(envs.step(zeros(envs))):
        array[:] = 1  # a caller may write into its records
    assert all(np.array_equal(stream[0].obs[name], kept[name]) for name in kept), "a record changed once returned"
    assert not envs.reset().is_last.any()


def test_same_seed_same_records(backend):
    """Also with send and recv apart, with other integer types, and with any action where an episode ended."""
    stepped, split, other_seed = backend(N, 5), backend(N, 5), backend(N, 6)
    space, rng = stepped.act_space, np.random.default_rng(0)
    other_type, anything = (np.float64, np.nan) if isinstance(space, Box) else (np.int8, -100)
    actions = [space.random(rng, N) for _ in range(40)]
    last, others = stepped.reset(), [other_seed.reset()]
    records = [last]
    assert same(last, split.reset())
    for action in actions:
        over = last.is_last.reshape(N, *(1 for _ in space.shape))
        split.send(np.where(over, anything, action).astype(other_type))
        last = stepped.step(action)
        assert same(last, split.recv())
        records.append(last)
        others.append(other_seed.step(action))
    assert sum(record.is_last.sum() for record in records) > N
    assert not all(map(same, records, others))


def test_reset_and_close(backend):
    envs, twin = backend(N, 2), backend(N, 2)
    action = zeros(envs)
    envs.reset()
    twin.reset()
    envs.send(action)  # its records are dropped by the reset
    twin.step(action)
    for step in (envs.reset(), envs.reset()):  # in mid-episode
        assert step.is_first.all() and not step.is_last.any() and (step.reward == 0).all()
        assert same(step, twin.reset())
    assert not envs.step(action).is_first.any()
    envs.send(action)
    envs.close()
    envs.close()
    for call in (envs.reset, envs.recv, lambda: envs.send(action)):
        with pytest.raises(RuntimeError, match=r"closed; make new ones with make_envs\(\)"):
            call()


def test_a_backend_cannot_break_the_alignment():
    """A record's first reward is 0, also if the library reports another; dtypes are the protocol's."""
    class Careless(DummyBackend):
        def recv(self):
            return super().recv()._replace(reward=np.full(N, 7, np.int32))

    stream = play(Stream(lambda seed: Careless(N, seed, size=None)), 40)
    for step in stream:
        assert np.array_equal(step.reward, np.where(step.is_first, 0, 7)) and step.reward.dtype == np.float32


@pytest.mark.parametrize("name", ["envpool", "ale", "dummy"])
def test_order_of_calls(name):
    envs = made(name, N, 0)
    action = np.zeros(N, np.int64)
    for call in (envs.recv, lambda: envs.send(action), lambda: envs.step(action)):
        with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
            call()
    envs.reset()
    with pytest.raises(RuntimeError, match=r"call send\(action\) first"):
        envs.recv()
    envs.send(action)
    with pytest.raises(RuntimeError, match=r"call recv\(\) first"):
        envs.send(action)
    assert len(envs.recv().reward) == N


@pytest.mark.parametrize(("action", "error", "message"), [
    (np.array([0, 3, 0]), ValueError, "0..2, got 3 for environment 1"),
    (np.array([0, 0, -1]), ValueError, "0..2, got -1 for environment 2"),
    (np.array([10**8, 0, 0]), ValueError, "got 100000000"),
    (np.array([2**64 - 1, 0, 0], np.uint64), ValueError, "got 18446744073709551615"),
    (np.zeros(2, int), ValueError, r"shape \(3,\), got shape \(2,\)"),
    (np.zeros(4, int), ValueError, r"got shape \(4,\)"),
    (np.zeros(0, int), ValueError, r"got shape \(0,\)"),
    (np.zeros((3, 1), int), ValueError, "not one-hot"),
    (np.eye(3, dtype=int), ValueError, "not one-hot"),
    (np.array(0), ValueError, r"got shape \(\)"),
    (np.zeros(3), TypeError, "dtype float64"),
    (np.zeros(3, bool), TypeError, "dtype bool"),
    (np.zeros(3, object), TypeError, "dtype object"),
    (np.array(["0"] * 3), TypeError, "dtype <U1"),
    ([0, 0, 0], TypeError, "got list"),
    (0, TypeError, "got int"),
    (np.int64(0), TypeError, "got int64"),
    (None, TypeError, "got NoneType")])
@pytest.mark.parametrize("name", ["envpool", "ale", "catch"])
def test_wrong_actions(name, action, error, message):
    envs = open_backend(name)
    with pytest.raises(error, match=message):
        envs.send(action)
    assert envs.step(np.array([0, 1, 2], np.uint8)).reward.size == 3  # nothing went wrong in the library


OPEN: dict = {}


def open_backend(name):
    """Environments kept open between the rows of the table, in the middle of an episode."""
    envs = OPEN.get(name) or OPEN.setdefault(name, made(name, 3, 0))
    envs.reset()
    return envs


@pytest.mark.parametrize(("task", "settings", "message"), [
    ("ponng", {}, "did you mean 'pong'"),
    ("pong", dict(noop_max=0), "env.noop_max"),
    ("pong", dict(num_envs=0), "env.num_envs"),
    ("pong", dict(max_episode_frames=3), "at least env.frame_skip = 4, got 3"),
    ("catch_9x9", dict(size=8), "at least 9 for catch_9x9, got 8"),
    ("gym_NoSuchEnv-v0", {}, "cannot make 'NoSuchEnv-v0'"),
    ("gym_nosuchmodule:Env-v0", {}, "nosuchmodule"),
    ("gym_Blackjack-v1", {}, "observations must be uint8 images")])
def test_wrong_settings(task, settings, message):
    with pytest.raises(ConfigError, match=message):
        make_envs(task, EnvConfig(**settings))


def test_an_exception_of_an_environments_constructor_is_reported(monkeypatch):
    monkeypatch.setattr(gymnasium, "make", lambda env_id, **kwargs: {}["license"])
    for name in ("gym_CartPole-v1", "gym_a:b:c"):
        with pytest.raises(RunError, match=f"cannot make '{name[4:]}': KeyError: 'license'; fix the environment"):
            make_envs(name, EnvConfig())


def test_wrong_arguments():
    with pytest.raises(ConfigError, match=r"env\.num_envs"):
        make_envs("dummy", EnvConfig(), num_envs=0)
    with pytest.raises(ConfigError, match="seed"):
        make_envs("dummy", EnvConfig(), seed=-1)
    with pytest.raises(TypeError, match=r"pass config\.env"):
        make_envs("dummy", {"size": 64})
    with pytest.raises(TypeError, match="make must be a function"):
        from_gymnasium("CartPole-v1")
    with pytest.raises(TypeError, match="with a part 'image', got vector"):
        _ = make_envs("dummy_vector", EnvConfig()).reset().image


@pytest.mark.parametrize(("task", "backend", "module", "message"), [
    ("pong", "envpool", "envpool", "pip install envpool`, or use ale-py instead: --env.backend ale"),
    ("pong", "ale", "ale_py", "pip install ale-py`, or use EnvPool: --env.backend envpool"),
    ("catch", "envpool", "envpool", "pip install envpool`, or choose another task")])
def test_missing_library(monkeypatch, task, backend, module, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RunError, match=message):
        make_envs(task, EnvConfig(backend=backend))


@pytest.mark.parametrize("task", ["freeway", "freeway ale", "gym_CartPole-v1"])
def test_fork(task):
    """A child refuses the parent's environments, lives and dies without touching them, and can make its own."""
    program = """
import os, signal, sys, numpy as np
from hdfast.config import EnvConfig
from hdfast.envs import make_envs
task, _, backend = sys.argv[1].partition(" ")
config, action = EnvConfig(backend=backend or "envpool", num_threads=2), np.zeros(2, np.int64)
envs = make_envs(task, config, num_envs=2)
envs.reset()
envs.send(action)
pid = os.fork()
if pid == 0:
    signal.alarm(30)
    for call in (envs.recv, envs.reset, lambda: envs.send(action)):
        try:
            call()
            os._exit(9)
        except RuntimeError as error:
            assert "after the fork" in str(error)
    envs.close()
    del envs
    own = make_envs(task, config, num_envs=2)
    own.reset()
    own.step(action)
    sys.exit(5)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
envs.recv()
envs.step(action)
print("parent continues")
"""
    done = subprocess.run([sys.executable, "-c", program, task], timeout=60, capture_output=True, text=True,
                          env=ENV)
    assert (done.returncode, done.stdout) == (0, "parent continues\n"), done.stderr


@atari
def test_nearby_seeds_share_no_trajectory(name):
    three, four = (np.stack([envs.reset().image, *(envs.step(np.zeros(N, int)).image for _ in range(60))])
                   for envs in (made(name, N, 3), made(name, N, 4)))
    assert not any(np.array_equal(three[:, i], four[:, j]) for i in range(N) for j in range(N))
    assert not any(np.array_equal(three[:, i], three[:, j]) for i in range(N) for j in range(i))
    seeds = [seed for base in range(20) for seed in env_seeds(base, 50)]
    assert len(set(seeds)) == 1000 and 0 <= min(seeds) and max(seeds) < 2**31


@atari
def test_time_limit_is_terminal_only_when_asked(name):
    for as_official in (True, False):
        envs = made(name, 1, 0, terminal_on_limit=as_official)
        stream = play(envs, 40)
        assert [t for t, step in enumerate(stream) if step.is_last[0]] == [12, 25, 38]  # 50 frames = 12 whole steps
        assert [t for t, step in enumerate(stream) if step.is_terminal[0]] == ([12, 25, 38] if as_official else [])


@atari
def test_atari_options(name):
    envs = make_envs("breakout", EnvConfig(backend=name, grayscale=True, full_action_space=True), num_envs=2)
    assert str(envs.obs_space) == "image 64 x 64 x 1 uint8" and envs.act_space == Discrete(18)
    assert envs.reset().image.shape == (2, 64, 64, 1)
    stuck, free = (play(make_envs("freeway", EnvConfig(backend=name, sticky=p, noop_max=1)), 60) for p in (0.9, 0.0))
    assert not all(map(same, stuck, free))


@pytest.mark.parametrize("size", [16, None])
@pytest.mark.parametrize("terminal_on_limit", [True, False])
def test_dummy_and_gymnasium_agree_record_by_record(size, terminal_on_limit):
    config = EnvConfig(size=size or 64, terminal_on_limit=terminal_on_limit)
    dummy = make_envs("dummy" if size else "dummy_vector", config, num_envs=4, seed=3)
    gym = from_gymnasium(scripted_gym.maker(3, size), num_envs=4, seed=3, terminal_on_limit=terminal_on_limit)
    ours, theirs = play(dummy, 60), play(gym, 60)
    assert all(map(same, ours, theirs))
    ends = np.array([[step.is_last, step.is_terminal] for step in ours]).sum((0, 2))
    assert ends[0] > 20 and (ends[1] == ends[0] if terminal_on_limit else 0 < ends[1] < ends[0])
    assert {1.0, -0.0625, -0.3125} <= {float(reward) for step in ours for reward in step.reward}


def test_catch():
    """The ball is the lit cell above the paddle's row; chasing it wins every episode of H records."""
    envs = make_envs("catch_8x5", EnvConfig(size=16, terminal_on_limit=False), num_envs=16, seed=0)
    step = envs.reset()
    for t in range(1, 60):
        board = step.image[:, ::2, np.arange(5) * 16 // 5 + 1, 0]
        assert set(np.unique(step.image)) == {0, 255}
        ball, paddle = board[:, :-1].any(1).argmax(1), board[:, -1].argmax(1)
        step = envs.step(np.sign(ball - paddle) + 1)
        assert step.is_last.all() == step.is_terminal.all() == step.is_last.any() == (t % 8 == 7)
        assert np.array_equal(step.reward, np.full(16, float(t % 8 == 7), np.float32))
    stay = [envs.reset()] + [envs.step(np.ones(16, np.int64)) for _ in range(7)]
    assert set(stay[-1].reward) == {1.0, -1.0}


class Spaces(gymnasium.Env):
    """One observation again and again, from any space."""

    def __init__(self, observation_space, obs, action_space=None, reward=0.0):
        self.observation_space, self.obs, self.reward = observation_space, obs, reward
        self.action_space = action_space or gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return self.obs, {}

    def step(self, action):
        self.taken = action
        return self.obs, self.reward, False, False, {}


def test_gymnasium_spaces():
    box, discrete = gymnasium.spaces.Box, gymnasium.spaces.Discrete
    for space, obs, want in [
            (discrete(3, start=5), np.int64(6), np.array([0, 1, 0], np.float32)),
            (box(-9, 9, (), np.float64), np.array(2.5), np.array([2.5], np.float32)),
            (box(0, 255, (4,), np.uint8), np.array([0, 1, 2, 255], np.uint8), np.array([0, 1, 2, 255], np.float32)),
            (box(0, 255, (2, 3), np.uint8), np.ones((2, 3), np.uint8), np.ones((2, 3, 1), np.uint8))]:
        envs = from_gymnasium(lambda space=space, obs=obs: Spaces(space, obs), num_envs=2)
        step = envs.reset()
        assert envs.obs_space == ObsSpace.single(want.shape, str(want.dtype))
        values, = step.obs.values()
        assert values.dtype == want.dtype and np.array_equal(values, np.stack([want, want]))
    for space, obs in [(box(0, 1, (4, 4), np.float32), np.zeros((4, 4), np.float32)),
                       (box(0, 255, (3, 8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8)),
                       (gymnasium.spaces.Text(9), "left"), (gymnasium.spaces.Tuple([discrete(2)]), (0,))]:
        with pytest.raises(ConfigError, match="observations must be uint8 images"):
            from_gymnasium(lambda space=space, obs=obs: Spaces(space, obs))
    env = Spaces(box(0, 1, (1,)), np.zeros(1, np.float32), discrete(2, start=-1))
    envs = from_gymnasium(lambda: env)
    envs.reset()
    envs.step(np.array([0]))
    assert env.taken == -1


def test_gymnasium_steps_beside_the_caller():
    go = threading.Event()

    class Waits(Spaces):
        def step(self, action):
            assert go.wait(30), "send() waited for the environment"
            return super().step(action)

    envs = from_gymnasium(lambda: Waits(gymnasium.spaces.Discrete(2), np.int64(0)))
    envs.reset()
    envs.send(np.array([0]))
    go.set()
    assert not envs.recv().is_last.any()


@pytest.mark.parametrize("shape", [(210, 160), (96, 96), (16, 16), (17, 23)])
def test_area_resize(shape):
    """Within rounding of OpenCV's area interpolation; enlarging by a whole factor copies pixels."""
    cv2 = pytest.importorskip("cv2", reason="compares with OpenCV")
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    ours = area_resize(image, area_weights(shape[0], 16), area_weights(shape[1], 16))
    theirs = cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA)
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    twice = area_resize(image, area_weights(shape[0], 2 * shape[0]), area_weights(shape[1], 2 * shape[1]))
    assert np.array_equal(twice, image.repeat(2, 0).repeat(2, 1))
