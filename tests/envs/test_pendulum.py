"""The pendulum: Gymnasium's numbers, and pictures that show its angle."""

import gymnasium
import numpy as np
import pytest

from hdfast.config import EnvConfig
from hdfast.envs import make_envs
from hdfast.spaces import Box


def play(task, seed, steps=230, num_envs=3, size=32):
    envs = make_envs(task, EnvConfig(size=size, terminal_on_limit=False), num_envs=num_envs, seed=seed)
    assert envs.act_space == Box(1)
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1.5, 1.5, (steps, num_envs, 1)).astype(np.float32)
    records = [envs.reset(), *(envs.step(action) for action in actions)]
    envs.close()
    return records, actions


def test_its_numbers_are_those_of_gymnasium():
    records, actions = play("pendulum_vector", 4)
    theirs = gymnasium.make("Pendulum-v1").unwrapped
    theirs.reset()
    for i in range(3):
        cos, sin, speed = records[0].obs["vector"][i].tolist()
        theirs.state = np.array([np.arctan2(sin, cos), speed])
        for record, action in zip(records[1:201], actions, strict=False):
            obs, reward, *_ = theirs.step(2 * action[i])
            np.testing.assert_allclose(record.obs["vector"][i], obs, atol=1e-3)
            assert record.reward[i] == pytest.approx(reward, abs=1e-2)


def test_a_time_limit_ends_episodes_and_is_no_terminal_state():
    records, _ = play("pendulum_vector", 0)
    ends = [t for t, record in enumerate(records) if record.is_last.all()]
    assert ends == [200] and records[200].is_cut.all() and not records[200].is_terminal.any()
    assert records[201].is_first.all() and not records[201].reward.any()
    assert all(len({tuple(row) for row in record.obs["vector"]}) == 3 for record in records[:5])  # different starts


@pytest.mark.parametrize("size", [16, 32, 64])
def test_a_picture_shows_the_angle(size):
    vectors, _ = play("pendulum_vector", 7)
    images, _ = play("pendulum", 7, size=size)
    place = (np.arange(size) + 0.5) * 2 / size - 1
    for seen, known in zip(images, vectors, strict=True):
        assert seen.image.shape == (3, size, size, 1) and seen.image.dtype == np.uint8
        for image, (cos, sin, _) in zip(seen.image[..., 0] / 255.0, known.obs["vector"], strict=True):
            right, up = (image.sum(0) * place).sum(), (image.sum(1) * -place).sum()
            assert np.hypot(right, up) > 0 and (right * sin + up * cos) / np.hypot(right, up) > 0.99
