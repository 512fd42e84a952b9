"""Both Atari backends against raw emulator calls: every image, reward and flag, over several episodes."""

import dataclasses

import numpy as np
import pytest

from hdfast.config import EnvConfig
from hdfast.envs import Step, make_envs
from raw_ale import RawAtari

NOOP_MAX = 8
NOOPS = {"envpool": range(1, NOOP_MAX + 1), "ale": range(NOOP_MAX)}  # the official draw is ale-py's
backends = pytest.mark.parametrize("backend", NOOPS)


class Candidates:
    """Raw emulators, one per number of no-ops, of which those stay that explain all a backend has shown."""

    def __init__(self, game: str, backend: str):
        self.backend = backend
        self.raws = {noops: RawAtari(game) for noops in range(NOOP_MAX + 1)}
        self.alive: dict[int, RawAtari] = {}

    def reset(self, image: np.ndarray) -> None:
        self.alive = {k: raw for k, raw in self.raws.items() if np.array_equal(raw.reset(k), image)}

    def step(self, action: int, record: Step, at_limit: bool) -> None:
        for noops, raw in list(self.alive.items()):
            image, reward, over = raw.step(action)
            if record.is_last[0]:
                image = raw.final_image(self.backend, over)
            flags = (over, over or at_limit) == (record.is_terminal[0], record.is_last[0])
            if not (np.array_equal(image, record.image[0]) and reward == record.reward[0] and flags):
                del self.alive[noops]


def compare(game: str, backend: str, steps: int, limit: int) -> tuple[int, int]:
    """Play with episodes of at most `limit` steps -> numbers of true ends and of time-limit ends."""
    envs = make_envs(game, EnvConfig(backend=backend, noop_max=NOOP_MAX, max_episode_frames=4 * limit,
                                     terminal_on_limit=False), seed=11)
    candidates, rng = Candidates(game, backend), np.random.default_rng(5)
    record, ends, length = envs.reset(), [0, 0], 0
    candidates.reset(record.image[0])
    for _ in range(steps):
        action = rng.integers(envs.act_space.n, size=1)
        record, length = envs.step(action), length + 1
        if record.is_first[0]:
            candidates.reset(record.image[0])
            length = 0
        else:
            candidates.step(int(action[0]), record, length == limit)
        assert set(candidates.alive) & set(NOOPS[backend]), f"{game}: nothing explains record {length}, ends {ends}"
        if record.is_last[0]:
            ends[0 if record.is_terminal[0] else 1] += 1
    return ends[0], ends[1]


@pytest.mark.parametrize("game", ["pong", "breakout", "ms_pacman"])
@backends
def test_every_record(backend, game):
    """Images, rewards and ends of several episodes equal the official ones; last images differ as documented."""
    true_ends, limit_ends = compare(game, backend, steps=450, limit=200)
    assert limit_ends + true_ends >= 2
    assert true_ends or game != "breakout"


@backends
def test_the_numbers_of_noops(backend):
    """Every number of no-ops of the documented range is drawn, and no other (Freeway's first pictures differ)."""
    raw = RawAtari("freeway")
    images = {raw.reset(noops).tobytes(): noops for noops in range(NOOP_MAX + 2)}
    assert len(images) == NOOP_MAX + 2
    envs = make_envs("freeway", EnvConfig(backend=backend, noop_max=NOOP_MAX), num_envs=4)
    seen = {images[image.tobytes()] for _ in range(16) for image in envs.reset().image}
    assert seen == set(NOOPS[backend])


@backends
def test_game_over_on_the_step_of_the_time_limit_is_a_true_end(backend):
    config = EnvConfig(backend=backend, size=8, noop_max=1, terminal_on_limit=False)
    actions = np.random.default_rng(0).integers(4, size=(600, 1))

    def first_end(limit: int) -> tuple[int, bool]:
        envs = make_envs("breakout", dataclasses.replace(config, max_episode_frames=4 * limit))
        envs.reset()
        for length, action in enumerate(actions, start=1):
            record = envs.step(action)
            if record.is_last[0]:
                return length, bool(record.is_terminal[0])
        raise AssertionError("no episode ended")

    length, true_end = first_end(600)
    assert true_end and length < 600
    assert first_end(length) == (length, True)
    assert first_end(length - 1) == (length - 1, False)
