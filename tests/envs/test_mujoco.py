"""Tasks of dm_control and Meta-World: what they show, how they end, and that both ways to play them agree.

The packages are tested where they are installed; they need different versions of mujoco, so that one run has one.
"""

import functools
import itertools
import subprocess
import sys

import numpy as np
import pytest

from checkout import ENV
from hdfast.config import EnvConfig
from hdfast.envs import make_envs, mujoco
from hdfast.envs.dmc import Suite
from hdfast.envs.metaworld import Robot
from hdfast.errors import ConfigError, EnvError, RunError
from hdfast.spaces import Box
from hdfast.tasks import canonical_task


@functools.cache
def problem(task: str, backend: str) -> str:
    """Why the task cannot be played here; empty if it can."""
    try:
        make_envs(task, EnvConfig(backend=backend, observe="state")).close()
        mujoco.check_egl("libEGL.so.1")
    except RunError as error:
        return str(error)
    return ""


@pytest.fixture(params=itertools.product(["dmc_walker_walk", "metaworld_lever-pull-v3"], ["envpool", "mujoco"]),
                ids="-".join)
def make(request):
    task, backend = request.param
    if why := problem(task, backend):
        pytest.skip(why)

    def make(num_envs=1, seed=0, **settings):
        return make_envs(task, EnvConfig(backend=backend, **{"size": 16, **settings}), num_envs=num_envs, seed=seed)

    make.dmc = task.startswith("dmc")
    return make


def played(envs, steps):
    rng = np.random.default_rng(0)
    records = [envs.reset()] + [envs.step(envs.act_space.random(rng, envs.num_envs)) for _ in range(steps)]
    envs.close()
    return records


def test_what_is_seen(make):
    """Both show what each shows alone; images differ between environments and steps."""
    image, state, both = (played(make(2, 3, observe=kind), 3) for kind in ("image", "state", "both"))
    names = ["orientations", "height", "velocity"] if make.dmc else ["vector"]
    assert [*both[0].obs] == [*names, "image"] and [*state[0].obs] == names and [*image[0].obs] == ["image"]
    for one, two, three in zip(image, state, both, strict=True):
        assert np.array_equal(one.reward, two.reward) and np.array_equal(two.reward, three.reward)
        assert np.array_equal(one.image, three.image)
        assert all(np.array_equal(two.obs[name], three.obs[name]) for name in names)
    pictures = np.concatenate([record.image for record in image])
    assert len(np.unique(pictures.reshape(len(pictures), -1), axis=0)) == len(pictures)
    assert pictures.std() > 10


def test_cameras_differ(make):
    own, other = (make(camera=camera).reset().image for camera in (-1, 1 if make.dmc else 2))
    assert not np.array_equal(own, other) and np.array_equal(own, make(camera=0 if make.dmc else 1).reset().image)
    with pytest.raises(ConfigError, match=r"env\.camera must be from 0 to \d for this task, got 7; -1 is its own"):
        make(camera=7)


def test_a_time_limit_is_no_end(make):
    records = played(make(observe="state", max_episode_steps=3), 7)
    assert [bool(record.is_last[0]) for record in records] == [False, False, False, True, False, False, False, True]
    assert not any(record.is_terminal.any() for record in records) and records[3].is_cut.all()
    assert all((record.is_success is None) == make.dmc for record in records[1:])


def test_the_limit_of_an_episode(make):
    """1000 control steps, of which an action takes two here, or 500 steps of Meta-World."""
    envs = make(observe="state", **({"action_repeat": 2} if make.dmc else {}))
    last = [record.is_last[0] for record in played(envs, 501)]
    assert last.index(True) == 500 and sum(last) == 1


