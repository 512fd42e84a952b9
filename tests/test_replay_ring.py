"""The replay's memory as tensors: which window a uniform chooses, and batches that change devices."""

import numpy as np
import pytest
import torch

import tape
from hdfast import cuda_graph, machine, replay_ring, rng
from hdfast.cuda_graph import Graphs
from hdfast.errors import ConfigError
from hdfast.machine import replay_device
from hdfast.replay import Replay
from hdfast.replay_ring import Ring, Staging, ring_bytes
from replay_stream import assert_same_batch, extended, filled

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


def test_sampling_needs_shapes_alone():
    ring = Ring(50, 2, (8, 8, 3), "uint8", "meta")  # a host read or a shape that depends on data would raise
    batch = ring.windows(torch.empty(4, dtype=torch.float64, device="meta"), 6)
    assert {x.device.type for x in vars(batch).values()} == {"meta"}
    assert batch.rows.shape == batch.reward.shape == (6, 4) and batch.frames.shape == (100, 8, 8, 3)


def test_a_captured_draw_follows_the_replay(monkeypatch):
    """The tape plays the part of a CUDA graph: ops alone, no Python, always the same tensors."""
    monkeypatch.setattr(cuda_graph, "record", tape.record)
    plain, captured = filled(9, 40, 2, seed=5), filled(9, 40, 2, seed=5)
    draw = Graphs(torch.device("cpu"), True).of(lambda: captured.sample(30, 8), "drawing of a batch",
                                                generators=[captured.rng], shared=True)
    drawn = set()
    for step in range(9, 75, 3):  # filling, full and wrapped
        batch, expected = draw(), plain.sample(30, 8)
        assert_same_batch(batch, expected)
        assert batch.frames is captured.ring.frames
        if step > 9 + 3 * cuda_graph.WARMUP:
            drawn.add(id(batch.rows))
        for replay in (plain, captured):
            extended(replay, step, step + 3, 2)
    assert len(drawn) == 1 and rng.to_text(plain.rng) == rng.to_text(captured.rng)


def test_the_replay_after_a_restore_has_no_windows_of_before(tmp_path):
    replay = filled(30, 20, directory=tmp_path)
    manifest = replay.flush()
    replay.close()
    other = Replay(40, 1, (3,), "float32", directory=tmp_path, seed=0)  # has room for steps that were evicted
    other.restore(manifest)
    assert len(other) == 20 and other.sample(500, 3).reward.min() == 10


class Host:
    """What the native module does, in numpy."""

    @staticmethod
    def gather(ring, index, out, *, threads):
        assert ring.dtype == out.dtype == np.uint8 and index.dtype == np.int64 and threads == 2
        out[...] = ring[index]


NATIVE = replay_ring.host_module()


@pytest.mark.parametrize("host", [None, Host] + [NATIVE] * (NATIVE is not None))
@pytest.mark.parametrize(("shape", "dtype"), [((4, 4, 3), "uint8"), ((5,), "float32")])
def test_batches_that_change_devices_are_the_same(monkeypatch, host, shape, dtype):
    monkeypatch.setattr(replay_ring, "host_module", lambda: host)
    replay = filled(77, 60, 3, shape, dtype)
    staging, seen = Staging(torch.device("cpu"), threads=2), set()
    for _ in range(3):
        batch = replay.sample(7, 5)
        brought = staging.bring(batch)
        assert_same_batch(batch, brought)
        assert len(brought.frames) == 35
        seen.add(tuple(x.data_ptr() for x in vars(brought).values()))
    assert len(seen) == 1  # a captured graph reads the same addresses every time
    assert seen.pop()[0] != batch.frames.data_ptr()


def test_a_batch_lies_where_the_learner_is():
    direct, staged = (Replay(20, 1, (4, 4, 3), "uint8", directory=None, seed=0, learner=device)
                      for device in (None, torch.device("meta")))
    assert direct.capturable and not staged.capturable
    for replay in (direct, staged):
        extended(replay, 0, 20, 1, (4, 4, 3), "uint8")
    assert staged.sample(3, 4).obs.device.type == "meta" and direct.sample(3, 4).obs.device.type == "cpu"


def test_where_the_replay_lies(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda:1")
    monkeypatch.setattr(machine.torch.cuda, "mem_get_info", lambda device: (100, 200))
    assert [replay_device("auto", gpu, size) for size in (1, 50, 51)] == [gpu, gpu, cpu]
    assert replay_device("cuda", gpu, 10**9) == gpu and replay_device("cpu", gpu, 1) == cpu
    assert replay_device("auto", cpu, 1) == replay_device("cpu", cpu, 1) == cpu
    with pytest.raises(ConfigError, match="--replay.device auto, or --device cuda"):
        replay_device("cuda", cpu, 1)
    assert ring_bytes(100_000, (64, 64, 3), "uint8") == 100_000 * (12_288 + 12)
