"""Recognizable steps for replay tests: every value says which environment and which step it comes from."""

import numpy as np

from hdfast.envs import Step
from hdfast.replay.ring import Batch
from hdfast.replay.sequences import Replay
from hdfast.spaces import ActSpace, Discrete, ObsSpace

FIELDS = ("action", "reward", "is_first", "is_last", "is_terminal")
EPISODE = 7  # steps
SPACE, ACTIONS = ObsSpace.single((3,), "float32"), Discrete(5)


def record(i, num_envs=1, space: ObsSpace = SPACE, actions: ActSpace = ACTIONS):
    """Step i of a stream, different from any other in every part: (step, action)."""
    envs, rng = np.arange(num_envs), np.random.default_rng(i)
    obs = {part.name: rng.integers(0, 256, (num_envs, *part.shape)).astype(part.dtype) for part in space.parts}
    for x in obs.values():
        x.reshape(num_envs, -1)[:, 0] = envs
    place = (i + envs) % EPISODE  # environments end at different times
    last = place == EPISODE - 1
    step = Step(obs, (i + 100_000 * envs).astype(np.float32), place == 0, last, last & (i % 2 == 0))
    return step, actions.random(rng, num_envs)


def made(directory=None, capacity=1000, num_envs=1, space: ObsSpace = SPACE, actions: ActSpace = ACTIONS, *, seed=0,
         **options) -> Replay:
    return Replay(capacity, num_envs, space, actions, directory=directory, seed=seed, **options)


def restored(directory, manifest, *kind, **options) -> Replay:
    """A new replay on what there is in a folder; `kind` and `options` as those of `made`."""
    replay = made(directory, *kind, **options)
    replay.restore(manifest)
    return replay


def filled(steps, capacity=1000, *kind, directory=None, **options) -> Replay:
    """`kind`: number of environments, observations, actions."""
    replay = made(directory, capacity, *kind, **options)
    if directory is not None:
        replay.restore(None)
    return extended(replay, 0, steps, *kind)


def extended(replay, start, stop, *kind):
    for i in range(start, stop):
        replay.add(*record(i, *kind))
    return replay


def assert_same_batch(a: Batch, b: Batch) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert list(a.obs) == list(b.obs)
    for name, x in a.obs.items():
        np.testing.assert_array_equal(x, b.obs[name], err_msg=name)