@pytest.mark.parametrize("backend", ["envpool", "mujoco"])
def test_a_repeated_action_adds_its_rewards_up(backend):
    """As if it were given three times, and with the same last image."""
    if why := problem("dmc_walker_walk", backend):
        pytest.skip(why)

    def make(repeat):
        return make_envs("dmc_walker_walk", EnvConfig(backend=backend, size=8, observe="both", action_repeat=repeat,
                                                      max_episode_steps=12 // repeat), seed=4)

    once, thrice = make(1), make(3)
    once.reset()
    thrice.reset()
    rng = np.random.default_rng(0)
    for _ in range(9):
        action = rng.uniform(-1, 1, (1, 6))
        repeated = thrice.step(action)
        steps = [once.step(action) for _ in range(1 if repeated.is_first[0] else 3)]
        assert repeated.reward[0] == pytest.approx(sum(float(step.reward[0]) for step in steps), rel=1e-6)
        assert repeated.is_last[0] == steps[-1].is_last[0]
        assert all(np.array_equal(repeated.obs[name], steps[-1].obs[name]) for name in repeated.obs)


@pytest.mark.parametrize("task", ["dmc_humanoid_walk", "dmc_finger_spin", "dmc_quadruped_run", "dmc_dog_walk",
                                  "dmc_humanoid_run_pure_state", "dmc_fish_upright", "dmc_quadruped_escape"])
def test_states_have_the_parts_of_the_task(task):
    """EnvPool gives those of the whole domain; the names are dm_control's."""
    suite = pytest.importorskip("dm_control.suite", reason="compares with dm_control")
    domain, name = next(pair for pair in suite.ALL_TASKS if "_".join(pair) == task.removeprefix("dmc_"))
    envs = make_envs(task, EnvConfig(backend="envpool", observe="state"))
    spec = suite.load(domain, name).observation_spec()
    assert [(part.name, part.shape) for part in envs.obs_space.parts] == \
        [(key, value.shape or (1,)) for key, value in spec.items()]


def test_a_linear_system_ends_and_repeats_no_action():
    if why := problem("dmc_lqr_lqr_2_1", "envpool"):
        pytest.skip(why)
    with pytest.raises(ConfigError, match=r"env\.action_repeat 2 is more than EnvPool can do for dmc_lqr_lqr_2_1"):
        make_envs("dmc_lqr_lqr_2_1", EnvConfig(backend="envpool", action_repeat=2))
    assert make_envs("dmc_lqr_lqr_2_1", EnvConfig(backend="envpool", observe="state")).act_space == Box(1)


@pytest.mark.parametrize(("name", "task"), [
    ("dmc_cup_catch", "dmc_ball_in_cup_catch"), ("dmc_humanoid_CMU_run", "dmc_humanoid_CMU_run"),
    ("metaworld_lever_pull", "metaworld_lever-pull-v3"), ("metaworld_Sweep-Into-v3", "metaworld_sweep-into-v3")
])
def test_names(name, task):
    assert canonical_task(name) == canonical_task(task) == task


@pytest.mark.parametrize(("task", "settings", "says"), [
    ("dmc_cheeta_run", {"backend": "envpool"}, "has no environment 'CheetaRun-v1', did you mean 'CheetahRun-v1'"),
    ("metaworld_reach-v2", {"backend": "envpool"}, "'MetaWorld/Reach-v2', did you mean 'MetaWorld/Reach-v3'"),
    ("dmc_cheetah", {}, "unknown task 'dmc_cheetah'; tasks are .* dmc_<domain>_<task>, metaworld_<name>"),
    ("dmc_cheetah_run", {"backend": "ale"}, "env.backend ale plays no dmc_ tasks; take envpool or mujoco"),
    ("pong", {"backend": "mujoco"}, "env.backend mujoco plays no atari_ tasks; take envpool or ale"),
    ("pong", {"observe": "state"}, r"env\.observe state exists only for dmc_<domain>_<task> and metaworld_<name>"),
    ("metaworld_reach", {"action_repeat": 2}, r"env\.action_repeat 2 exists only for gym_.* and dmc_<domain>_<task>")])
def test_wrong_names_and_settings(task, settings, says):
    with pytest.raises(ConfigError, match=says):
        make_envs(task, EnvConfig(**settings))


@pytest.mark.parametrize(("module", "make", "says"), [
    ("dm_control", lambda: Suite("walker_walk", "state", 8, 0, 1), r"pip install hdfast\[dmc\]`, or use EnvPool"),
    ("metaworld.env_dict", lambda: Robot("reach-v3", "state", 8, 0), r"pip install hdfast\[metaworld\]`, or use"),
    ("envpool", lambda: make_envs("dmc_walker_walk", EnvConfig(backend="envpool")),
     "pip install envpool`, or play it by its own package: --env.backend mujoco")])
def test_missing_library(monkeypatch, module, make, says):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RunError, match=says):
        make()


def test_images_without_a_driver_are_refused_and_states_are_not():
    """In a process of its own, as libEGL remembers its drivers: EnvPool would end it."""
    if why := problem("dmc_walker_walk", "envpool"):
        pytest.skip(why)
    program = """
from hdfast.config import EnvConfig
from hdfast.envs import make_envs
make_envs("dmc_walker_walk", EnvConfig(observe="state", backend="envpool")).reset()
try:
    make_envs("dmc_walker_walk", EnvConfig(backend="envpool"))
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
                          env=ENV | {"__EGL_VENDOR_LIBRARY_DIRS": "/nowhere"})
    assert "RunError images of MuJoCo are drawn by libEGL" in done.stdout, done.stderr
    assert "it has no driver" in done.stdout and "apt-get install -y libegl1" in done.stdout


def test_no_library_to_draw_with(monkeypatch):
    with pytest.raises(RunError, match=r"libnothere.so: cannot open.*apt-get install.*--env.observe state"):
        mujoco.check_egl("libnothere.so")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(mujoco, "check_egl", lambda library: pytest.fail("osmesa needs no libEGL"))
    mujoco.load_renderer()


def test_images_of_another_state_are_refused(monkeypatch):
    """Should the two pools ever play different episodes."""
    if why := problem("dmc_walker_walk", "envpool"):
        pytest.skip(why)
    envs = make_envs("dmc_walker_walk", EnvConfig(backend="envpool", size=8))
    envs.reset()
    envs._backend._images.step(np.ones((1, 6)))
    with pytest.raises(EnvError, match="was drawn in another state than it was played in"):
        envs.step(np.zeros((1, 6)))


def test_packages_draw_in_processes_of_their_own():
    if why := problem("dmc_walker_walk", "mujoco"):
        pytest.skip(why)
    def records(workers):
        settings = EnvConfig(backend="mujoco", size=8, workers=workers)
        return played(make_envs("dmc_walker_walk", settings, num_envs=2), 3)
    for one, two in zip(records(0), records(2), strict=True):
        assert np.array_equal(one.image, two.image) and np.array_equal(one.reward, two.reward)


def test_a_true_end_has_discount_0():
    if why := problem("dmc_lqr_lqr_2_1", "mujoco"):
        pytest.skip(why)

    class Step:
        observation, reward, discount = {}, 1.0, 0.0

        @staticmethod
        def last():
            return True

    env = Suite("lqr_lqr_2_1", "state", 8, 0, 3)
    env._env.step = lambda action: Step
    assert env.step(np.zeros(1))[1:4] == (1.0, True, False)
