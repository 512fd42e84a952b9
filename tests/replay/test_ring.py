"""The replay's memory as tensors: which window a uniform chooses, and batches that change devices."""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import tape
from hdfast import cuda_graph, machine, rng
from hdfast.cuda_graph import Graphs
from hdfast.errors import ConfigError
from hdfast.machine import replay_device
from hdfast.replay import ring as replay_ring
from hdfast.replay.ring import Ring, Staging, ring_bytes
from hdfast.replay.sequences import Replay
from hdfast.spaces import Discrete
from kinds import IMAGE, IMAGES, KINDS
from replay_stream import ACTIONS, SPACE, assert_same_batch, extended, filled, made, record, restored

BELOW_ONE = np.nextafter(1.0, 0.0)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("steps", [8, 20, 21, 57])
@pytest.mark.parametrize("length", [1, 8])
def test_a_uniform_chooses_its_window(num_envs, steps, length):
    ring = filled(steps, 20 * num_envs, num_envs).ring
    per_env = min(steps, 20) - length + 1
    count = per_env * num_envs
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    batch = ring.windows(torch.cat([u, torch.tensor([0.0, BELOW_ONE], dtype=torch.float64)]), length)
    env, index = np.divmod(batch.reward.numpy().astype(int), 100_000)
    expected = [(e, max(0, steps - 20) + k) for e in range(num_envs) for k in range(per_env)]
    assert list(zip(env[0], index[0], strict=True)) == [*expected, expected[0], expected[-1]]
    assert (np.diff(index, axis=0) == 1).all() and (env == env[0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_needs_shapes_alone(kind):
    space, actions = KINDS[kind]
    ring = Ring(50, 2, space, actions, "meta")  # a host read or a shape that depends on data would raise
    batch = ring.windows(torch.empty(4, dtype=torch.float64, device="meta"), 6)
    assert {x.device.type for x in batch.tensors} == {"meta"}
    assert batch.rows.shape == batch.reward.shape == (6, 4) and batch.action.shape == (6, 4, actions.width)
    assert {name: x.shape for name, x in batch.frames.items()} == {p.name: (100, *p.shape) for p in space.parts}


def test_a_captured_draw_follows_the_replay(monkeypatch):
    """The tape plays the part of a CUDA graph: only ops, no Python, always the same tensors."""
    monkeypatch.setattr(cuda_graph, "record", tape.record)
    plain, captured = filled(9, 40, 2, seed=5), filled(9, 40, 2, seed=5)
    draw = Graphs(torch.device("cpu"), True).of(lambda: captured.sample(30, 8), "drawing of a batch",
                                                generators=[captured.rng], shared=True)
    drawn = set()
    for step in range(9, 75, 3):  # filling, full and wrapped
        batch, expected = draw(), plain.sample(30, 8)
        assert_same_batch(batch, expected)
        assert batch.frames["vector"] is captured.ring.frames["vector"]
        if step > 9 + 3 * cuda_graph.WARMUP:
            drawn.add(id(batch.rows))
        for replay in (plain, captured):
            extended(replay, step, step + 3, 2)
    assert len(drawn) == 1 and rng.to_text(plain.rng) == rng.to_text(captured.rng)


def test_the_replay_after_a_restore_has_no_windows_of_before(tmp_path):
    replay = filled(30, 20, directory=tmp_path)
    manifest = replay.flush()
    replay.close()
    other = restored(tmp_path, manifest, 40)  # has room for steps that were evicted
    assert len(other) == 20 and other.sample(500, 3).reward.min() == 10


class Absent:
    """No native library."""

    path = staticmethod(lambda: Path("not built"))


class Host:
    """What the native library does, in numpy."""

    path = staticmethod(lambda: Path(__file__))

    @staticmethod
    def gather(ring, index, out, *, threads):
        assert ring.dtype == out.dtype == np.uint8 and index.dtype == np.int64 and threads == 2
        out[...] = ring[index]


@pytest.mark.parametrize("host", [Absent, Host] + [replay_ring.host] * replay_ring.host.path().exists())
@pytest.mark.parametrize("kind", KINDS)
def test_batches_that_change_devices_are_the_same(monkeypatch, host, kind):
    monkeypatch.setattr(replay_ring, "host", host)
    replay = filled(77, 60, 3, *KINDS[kind])
    staging, seen = Staging(torch.device("cpu"), threads=2), set()
    for _ in range(3):
        batch = replay.sample(7, 5)
        brought = staging.bring(batch)
        assert_same_batch(batch, brought)
        assert {len(x) for x in brought.frames.values()} == {35}
        seen.add(tuple(x.data_ptr() for x in brought.tensors))
    assert len(seen) == 1  # a captured graph reads the same addresses every time
    assert not {*seen.pop()} & {x.data_ptr() for x in batch.tensors}


class Stream:
    """The order of a GPU's stream: what was queued where, and who waits for whom."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def gpu_ring(monkeypatch):
    """A ring of 4 steps that takes itself for one on a GPU, and the log of its streams."""
    log = []
    main, side = Stream("main", log), Stream("side", log)
    current = [main]

    @contextlib.contextmanager
    def entered(stream):
        current.append(stream)
        yield
        current.pop()

    ring, copy = Ring(4, 1, SPACE, ACTIONS), Ring._copy

    def logged(self, part, step, new, count):
        log.append(f"{current[-1].name} copies {'meta' if part is ring.meta else 'frames'} of {step}")
        copy(self, part, step, new, count)

    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(Ring, "_copy", logged)
    ring._side = side
    return ring, log


def written(ring, step, obs):
    ring.write(step, obs, ACTIONS.encode(np.array([step])), np.array([step], np.float32), np.zeros(1, np.uint8))


def test_frames_go_ahead_on_a_stream_that_no_other_copy_overtakes(gpu_ring):
    ring, log = gpu_ring
    first, other = ({"vector": np.full((1, 3), x, np.float32)} for x in (1.0, 2.0))
    ring.stage(0, first)
    assert int(ring.steps) == 0
    written(ring, 0, first)
    assert log == ["side copies frames of 0", "main waits for side", "main copies meta of 0"]
    log.clear()
    ring.stage(1, first)
    written(ring, 1, other)  # another array than announced, as of recreated environments: its copy comes second
    assert log == ["side copies frames of 1", "main waits for side", "main copies frames of 1", "main copies meta of 1"]
    ring.stage(2, first)
    written(ring, 2, first)
    written(ring, 3, first)
    log.clear()
    ring.stage(4, other)  # full: the place is that of step 0, which an update may be reading
    written(ring, 4, other)
    assert log == ["main copies frames of 4", "main copies meta of 4"]
    assert ring.obs["vector"][:, 0, 0].tolist() == [2, 2, 1, 1] and int(ring.steps) == 5
    log.clear()
    ring.clear(0)
    assert log == ["side waits for main"] and int(ring.steps) == 0


def test_an_announced_step_is_copied_once(gpu_ring):
    ring, log = gpu_ring
    replay = made(None, 4)
    replay.ring, (step, action) = ring, record(0)
    replay.expect(step)
    replay.add(step, action)
    assert log == ["side copies frames of 0", "main waits for side", "main copies meta of 0"]


@pytest.mark.parametrize("kind", KINDS)
def test_expected_steps_are_those_that_are_added(kind):
    """Whether or not they were announced, and on the CPU, where no copy goes ahead."""
    kind = 2, *KINDS[kind]
    plain, told = filled(50, 20, *kind), made(None, 20, *kind)
    for i in range(50):
        step, action = record(i, *kind)
        told.expect(step if i % 3 else record(i + 7, *kind)[0])
        told.add(step, action)
    told.expect(dataclasses.replace(step, obs={"vector": np.zeros((2, 4), np.float32)}))  # `add` will refuse it
    assert plain.checksum() == told.checksum()


def test_a_batch_lies_where_the_learner_is():
    direct, staged = (Replay(20, 1, IMAGES, ACTIONS, directory=None, seed=0, learner=device)
                      for device in (None, torch.device("meta")))
    assert direct.capturable and not staged.capturable
    for replay, device in ((direct, "cpu"), (staged, "meta")):
        extended(replay, 0, 20, 1, IMAGES)
        assert {x.device.type for x in replay.sample(3, 4).tensors} == {device}


def test_where_the_replay_lies(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda:1")
    monkeypatch.setattr(machine.torch.cuda, "mem_get_info", lambda device: (100, 200))
    assert [replay_device("auto", gpu, size) for size in (1, 50, 51)] == [gpu, gpu, cpu]
    assert replay_device("cuda", gpu, 10**9) == gpu and replay_device("cpu", gpu, 1) == cpu
    assert replay_device("auto", cpu, 1) == replay_device("cpu", cpu, 1) == cpu
    with pytest.raises(ConfigError, match="--replay.device auto, or --device cuda"):
        replay_device("cuda", cpu, 1)


def test_a_ring_takes_the_memory_that_is_announced():
    assert ring_bytes(100_000, IMAGE, Discrete(6)) == 100_000 * (768 + 32)
    for space, actions in KINDS.values():
        ring = Ring(50, 2, space, actions)
        assert ring_bytes(100, space, actions) == sum(x.nbytes for x in (*ring.obs.values(), ring.meta))
