"""A slice of the long runs of tests/soak; they would see a leak."""

import gc
import mmap
import os
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "soak"))

import measure
import soak

from hdfast.ops import library
from scripted_run import ScriptedAgent, ScriptedEnvs, small_config

pytestmark = pytest.mark.skipif(not hasattr(measure.libc, "mallinfo2"), reason="needs Linux with glibc 2.33")


@pytest.fixture(autouse=True)
def quick_collection():
    """Leave out of every collection what the test process already holds."""
    gc.freeze()
    yield
    gc.unfreeze()


def watch(tmp_path, on_update=None) -> dict:
    """The findings in 490 updates of the scripted agent."""
    config = small_config(**soak.TINY | soak.schedule(50) | {"run.steps": 500, "run.video_every": 0})
    agent, envs = ScriptedAgent(config, on_update=on_update), ScriptedEnvs([5])
    record = soak.Record(lambda updates: updates > 300, lambda: 1e9)
    watched = soak.Watched(config, agent, envs, tmp_path, period=50, each=record,
                           eval_envs=lambda n, seed: ScriptedEnvs([4] * n))
    agent.batches, agent.acted, agent.log = Nowhere(), Nowhere(), Nowhere()
    watched.run()
    found = record.findings()
    assert found["samples"] == 10 and watched.updates == 490 and (len(record.first), len(record.last)) == (9, 1)
    return found


class Nowhere(list):
    """A list that forgets."""

    def append(self, item) -> None:
        pass


def lasting(found: dict) -> list[str]:
    """The findings that so few updates can prove: memory still settles by pages, and times are noisy."""
    return [text for text in found["found"] if text.startswith(("descriptors", "threads"))]


def test_the_loop_itself_neither_grows_nor_keeps_anything_open(tmp_path):
    found = watch(tmp_path)
    assert lasting(found) == [] and found["growth per update"]["heap"] < soak.UPDATE_BYTES


def test_what_is_left_behind_is_seen(tmp_path):
    kept, opened, release = [], [], threading.Event()

    def leave(update: int) -> None:
        kept.append(bytearray(os.urandom(8192)))
        kept.append(mmap.mmap(-1, 65536))  # pages of its own; the heap may have some to spare
        kept[-1].write(bytes(65536))
        if update % 100 == 0:
            opened.append(os.dup(0))
            threading.Thread(target=release.wait, daemon=True).start()

    try:
        found = watch(tmp_path, leave)
    finally:
        release.set()
        for descriptor in opened:
            os.close(descriptor)
    assert [text.split()[0] for text in found["found"]][:3] == ["resident", "descriptors", "threads"]
    assert 8192 <= found["growth per update"]["heap"] < 12_000


def test_what_is_measured_about_speed_and_slopes():
    fresh = iter([9.0, *[1.1] * soak.ENOUGH, *[1.0] * soak.ENOUGH])
    record = soak.Record(lambda updates: updates >= 20, lambda: next(fresh))
    for updates in range(20 + soak.ENOUGH):
        record(updates, 1.1 if updates < 20 else 1.2)
    assert record.findings()["slowdown, with 95 %"] == pytest.approx((1.2, 1.2, 1.2))
    assert any("1.200 times" in text for text in record.findings()["found"])
    record.last = [0.9, 1.1] * soak.ENOUGH  # as likely none at all
    assert record.findings()["found"] == []
    assert measure.slope([0, 1, 2, 3, 4], [5, 7, 9, 900, 13]) == pytest.approx(2)


def test_a_slice_of_training(native_library):
    found = soak.train("native", period=20, steps=100)
    assert found["updates"] == 90 and lasting(found) == [] and found["pairs"] == [4, 0]
    assert found["growth per update"]["heap"] < 16 * 1024, found


@pytest.fixture
def native_library():
    if reason := library.problem():
        pytest.skip(f"the native library is not there: {reason}")


@pytest.mark.parametrize("backend", ["ale", "gym"])
def test_a_slice_of_a_backend(backend):
    """Eight times two evaluations, each opening and closing its environments."""
    found = soak.backends(backend, 0)
    assert found["evaluations"] == 16 and lasting(found) == []
