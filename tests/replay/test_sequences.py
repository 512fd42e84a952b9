"""Replay in memory: what is sampled, how uniformly, and what is refused."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hdfast import rng
from hdfast.errors import RunError
from hdfast.replay.sequences import Replay
from kinds import IMAGE, KINDS
from replay_stream import ACTIONS, EPISODE, FIELDS, SPACE, assert_same_batch, extended, filled, made, record


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("capacity", "steps"), [(40, 9), (40, 40), (40, 41), (40, 133)])
def test_samples_are_the_records_that_came_in(num_envs, kind, capacity, steps):
    space, actions = KINDS[kind]
    replay = filled(steps, capacity * num_envs, num_envs, space, actions)
    oldest, length = max(0, steps - capacity), 8
    assert len(replay) == num_envs * (steps - oldest)
    assert replay.windows(length) == num_envs * (steps - oldest - length + 1)
    batch = replay.sample(200, length)
    assert [(name, tuple(x.shape), x.dtype) for name, x in batch.obs.items()] == [
        (part.name, (length, 200, *part.shape), getattr(torch, part.dtype)) for part in space.parts]
    dtypes = dict(action=torch.float32, reward=torch.float32, is_first=torch.bool, is_last=torch.bool,
                  is_terminal=torch.bool)
    for name in FIELDS:
        array = getattr(batch, name)
        assert array.is_contiguous() and array.dtype == dtypes[name]
        assert array.shape == (length, 200, *[actions.width] * (name == "action"))
    env, index = np.divmod(batch.reward.numpy().astype(int), 100_000)
    assert (env == env[0]).all() and (np.diff(index, axis=0) == 1).all()  # one stream, consecutive steps
    assert oldest <= index.min() and index.max() < steps
    for t in range(length):
        for b in range(0, 200, 17):
            step, action = record(index[t, b], num_envs, space, actions)
            e = env[t, b]
            for name, x in batch.obs.items():
                np.testing.assert_array_equal(x[t, b], step.obs[name][e])
            np.testing.assert_array_equal(batch.action[t, b], actions.encode(action)[e] * ~step.is_last[e])
            assert batch.is_first[t, b] == (step.is_first[e] or t == 0)
            assert (batch.is_last[t, b], batch.is_terminal[t, b]) == (step.is_last[e], step.is_terminal[e])


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("steps", [25, 30, 77], ids=["filling", "full", "wrapped"])
def test_windows_are_uniform(num_envs, steps):
    capacity, length, draws = 30, 6, 40_000
    replay = filled(steps, capacity * num_envs, num_envs, seed=3)
    env, index = np.divmod(replay.sample(draws, length).reward[0].numpy().astype(int), 100_000)
    per_env = min(steps, capacity) - length + 1
    cell = env * per_env + index - max(0, steps - capacity)
    count = np.bincount(cell, minlength=num_envs * per_env)
    assert len(count) == replay.windows(length)
    expected = draws / len(count)
    chi_square = ((count - expected) ** 2 / expected).sum()
    freedom = len(count) - 1
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)  # far too even would be wrong as well


def test_windows_cross_episode_ends():
    batch = filled(50).sample(300, 10)
    assert batch.is_last[:-1].any(0).all()  # longer than an episode: an end inside every window
    ends, starts = batch.is_last[:-1], batch.is_first[1:]
    np.testing.assert_array_equal(ends, starts)
    np.testing.assert_array_equal(batch.action.sum(-1), (~batch.is_last).float())


def test_is_first_is_forced_in_the_copy_only():
    replay = filled(50)
    before = replay.checksum()
    for _ in range(20):
        batch = replay.sample(64, 5)
        assert batch.is_first[0].all()
        np.testing.assert_array_equal(batch.is_first[1:], batch.reward[1:].int() % EPISODE == 0)
        for name in FIELDS:
            getattr(batch, name).zero_()
    assert replay.checksum() == before


def test_too_few_steps_says_how_many():
    replay = filled(63, 200)
    assert replay.windows(64) == 0
    with pytest.raises(RuntimeError, match=r"64 steps per environment, but only 63 are stored; add at least 1 more"):
        replay.sample(16, 64)
    extended(replay, 63, 64)
    assert replay.windows(64) == 1
    replay.sample(16, 64)
    for batch_size, length in [(0, 5), (1, 0), (1, 201)]:
        with pytest.raises(ValueError, match=r"length <= 200 .*replay\.capacity"):
            replay.sample(batch_size, length)


@pytest.mark.parametrize(("arguments", "error"), [
    ((0, 1, SPACE), ValueError), ((3, 4, SPACE), ValueError), ((3, 0, SPACE), ValueError),
    ((10**14, 1, SPACE), RunError), ((10**18, 1, IMAGE), RunError)])
def test_impossible_replays_are_refused(arguments, error):
    with pytest.raises(error, match="replay"):
        Replay(*arguments, ACTIONS, directory=None, seed=0)


@pytest.mark.parametrize(("change", "message"), [
    (dict(obs={"vector": np.zeros((2, 4), np.float32)}), "obs must be"),
    (dict(obs={"vector": np.zeros((2, 3))}), "obs must be"), (dict(obs={}), "obs must be"),
    (dict(obs={"speed": np.zeros((2, 3), np.float32)}), "obs must be"),
    (dict(reward=np.zeros(1)), "reward must be"), (dict(is_first=np.zeros((2, 1), bool)), "is_first must be"),
    (dict(action=np.zeros((2, 5), int)), "action must be"), (dict(action=np.zeros(2)), "action must be"),
    (dict(action=np.array([0, -1])), "action must be"), (dict(action=np.array([0, 5])), "action must be")])
def test_bad_records_are_refused_and_change_nothing(change, message):
    replay = filled(10, 1000, 2)
    before = replay.checksum()
    step, action = record(1, 2)
    names = ("obs", "reward", "is_first", "is_last", "is_terminal")
    bad = SimpleNamespace(**{name: change.get(name, getattr(step, name)) for name in names})
    with pytest.raises(ValueError, match=message):
        replay.add(bad, change.get("action", action))
    assert replay.checksum() == before and len(replay) == 20


@pytest.mark.parametrize(("kind", "bad"), [
    ("vector", [np.nan, 0, 0]), ("vector", [0, np.inf, 0]), ("vector", [0, 0]), ("named", [3, 0]), ("named", [0, -1]),
    ("named", [0.0, 1.0]), ("named", 1)])
def test_actions_of_another_kind_are_refused_unless_nobody_plays_them(kind, bad):
    replay, (step, action) = filled(10, 1000, 2, *KINDS[kind]), record(6, 2, *KINDS[kind])
    assert step.is_last.tolist() == [True, False]
    before, wrong = replay.checksum(), np.array([bad, bad])
    with pytest.raises(ValueError, match="action must be"):
        replay.add(step, wrong)
    assert replay.checksum() == before
    if wrong.shape == action.shape and wrong.dtype.kind == action.dtype.kind:
        replay.add(step, np.where(step.is_last[:, None], wrong, action))
        batch = replay.sample(200, 11)
        assert batch.action.isfinite().all() and (batch.action[batch.is_last] == 0).all()


def test_parts_may_come_in_any_order(tmp_path):
    kind = 1, *KINDS["named"]
    plain, other = filled(9, 100, *kind, directory=tmp_path / "a"), filled(8, 100, *kind, directory=tmp_path / "b")
    step, action = record(8, *kind)
    other.add(dataclasses.replace(step, obs=dict(reversed(step.obs.items()))), action)
    assert other.checksum() == plain.checksum()
    other.restore(other.flush())
    assert other.checksum() == plain.checksum()


def test_generator_state_goes_through_json():
    replay, other = filled(50, seed=1), filled(50, seed=2)
    replay.sample(3, 5)
    text = rng.to_text(replay.rng)
    rng.restore(other.rng, rng.from_text(json.loads(json.dumps(text))))
    for _ in range(3):
        assert_same_batch(replay.sample(5, 7), other.sample(5, 7))
    before = rng.to_text(replay.rng)
    for bad in (None, [], {}, 7, "x", "", "00" * 5055, "00" * 5056, before + "00", before[:-2]):
        with pytest.raises(RunError, match="generator state is damaged"):
            rng.restore(replay.rng, rng.from_text(bad))
        assert rng.to_text(replay.rng) == before


def test_a_state_of_another_kind_of_device_seeds_anew():
    seeds = []
    for state in (bytes(16), bytes(15) + b"1"):
        generator = torch.Generator()
        rng.restore(generator, rng.from_text(state.hex()))
        seeds.append(generator.initial_seed())
        again = torch.Generator()
        rng.restore(again, rng.from_text(state.hex()))
        assert torch.equal(generator.get_state(), again.get_state())
    assert seeds[0] != seeds[1] and min(seeds) > 2**32


def test_checksum_tells_contents_not_places():
    wrapped = filled(70, 50)
    rotated = made(None, 60)
    extended(rotated, 0, 70)
    assert wrapped.checksum() == filled(70, 50, seed=9).checksum()
    assert wrapped.checksum() != rotated.checksum()  # holds ten steps more
    assert wrapped.checksum() != filled(71, 50).checksum()
    for part in (wrapped.ring.obs["vector"], wrapped.ring.meta):
        before = wrapped.checksum()
        part.view(-1)[11] += 1
        assert wrapped.checksum() != before
