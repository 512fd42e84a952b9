"""Distracting backgrounds: what they show, what they follow from, and that the game can still be played."""

import itertools

import gymnasium
import numpy as np
import pytest
from PIL import Image

from hdfast.config import Config, EnvConfig
from hdfast.envs import make_envs
from hdfast.envs.background import BLOBS, PALETTE, BackgroundBackend, Textures
from hdfast.envs.dummy import DummyBackend
from hdfast.envs.stream import env_seeds
from hdfast.errors import ConfigError

WHITE = (255, 255, 255)
KINDS = ("noise", "moving")


def images(kind: str, *, steps: int = 24, num_envs: int = 4, seed: int = 3, actions: int = 0, size: int = 16,
           task: str = "catch_5x5") -> np.ndarray:
    """Images (T, N, size, size, 3) of a reset and of `steps` steps with the random actions of a seed."""
    envs = make_envs(task, EnvConfig(background=kind, size=size), num_envs=num_envs, seed=seed)
    rng = np.random.default_rng(actions)
    return np.stack([envs.reset().image] + [envs.step(rng.integers(0, 3, num_envs)).image for _ in range(steps)])


def textures(kind: str, *, seed: int = 0, num_envs: int = 3, records: int = 20, every: int = 5,
             side: int = 16) -> np.ndarray:
    """Textures (T, N, side, side, 3) of episodes of `every` records."""
    made = Textures(kind, side, env_seeds(seed, num_envs))
    return np.stack([made.next(np.full(num_envs, t % every == 0)) for t in range(records)])


