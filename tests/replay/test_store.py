"""Replay on disk: a resumed run holds exactly what it held, and every damage is found and named."""

import json
import os
import shutil
import tracemalloc
import zlib

import numpy as np
import pytest

from hdfast import rng
from hdfast.errors import RunError
from hdfast.spaces import Box, ObsSpace
from killing import killed_at_every_point, largest_file
from kinds import IMAGE, KINDS, VECTOR
from replay_stream import SPACE, assert_same_batch, extended, filled, made, record, restored


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("capacity", [1000, 50])
def test_a_resumed_replay_is_the_same(tmp_path, num_envs, kind, capacity):
    kind = (num_envs, *KINDS[kind])
    whole = filled(200, capacity * num_envs, *kind, seed=5)
    first = filled(120, capacity * num_envs, *kind, directory=tmp_path, chunk_bytes=2000, seed=5)
    manifest = json.loads(json.dumps(first.flush()))
    checksum, state = first.checksum(), rng.to_text(first.rng)
    first.close()
    second = restored(tmp_path, manifest, capacity * num_envs, *kind, chunk_bytes=2000)
    rng.restore(second.rng, rng.from_text(state))
    assert second.checksum() == checksum and len(second) == len(first)
    extended(second, 120, 200, *kind)
    assert second.checksum() == whole.checksum()
    assert_same_batch(second.sample(32, 8), whole.sample(32, 8))
    second.restore(json.loads(json.dumps(second.flush())))
    assert second.checksum() == whole.checksum()
    second.close()


def test_steps_after_the_manifest_are_cut_off(tmp_path):
    replay = filled(45, directory=tmp_path, chunk_bytes=600)
    manifest, checksum = replay.flush(), replay.checksum()
    before = files(tmp_path)
    extended(replay, 45, 95)
    replay.close()
    newest = max(tmp_path.iterdir())
    newest.write_bytes(newest.read_bytes() + b"half a record")
    assert len(list(tmp_path.iterdir())) > len(before)
    again = restored(tmp_path, manifest, chunk_bytes=600)
    assert again.checksum() == checksum and len(again) == 45
    assert files(tmp_path) == before
    extended(again, 45, 95)
    manifest = again.flush()
    again.restore(manifest)
    assert again.checksum() == filled(95).checksum()
    again.close()


def test_a_smaller_or_larger_ring_keeps_what_there_is(tmp_path):
    replay = filled(120, 100, directory=tmp_path, chunk_bytes=600)
    manifest = replay.flush()
    replay.close()
    for capacity, held in [(30, 30), (500, 100)]:
        other = restored(tmp_path, manifest, capacity, chunk_bytes=600)
        assert len(other) == held
        steps = np.unique(other.sample(5000, 1).reward)
        np.testing.assert_array_equal(steps, np.arange(120 - held, 120))


def test_evicted_chunks_go_but_none_that_a_kept_checkpoint_needs(tmp_path):
    replay = restored(tmp_path, None, 50, chunk_bytes=300)
    history, most = [], 0
    for start in range(0, 600, 20):
        extended(replay, start, start + 20)
        history.append((replay.flush(), replay.checksum()))
        if start % 100 == 0:
            assert replay.flush() == history[-1][0]  # a second flush changes nothing, on disk neither
        if start == 300:  # resumed in between
            replay.close()
            replay = restored(tmp_path, history[-1][0], 50, chunk_bytes=300)
        copy = tmp_path.with_name("copy")
        for manifest, checksum in history[-3:]:
            shutil.copytree(tmp_path, copy)
            assert restored(copy, manifest, 50).checksum() == checksum
            shutil.rmtree(copy)
        most = max(most, len(list(tmp_path.iterdir())))
    assert most < 30  # of about 150 written
    with pytest.raises(RunError, match="No such file"):
        replay.restore(history[0][0])
    replay.close()


def test_leftovers_are_neither_mixed_in_nor_silently_deleted(tmp_path):
    replay = filled(40, directory=tmp_path)
    replay.close()
    kept = {path.name for path in tmp_path.iterdir()}
    other = made(tmp_path, 100)
    with pytest.raises(RunError, match="earlier run that was not restored"):
        other.add(*record(0))
    assert {path.name for path in tmp_path.iterdir()} == kept and len(other) == 0
    (tmp_path / "chunk-notes.txt").write_text("mine")
    other.restore(None)
    assert [path.name for path in tmp_path.iterdir()] == ["chunk-notes.txt"]
    manifest = other.flush()
    extended(other, 0, 10)
    other.restore(manifest)
    assert len(other) == 0 and manifest["steps"] == 0
    other.close()


def test_memory_only(tmp_path):
    replay = filled(40)
    manifest = json.loads(json.dumps(replay.flush()))
    for other in (replay, made(tmp_path)):
        with pytest.raises(RunError):
            other.restore(manifest)
    replay.restore(None)
    assert len(replay) == 0


# Format 1, which versions before named parts wrote


