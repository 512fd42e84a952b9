"""Observations of several parts, actions of every kind, and success: in this process and in others."""

import gymnasium
import numpy as np
import pytest

import hdfast
from hdfast.config import EnvConfig
from hdfast.envs import from_gymnasium, make_envs
from hdfast.envs.actions import actions
from hdfast.errors import ConfigError, EnvError
from hdfast.spaces import Box, Discrete, MultiDiscrete, ObsSpace, Part

S = gymnasium.spaces
FLOATS = S.Box(-1, 1, (2,), np.float32)


class Robot(gymnasium.Env):
    """An observation of many parts; `done` numbers the steps that succeed; shows the last action it was given."""

    observation_space = S.Dict([
        ("wrist", S.Box(0, 255, (4, 6, 3), np.uint8)),
        ("arm", S.Dict([("pose", S.Box(-9, 9, (2,), np.float64)), ("open", S.Box(0, 1, (), np.bool_))])),
        ("height", S.Box(-9, 9, (), np.float32)), ("tool", S.Discrete(3)), ("ticks", S.Box(0, 9, (), np.int32)),
        ("depth", S.Box(0, 255, (4, 6), np.uint8))])
    action_space = S.Box(np.array([[0, -2]]), np.array([[10, np.inf]]), (1, 2), np.float64)

    def __init__(self, success=(3,), length=5):
        self.success, self.length, self.given = success, length, np.zeros((1, 2))

    def see(self):
        return {"ticks": self.count, "depth": np.full((4, 6), 9, np.uint8), "tool": self.count % 3,
                "wrist": np.full((4, 6, 3), self.count, np.uint8), "height": 1.5, "arm": {"pose": self.given[0]}}

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return self.see(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.count, self.given = self.count + 1, action
        info = {} if self.success is None else {"success": float(self.count in self.success)}
        return self.see(), 0.0, False, self.count == self.length, info


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dict_gives_named_parts_in_its_order(workers):
    """The parts of an inner Dict have both names; integers without a dimension are left out; images are resized."""
    envs = make_envs(Robot, EnvConfig(size=8, workers=workers), num_envs=2)
    step = envs.reset()
    assert envs.obs_space == ObsSpace((
        Part("wrist", (8, 8, 3), "uint8"), Part("arm_pose", (2,), "float32"), Part("height", (1,), "float32"),
        Part("tool", (3,), "float32"), Part("depth", (8, 8, 1), "uint8")))
    assert envs.act_space == Box(2)
    step = envs.step(np.array([[0, 0.5], [9, -9]]))
    envs.close()
    assert [(name, values.shape[1:], str(values.dtype)) for name, values in step.obs.items()] == \
        [(part.name, part.shape, part.dtype) for part in envs.obs_space.parts]
    assert step.obs["arm_pose"].tolist() == [[5, 0.5], [10, -1]] and step.obs["height"].tolist() == [[1.5]] * 2
    assert step.obs["tool"].tolist() == [[0, 1, 0]] * 2 and (step.obs["wrist"] == 1).all()
    with pytest.raises(TypeError, match="a part 'image', got wrist, arm_pose, height, tool, depth; read"):
        _ = step.image


def test_gray_is_for_the_images_with_color():
    envs = make_envs(Robot, EnvConfig(size=8, grayscale=True))
    assert [part.shape for part in envs.obs_space.images] == [(8, 8, 1), (8, 8, 1)]


@pytest.mark.parametrize(("parts", "says"), [
    ({"reward": FLOATS}, r"none of reward, cont, dyn, rep, kl; got \['reward'\]; rename"),
    ({"a_b": FLOATS, "a": S.Dict(b=FLOATS)}, r"different printable names.*got \['a_b', 'a_b'\]|\['a_b', 'a_b'\]"),
    ({"tab\t": FLOATS}, "printable names"),
    ({"ticks": S.Box(0, 9, (), np.int64)}, r"got \[\]"),
    ({"mission": S.Text(9)}, "got Text.* under mission; .* or leave them out with FilterObservation"),
    ({"sizes": S.Tuple([FLOATS])}, "got Tuple.* under sizes"),
    ({"map": S.Box(0, 1, (3, 3), np.float32)}, "got Box.* under map")])
def test_parts_that_are_refused(parts, says):
    class Other(Robot):
        observation_space = S.Dict(parts)

    with pytest.raises(ConfigError, match=says):
        from_gymnasium(Other)


@pytest.mark.parametrize(("change", "says"), [
    (lambda seen: [1, 2], r"an observation of type list, expected a dict with 'wrist', as its space Dict"),
    (lambda seen: {"wrist": seen["wrist"]}, r"an observation of the keys \['wrist'\], expected a dict with 'arm'"),
    (lambda seen: seen | {"arm": 5}, "an observation of type int, expected a dict with 'pose'"),
    (lambda seen: seen | {"tool": 3}, "the observation tool 3, which is not in its space"),
    (lambda seen: seen | {"wrist": seen["wrist"] / 2}, "an observation wrist of float64 numbers, expected uint8"),
    (lambda seen: seen | {"height": np.nan}, r"the observation height \[nan\], which is not finite"),
    (lambda seen: seen | {"arm": {"pose": np.zeros(3)}}, r"an observation arm_pose of shape \(3,\), expected \(2,\)")])
def test_a_wrong_part_is_named(change, says):
    class Wrong(Robot):
        def see(self):
            return change(super().see()) if self.count else super().see()

    envs = from_gymnasium(Wrong)
    envs.reset()
    with pytest.raises(EnvError, match=f"environment 0 gave {says}"):
        envs.step(np.zeros((1, 2)))


HUGE = np.finfo(np.float32).max


@pytest.mark.parametrize(("space", "ours", "action", "given"), [
    (S.Discrete(3, start=-1), Discrete(3), 2, 1),
    (S.MultiDiscrete([2, 3]), MultiDiscrete((2, 3)), [1, 2], [1, 2]),
    (S.MultiDiscrete([2, 3], start=[5, -1]), MultiDiscrete((2, 3)), [1, 2], [6, 1]),
    (S.MultiDiscrete([[2], [3]]), MultiDiscrete((2, 3)), [1, 2], [[1], [2]]),
    (S.MultiBinary(2), MultiDiscrete((2, 2)), [0, 1], [0, 1]),
    (S.Box(-2, 6, (2,)), Box(2), [-1, 0.5], [-2, 4]),
    (S.Box(-2, 6, ()), Box(1), [1], 6),
    (S.Box(-np.inf, np.inf, (2,)), Box(2), [-1, 0.5], [-1, 0.5]),
    (S.Box(-HUGE, HUGE, (2,)), Box(2), [-1, 0.5], [-1, 0.5]),
    (S.Box(0, np.inf, (2, 1)), Box(2), [-1, 0.5], [[0], [0.5]])])
def test_actions_of_every_kind(space, ours, action, given):
    found, convert = actions(space)
    one = np.array(action, found.dtype)
    assert found == ours and one.shape == ours.shape
    result = np.asarray(convert(one))
    assert result.tolist() == given and (isinstance(space, S.Discrete) or space.contains(result))
    assert convert(np.stack([one, one])).tolist() == [given, given]


@pytest.mark.parametrize("space", [S.Text(3), S.Tuple([S.Discrete(2)]), S.Dict(a=S.Discrete(2)),
                                   S.Box(0, 9, (2,), np.int32), S.Box(0, 1, (0,)), S.Sequence(S.Discrete(2))])
def test_actions_that_are_refused(space):
    with pytest.raises(ConfigError, match="actions must be Discrete, MultiDiscrete, MultiBinary or a Box of floats"):
        actions(space)


@pytest.mark.parametrize(("action", "error", "says"), [
    (np.zeros((2, 2), int), TypeError, r"a float numpy array of shape \(2, 2\), got dtype int64; pass numbers in -1"),
    (np.zeros((2, 3)), ValueError, r"got shape \(2, 3\); pass one action per environment"),
    (np.array([[0, 0], [0, np.inf]]), ValueError, r"must be finite, got \[ *0. *inf\] for environment 1; act_space"),
    ([[0, 0]] * 2, TypeError, "got list")])
def test_wrong_numbers(action, error, says):
    envs = from_gymnasium(Robot, num_envs=2)
    envs.reset()
    with pytest.raises(error, match=says):
        envs.send(action)


class Keys(gymnasium.Env):
    """Takes one of each group of choices."""

    observation_space, action_space = S.Discrete(2), S.MultiDiscrete([2, 4])

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        return 0, float(action @ [10, 1]), False, action[1] == 3, {}


@pytest.mark.parametrize("workers", [0, 1])
def test_several_choices(workers):
    envs = make_envs(Keys, EnvConfig(workers=workers), num_envs=2)
    envs.reset()
    step = envs.step(np.array([[1, 3], [0, 2]], np.int8))
    assert step.reward.tolist() == [13, 2] and step.is_last.tolist() == [True, False]
    for action, says in (([[0, 0], [0, 4]], r"in 0..1, 0..3, got \[0 4\] for environment 1; act_space has choices"),
                         ([0, 1], r"shape \(2, 2\), got shape \(2,\)")):
        with pytest.raises(ValueError, match=says):
            envs.send(np.array(action))
    assert envs.step(np.array([[-9, 99], [1, 0]])).reward.tolist() == [0, 10]  # the first one begins again
    envs.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_success_is_that_of_any_step_of_the_episode(workers):
    """None until an environment has said anything; forgotten where an episode begins; a repeat sees every frame."""
    def told(**kwargs):
        settings = dict(workers=workers, kwargs=str(kwargs).replace("'", '"').replace("None", "null"))
        envs = make_envs(Robot, EnvConfig(**settings, action_repeat=kwargs.pop("repeat", 1)), num_envs=2)
        steps = [envs.reset()] + [envs.step(np.zeros((2, 2))) for _ in range(7)]
        envs.close()
        return [None if step.is_success is None else step.is_success.tolist() for step in steps]

    no, yes = [False] * 2, [True] * 2
    assert told(success=[3]) == [None, no, no, yes, yes, yes, no, no]
    assert told(success=None) == [None] * 8


def test_a_repeat_sees_the_success_of_every_frame():
    envs = make_envs(Robot, EnvConfig(action_repeat=2))
    envs.reset()
    assert [envs.step(np.zeros((1, 2))).is_success.tolist() for _ in range(2)] == [[False], [True]]


def test_environments_that_were_made_are_closed_if_another_cannot_be():
    made = []

    class Scarce(Keys):
        def __init__(self):
            if len(made) == 2:
                raise OSError("no license left")
            made.append(self)

        def close(self):
            made.remove(self)
            raise ValueError("nobody wants to know")

    with pytest.raises(OSError, match="no license left"):
        from_gymnasium(Scarce, num_envs=3)
    assert made == []


@pytest.mark.parametrize("task", ["gym_Pendulum-v1", "gym_MountainCarContinuous-v0"])
def test_continuous_tasks_of_gymnasium(task):
    envs = make_envs(task, EnvConfig(), num_envs=2, seed=1)
    envs.reset()
    rng = np.random.default_rng(0)
    steps = [envs.step(envs.act_space.random(rng, 2)) for _ in range(20)]
    assert envs.act_space == Box(1) and {step.obs["vector"].dtype for step in steps} == {np.dtype("float32")}


@pytest.mark.slow
def test_car_racing():
    """A Box whose numbers have different bounds, and an image that is resized."""
    pytest.importorskip("Box2D", reason="plays a game of gymnasium[box2d]")
    envs = make_envs("gym_CarRacing-v3", EnvConfig(size=64))
    assert envs.reset().image.shape == (1, 64, 64, 3) and envs.act_space == Box(3)
    assert envs.step(np.array([[0.0, 1.0, -1.0]])).reward.shape == (1,)
    envs.close()


class Gripper(gymnasium.Env):
    """Has the spaces of a robot in RLBench: cameras of one size, the state of its joints, and eight numbers to act."""

    CAMERAS = ("left_shoulder_rgb", "wrist_rgb", "front_rgb")

    def __init__(self):
        self.observation_space = S.Dict([*((name, S.Box(0, 255, (32, 32, 3), np.uint8)) for name in self.CAMERAS),
                                         ("low_dim_state", S.Box(-np.inf, np.inf, (8,), np.float32))])
        self.action_space = S.Box(np.array([-2.0] * 7 + [0.0]), np.array([2.0] * 7 + [1.0]), dtype=np.float64)
        self.state = np.zeros(8, np.float32)

    def see(self):
        bright = 60 * self.state[7]
        images = {name: np.full((32, 32, 3), 80 * i + bright, np.uint8) for i, name in enumerate(self.CAMERAS)}
        return images | {"low_dim_state": self.state}

    def reset(self, *, seed=None, options=None):
        self.state = np.zeros(8, np.float32)
        return self.see(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.state = action.astype(np.float32)
        closed = bool(self.state[7] > 0.9)
        return self.see(), float(closed), closed, False, {"success": closed}


class Miner(gymnasium.Env):
    """Has the spaces of MineDojo: one image, channels first, and a choice in each of eight groups."""

    observation_space = S.Dict(rgb=S.Box(0, 255, (3, 16, 24), np.uint8), inventory=S.Box(0, 64, (36,), np.float32))
    action_space = S.MultiDiscrete([3, 3, 4, 25, 25, 8, 244, 36])

    def see(self):
        return {"rgb": np.zeros((3, 16, 24), np.uint8), "inventory": self.held.astype(np.float32)}

    def reset(self, *, seed=None, options=None):
        self.held = np.zeros(36)
        return self.see(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.held[action[7]] += 1
        return self.see(), float(action[5] == 7), False, False, {}


def channels_last(env):
    """The wrapper that such an environment needs."""
    space = env.observation_space
    turned = S.Dict([(key, S.Box(0, 255, (*found.shape[1:], 3), np.uint8) if key == "rgb" else found)
                     for key, found in space.items()])
    return gymnasium.wrappers.TransformObservation(
        env, lambda obs: obs | {"rgb": obs["rgb"].transpose(1, 2, 0)}, turned)


def test_a_robot_with_several_cameras():
    envs = from_gymnasium(Gripper, num_envs=2, size=16)
    assert [part.shape for part in envs.obs_space.parts] == [(16, 16, 3)] * 3 + [(8,)] and envs.act_space == Box(8)
    envs.reset()
    step = envs.step(np.array([[1.0] * 8, [0.0] * 8]))
    assert step.obs["low_dim_state"].tolist() == [[2.0] * 7 + [1.0], [0.0] * 7 + [0.5]]
    assert step.is_terminal.tolist() == step.is_success.tolist() == [True, False]


def test_a_game_with_groups_of_choices():
    with pytest.raises(ConfigError, match=r"got Box\(0, 255, \(3, 16, 24\), uint8\) under rgb; convert them with a"):
        from_gymnasium(Miner)
    envs = from_gymnasium(lambda: channels_last(Miner()), num_envs=2, size=16)
    assert envs.act_space == MultiDiscrete((3, 3, 4, 25, 25, 8, 244, 36)) and envs.act_space.width == 348
    envs.reset()
    action = envs.act_space.random(np.random.default_rng(0), 2)
    assert envs.step(action).obs["inventory"].sum() == 2 and envs.obs_space.images[0].shape == (16, 16, 3)


@pytest.mark.parametrize("make", [Gripper, lambda: channels_last(Miner())], ids=["robot", "miner"])
def test_such_environments_train(make, tmp_path):
    config = hdfast.Config.preset("debug", task=make, logdir=str(tmp_path), **{
        "run.threads": 1, "run.steps": 72, "run.prefill": 64, "run.batch_size": 2, "run.train_ratio": 4.0,
        "run.eval_every": 0, "run.eval_episodes": 1, "run.eval_envs": 1, "env.max_episode_steps": 8,
        "run.video_every": 0})
    hdfast.train(config)
    assert (tmp_path / "eval.jsonl").exists()
