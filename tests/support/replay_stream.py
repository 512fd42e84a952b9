"""Recognizable steps for replay tests: every value says which environment and which step it comes from."""

import numpy as np

from hdfast.envs import Step
from hdfast.replay.ring import Batch
from hdfast.replay.sequences import Replay
from hdfast.spaces import Discrete, ObsSpace

FIELDS = ("action", "reward", "is_first", "is_last", "is_terminal")
EPISODE = 7  # steps
ACTIONS = Discrete(5)


def record(i, num_envs=1, shape=(3,), dtype="float32"):
    """Step i of a stream, different from any other in every value: (step, action)."""
    space = ObsSpace.single(shape, dtype)
    envs = np.arange(num_envs)
    values = np.random.default_rng(i).integers(0, 256, (num_envs, *shape)).astype(dtype)
    values.reshape(num_envs, -1)[:, 0] = envs
    place = (i + envs) % EPISODE  # environments end at different times
    last = place == EPISODE - 1
    step = Step({space.parts[0].name: values}, (i + 100_000 * envs).astype(np.float32), place == 0, last, last & (i % 2 == 0))
    return step, (i + envs) % ACTIONS.n


def made(directory=None, capacity=1000, num_envs=1, shape=(3,), dtype="float32", *, seed=0, **options) -> Replay:
    return Replay(capacity, num_envs, ObsSpace.single(shape, dtype), ACTIONS, directory=directory, seed=seed, **options)


def restored(directory, manifest, *kind, **options) -> Replay:
    """A new replay on what there is in a folder; `kind` and `options` as those of `made`."""
    replay = made(directory, *kind, **options)
    replay.restore(manifest)
    return replay


def filled(steps, capacity=1000, num_envs=1, shape=(3,), dtype="float32", *, directory=None, **options) -> Replay:
    replay = made(directory, capacity, num_envs, shape, dtype, **options)
    if directory is not None:
        replay.restore(None)
    return extended(replay, 0, steps, num_envs, shape, dtype)


def extended(replay, start, stop, num_envs=1, shape=(3,), dtype="float32"):
    for i in range(start, stop):
        replay.add(*record(i, num_envs, shape, dtype))
    return replay


def assert_same_batch(a: Batch, b: Batch) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert list(a.obs) == list(b.obs)
    for name, x in a.obs.items():
        np.testing.assert_array_equal(x, b.obs[name], err_msg=name)