def format_1(directory, steps, num_envs, space, chunk_steps):
    """Write the steps of `record` as format 1 has them, to replay chunks that end after `chunk_steps`; the manifest."""
    part, chunks = space.parts[0], []
    layout = np.dtype([("index", "<i8"), ("action", "<i4", num_envs), ("reward", "<f4", num_envs),
                       ("flags", "u1", num_envs), ("obs", np.dtype(part.dtype).newbyteorder("<"),
                                                   (num_envs, *part.shape)), ("crc", "<u4")])
    for first in range(0, steps, chunk_steps):
        head = {"magic": "hdfast-replay", "version": 1, "num_envs": num_envs, "obs_shape": list(part.shape),
                "obs_dtype": part.dtype, "record_bytes": layout.itemsize, "first": first}
        data, crc, count = json.dumps(head).encode().ljust(511) + b"\n", 0, min(chunk_steps, steps - first)
        for i in range(first, first + count):
            step, action = record(i, num_envs, space)
            flags = step.is_first * 1 + step.is_last * 2 + step.is_terminal * 4
            row = i, np.where(step.is_last, -1, action), step.reward, flags, step.obs[part.name], 0
            one = np.array([row], layout)
            crc = zlib.crc32(one.tobytes()[:-4], crc)
            data += one.tobytes()[:-4] + crc.to_bytes(4, "little")
        chunks.append({"name": f"chunk-{first:012d}.bin", "first": first, "records": count, "crc": crc})
        (directory / chunks[-1]["name"]).write_bytes(data)
    return {"format": 1, "steps": steps, "oldest": 0, "chunks": chunks}


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("space", [IMAGE, VECTOR], ids=str)
def test_format_1_is_read_and_continued_by_format_2(tmp_path, num_envs, space):
    kind, whole = (num_envs, space), filled(120, 60 * num_envs, num_envs, space)
    manifest = format_1(tmp_path, 45, num_envs, space, 20)
    replay = restored(tmp_path, manifest, 60 * num_envs, *kind)
    assert replay.checksum() == filled(45, 60 * num_envs, *kind).checksum()
    extended(replay, 45, 70, *kind)
    mixed = json.loads(json.dumps(replay.flush()))
    assert mixed["format"] == 2 and [chunk["format"] for chunk in mixed["chunks"]] == [1, 1, 1, 2]
    extended(replay, 70, 75, *kind)
    replay.close()
    replay = restored(tmp_path, mixed, 60 * num_envs, *kind)  # cuts off what came after
    extended(replay, 70, 120, *kind)
    assert replay.checksum() == whole.checksum()
    replay.restore(json.loads(json.dumps(replay.flush())))
    assert replay.checksum() == whole.checksum()
    replay.close()


def test_format_1_holds_one_array_and_single_choices(tmp_path):
    manifest = format_1(tmp_path, 45, 1, VECTOR, 20)
    for kind in ("vector", "named", "images"):
        said = attempt(tmp_path, manifest, 1, *KINDS[kind])
        assert "has format 1, this run reads 2. Use the version that wrote it, or choose another --logdir" in said
    path = tmp_path / manifest["chunks"][1]["name"]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert f"replay chunk {path} is damaged: step 39" in attempt(tmp_path, manifest, 1, VECTOR)


# Damage


@pytest.fixture
def saved(tmp_path):
    """(directory, manifest, checksum) of 35 steps in five chunks."""
    replay = filled(35, directory=tmp_path / "replay", chunk_bytes=350)
    manifest = json.loads(json.dumps(replay.flush()))
    replay.close()
    assert [chunk["records"] for chunk in manifest["chunks"]] == [7] * 5
    return tmp_path / "replay", manifest, replay.checksum()


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def attempt(directory, manifest, *kind):
    """The RunError that restoring gives; asserts that it changed no file and left nothing in memory."""
    before, replay = files(directory), made(directory, 1000, *kind)
    with pytest.raises(RunError) as caught:
        replay.restore(manifest)
    assert len(replay) == 0
    assert files(directory) == before
    return str(caught.value)


def test_every_flipped_bit_is_found(saved):
    directory, manifest, checksum = saved
    path = directory / manifest["chunks"][2]["name"]
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 7]) + good[place + 1:])
        message = attempt(directory, manifest)
        assert str(path) in message and "--logdir" in message, place
    path.write_bytes(good)
    assert restored(directory, manifest).checksum() == checksum


def test_missing_short_long_and_swapped_chunks(saved):
    directory, manifest, _ = saved
    first, second, last = (directory / manifest["chunks"][i]["name"] for i in (0, 1, 4))
    good = {path: path.read_bytes() for path in (first, second, last)}
    for path, data, word in [
            (first, None, "No such file"), (last, None, "No such file"), (last, good[last][:-1], "bytes, expected"),
            (second, good[second][:600], "bytes, expected"), (second, good[second] + b"0", "bytes, expected"),
            (last, b"", "begins with b''"), (last, b"[]".ljust(900), "begins with b'[]'"),
            (second, good[first], '"first": 0'), (last, good[last].replace(b"hdfast-r", b"sdfast-r"), "sdfast-replay"),
            (last, good[last].replace(b'"version": 2', b'"version": 3'), '"version": 3')]:
        path.unlink() if data is None else path.write_bytes(data)
        message = attempt(directory, manifest)
        assert str(path) in message and word in message
        path.write_bytes(good[path])
    last.unlink()
    last.symlink_to(second)
    assert "it is a link or a pipe" in attempt(directory, manifest)
    last.unlink()
    os.mkfifo(last)
    assert "not a regular file" in attempt(directory, manifest)