def lit(image: np.ndarray) -> np.ndarray:
    """Which pixels belong to the board: (..., h, w, 3) -> (..., h, w)."""
    return (image == WHITE).all(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_board_is_what_it_is_without_a_background(kind):
    """Its cells are the white pixels, so that anybody who sees the image can play as in test_envs.test_catch."""
    for task, size in (("catch_5x5", 16), ("catch_8x5", 16), ("catch_10x10", 32)):
        envs = make_envs(task, EnvConfig(size=size), num_envs=4, seed=3)
        rng = np.random.default_rng(0)
        plain = np.stack([envs.reset().image] + [envs.step(rng.integers(0, 3, 4)).image for _ in range(24)])
        seen = images(kind, task=task, size=size)
        assert seen.shape == (25, 4, size, size, 3) and seen.dtype == np.uint8
        assert np.array_equal(lit(seen), plain[..., 0] == 255)
        found = {tuple(color) for color in seen.reshape(-1, 3).tolist()}
        assert found == {WHITE, *map(tuple, PALETTE.tolist())}


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_images_and_no_other_seed_does(kind):
    assert np.array_equal(images(kind), images(kind))
    assert not np.array_equal(images(kind), images(kind, seed=4))


@pytest.mark.parametrize("kind", KINDS)
def test_textures_know_nothing_of_actions_and_of_other_environments(kind):
    one, two = images(kind, actions=0), images(kind, actions=1)
    free = ~(lit(one) | lit(two))
    assert not np.array_equal(one, two) and np.array_equal(one[free], two[free])
    few, many = textures(kind, num_envs=2), textures(kind, num_envs=6)
    assert np.array_equal(few, many[:, :2])
    alone = Textures(kind, 16, env_seeds(0, 2))  # the other environment's episodes end at other times
    apart = np.stack([alone.next(np.array([t % 5 == 0, t % 3 == 0])) for t in range(20)])
    assert np.array_equal(apart[:, 0], few[:, 0])
    assert not any(np.array_equal(many[:, i], many[:, j]) for i in range(6) for j in range(i))


def test_noise_is_new_every_record():
    seen = textures("noise")
    assert len(np.unique(seen.reshape(60, -1), axis=0)) == 60


def test_every_texture_has_blobs_of_full_contrast():
    for side in (8, 16, 64):
        seen = textures("noise", side=side)
        cells = seen[:, :, ::side // BLOBS, ::side // BLOBS]
        assert np.array_equal(cells.repeat(side // BLOBS, 2).repeat(side // BLOBS, 3), seen)
        assert 90 < seen.mean() < 128 and set(np.unique(seen)) == {0, 255}


def test_a_moving_texture_drifts_through_its_episode_and_is_new_in_the_next():
    seen = textures("moving", num_envs=8, records=40)
    shifts = set()
    for episode in range(8):
        for env in range(8):
            frames = seen[5 * episode:5 * episode + 5, env]
            found = [(down, right) for down in range(-2, 3) for right in range(-2, 3)
                     if all(np.array_equal(np.roll(a, (down, right), (0, 1)), b)
                            for a, b in itertools.pairwise(frames))]
            assert found and found != [(0, 0)]
            shifts.add(found[0])
    assert len(shifts) > 12, "directions and speeds differ between episodes"
    assert len({seen[5 * episode, env].tobytes() for episode in range(8) for env in range(8)}) == 64


class Robot(gymnasium.Env):
    """Two cameras and a vector: a gray and a colored frame around a square, white as nothing else."""

    observation_space = gymnasium.spaces.Dict(
        [("wrist", gymnasium.spaces.Box(0, 255, (16, 16), np.uint8)), ("arm", gymnasium.spaces.Box(-1, 1, (2,))),
         ("image", gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8))])
    action_space = gymnasium.spaces.Discrete(3)

    def see(self):
        image = np.full((16, 16, 3), (40, 9, 70), np.uint8)
        image[4:8, 4:8] = 255
        return {"wrist": image[..., 0], "arm": np.zeros(2, np.float32), "image": image}

    def reset(self, *, seed=None, options=None):
        return self.see(), {}

    def step(self, action):
        return self.see(), 0.0, False, False, {}


@pytest.mark.parametrize("kind", KINDS)
def test_any_image_has_a_background_where_it_has_its_borders_color(kind):
    """All images of an observation the same, gray ones as RGB; vectors as they are."""
    envs = make_envs(Robot, EnvConfig(background=kind, size=16), num_envs=2, seed=1)
    assert str(envs.obs_space) == "wrist 16 x 16 x 3 uint8, arm 2 float32, image 16 x 16 x 3 uint8"
    behind = Textures(kind, 16, env_seeds(1, 2))
    for step in [envs.reset()] + [envs.step(np.zeros(2, int)) for _ in range(4)]:
        want = behind.next(step.is_first)
        want[:, 4:8, 4:8] = 255
        assert np.array_equal(step.image, want) and np.array_equal(step.obs["wrist"], want)


def test_blue_is_the_background_of_dm_control():
    class Sky(DummyBackend):
        def reset(self):
            image = np.zeros((1, 8, 8, 3), np.uint8)
            image[..., 2], image[0, 3:5, 3:5], image[0, 7] = 90, (200, 150, 90), (91, 90, 90)
            return {"image": image}

    backend = BackgroundBackend(Sky(1, 0, size=8), "noise", [0], blue=True)
    seen, want = backend.reset()["image"], Textures("noise", 8, [0]).next(np.ones(1, bool))
    want[0, 3:5, 3:5], want[0, 7] = (200, 150, 90), (91, 90, 90)
    assert np.array_equal(seen, want)


@pytest.mark.parametrize("task", ["dummy_vector", "gym_CartPole-v1"])
def test_tasks_without_images_have_no_background(task):
    with pytest.raises(ConfigError, match=r"env\.background noise needs square images, gray or RGB, got vector"):
        make_envs(task, EnvConfig(background="noise"))


def painted(path, colors):
    """A film of plain frames, saved by the ending of its name."""
    frames = [Image.new("RGB", (12, 20), color) for color in colors]
    path.parent.mkdir(exist_ok=True)
    frames[0].save(path, **({"save_all": True, "append_images": frames[1:]} if path.suffix == ".gif" else {}))


def colors_seen(folder, num_envs, steps=12):
    """The color behind the board, (T, N, 3), of episodes of five records."""
    envs = make_envs("catch", EnvConfig(background=f"videos:{folder}", size=8), num_envs=num_envs, seed=2)
    records = [envs.reset()] + [envs.step(np.ones(num_envs, int)) for _ in range(steps)]
    found = np.stack([record.image for record in records])
    return np.array([[image[~lit(image)][0] for image in row] for row in found]), found


RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)


def test_films_of_a_folder_play_around_behind_the_board(tmp_path):
    """One of them an episode, beginning anywhere: a GIF, or the pictures of a folder in the order of their names."""
    painted(tmp_path / "a.gif", [RED, GREEN, BLUE])
    for number, color in enumerate([(10, 10, 10), (20, 20, 20)]):
        painted(tmp_path / "frames" / f"{number}.png", [color])
    (tmp_path / "notes.txt").write_text("not a film")
    behind, images = colors_seen(tmp_path, 16)
    assert set(map(tuple, images.reshape(-1, 3))) == {WHITE, RED, GREEN, BLUE, (10, 10, 10), (20, 20, 20)}
    cycles = [[RED, GREEN, BLUE], [(10, 10, 10), (20, 20, 20)]]
    for row, start in itertools.product(range(16), (0, 5)):  # episodes of five records
        film = [tuple(color) for color in behind[start:start + 5, row].tolist()]
        cycle = next(one for one in cycles if film[0] in one)
        assert film == [cycle[(cycle.index(film[0]) + t) % len(cycle)] for t in range(5)]
    assert len(np.unique(behind[0], axis=0)) > 2 and np.array_equal(colors_seen(tmp_path, 16)[1], images)


def test_films_that_are_no_gif(tmp_path):
    imageio = pytest.importorskip("imageio.v3", reason="reads films")
    pytest.importorskip("imageio_ffmpeg", reason="reads films")
    imageio.imwrite(tmp_path / "a.mp4", np.full((4, 16, 16, 3), 200, np.uint8))
    behind, _ = colors_seen(tmp_path, 1)
    assert np.abs(behind.astype(int) - 200).max() < 9


def test_a_folder_without_films(tmp_path):
    with pytest.raises(ConfigError, match=r"env\.background: no \.png, .*\.webm file in .*; name another folder"):
        make_envs("catch", EnvConfig(background=f"videos:{tmp_path}", size=8))
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(ConfigError, match=r"a\.png cannot be read .*pip install hdfast\[video\]"):
        make_envs("catch", EnvConfig(background=f"videos:{tmp_path}", size=8))


@pytest.mark.parametrize("kind", ["nois", "videos:", ""])
def test_the_setting_is_one_of_four(kind):
    with pytest.raises(ConfigError, match="one of none, noise, moving or videos:<folder>"):
        Config.preset("catch", **{"env.background": kind})
    for kind, channels in (("none", 1), ("noise", 3)):
        part, = make_envs("catch", EnvConfig(size=16, background=kind)).obs_space.parts
        assert part.shape == (16, 16, channels)
