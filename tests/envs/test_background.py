"""The distracting background of Catch: what it shows, what it follows from, and that the game can still be played."""

import dataclasses
import itertools

import numpy as np
import pytest

from hdfast.config import Config, EnvConfig
from hdfast.envs import make_envs
from hdfast.envs.background import BLOBS, PALETTE, Textures
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


@pytest.mark.parametrize("task", ["pong", "dummy", "dummy_vector", "gym_CartPole-v1"])
def test_other_tasks_have_no_background(task):
    says = r"env\.background noise exists only for catch_<H>x<W>, got task .*; take such a task or leave"
    with pytest.raises(ConfigError, match=says):
        Config.preset("debug", task=task, **{"env.background": "noise"})
    with pytest.raises(ConfigError, match=says):
        make_envs(task, EnvConfig(background="noise"))
    with pytest.raises(ConfigError, match=says):
        dataclasses.replace(Config.preset("catch", **{"env.background": "noise"}), task=task)


def test_the_setting_is_one_of_three():
    with pytest.raises(ConfigError, match="one of none, noise, moving"):
        Config.preset("catch", **{"env.background": "nois"})
    for kind, channels in (("none", 1), ("noise", 3)):
        part, = make_envs("catch", EnvConfig(size=16, background=kind)).obs_space.parts
        assert part.shape == (16, 16, channels)