def test_chunks_of_another_run_are_refused(saved, tmp_path):
    directory, manifest, _ = saved
    assert '"obs": [["vector", [3], "float32"]]' in attempt(directory, manifest, 1, VECTOR)
    assert '"action": ["discrete", 5]' in attempt(directory, manifest, 1, SPACE, Box(5))
    assert '"num_envs": 1' in attempt(directory, manifest, 2)
    other = made(tmp_path / "other", chunk_bytes=350)
    for i in range(35):
        step, action = record(i)
        step.obs["vector"] += 1
        other.add(step, action)
    theirs = other.flush()
    other.close()
    name = theirs["chunks"][3]["name"]
    (directory / name).write_bytes((tmp_path / "other" / name).read_bytes())
    assert f"{name} is not the one the checkpoint was saved with" in attempt(directory, manifest)


def changed(manifest, *keys_and_value):
    *keys, key, value = keys_and_value
    copy = json.loads(json.dumps(manifest))
    inner = copy
    for k in keys:
        inner = inner[k]
    inner[key] = value
    return copy


def test_damaged_manifests_are_refused(saved):
    directory, good, _ = saved
    name = good["chunks"][0]["name"]
    names = [f"../replay/{name}", str(directory / name), "..", "", f"{name}\0", f"./{name}", f"sub/{name}", None, 3]
    bad = [[], 3, "text", {}, {**good, "chunks": None}, {**good, "chunks": [None]}, {**good, "chunks": []},
           {**good, "chunks": good["chunks"][1:]}, {**good, "chunks": good["chunks"][::-1]},
           {**good, "chunks": good["chunks"][:2] + good["chunks"][3:]}]
    bad += [changed(good, "chunks", 0, "name", name) for name in names]
    bad += [changed(good, "chunks", i, key, value) for i in (0, 4) for key in ("first", "records", "crc")
            for value in (-1, 10**30, 1.5, "7", None, True, 0 if key == "records" else 1)]
    bad += [changed(good, key, value) for key in ("steps", "oldest", "format")
            for value in (-1, 34, 36, 10**30, 0.0, None, "1", True)]
    for manifest in bad:
        message = attempt(directory, manifest)
        assert "Delete that checkpoint" in message or "--logdir" in message


# The disk and the process fail


@pytest.mark.parametrize("limit", [100, 520, 700], ids=["header", "first record", "later record"])
def test_a_failed_write_loses_only_that_step(tmp_path, limit):
    replay = filled(35, directory=tmp_path, chunk_bytes=250)
    with largest_file(limit):
        with pytest.raises(RunError, match=f"cannot write the replay in {tmp_path}"):
            extended(replay, 35, 60)
        done = len(replay)
        with pytest.raises(RunError, match=f"cannot write the replay in {tmp_path}"):
            replay.add(*record(done))
    assert 35 <= done < 42
    middle = replay.flush()
    checksum = replay.checksum()
    extended(replay, done, 60)
    manifest = replay.flush()
    replay.restore(manifest)
    assert replay.checksum() == filled(60).checksum()
    replay.restore(middle)
    assert replay.checksum() == checksum
    replay.close()


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot create .*file/replay: .*--logdir"):
        made(tmp_path / "file" / "replay")


def test_killed_anywhere_while_flushing_or_rewinding(tmp_path):
    directory = tmp_path / "replay"
    replay = restored(directory, None, 30, chunk_bytes=250)
    history = []
    for start in range(0, 80, 20):
        extended(replay, start, start + 20)
        history.append((replay.flush(), replay.checksum()))
    replay.close()

    def life():
        again = restored(directory, history[-1][0], 30, chunk_bytes=250)
        extended(again, 80, 100)
        again.flush()
        saved.touch()
        extended(again, 100, 120)
        again.flush()

    deaths, saved = 0, tmp_path / "the first flush went into a checkpoint"
    for where in killed_at_every_point(life):
        deaths += 1
        for manifest, checksum in history[-1 if saved.exists() else -2:]:
            copy = shutil.copytree(directory, tmp_path / "copy")
            assert restored(copy, manifest, 30).checksum() == checksum, where
            shutil.rmtree(copy)
    assert deaths > 10


def test_loading_needs_little_memory_beside_the_ring(tmp_path):
    space = ObsSpace.single((64, 64, 3), "uint8")
    replay = made(tmp_path, 2000, 1, space)
    step, action = record(1, 1, space)
    for _ in range(2000):
        replay.add(step, action)
    manifest = replay.flush()
    replay.close()
    other = made(tmp_path, 2000, 1, space)
    tracemalloc.start()
    try:
        other.restore(manifest)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4.5e6 < replay.ring.obs["image"].nbytes / 5
    assert len(other) == 2000
