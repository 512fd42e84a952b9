"""Checkpoints: bit-exact, atomic, and never trusted: the newest valid one is taken and damage is named."""

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from hdfast.errors import RunError
from hdfast.protocol import Schedule
from hdfast.run import checkpoint, durable
from hdfast.run.checkpoint import (
    MANIFEST,
    TEMPORARY,
    TENSORS,
    Checkpoint,
    clear_leftovers,
    latest,
    load,
    save,
    text_digest,
)
from hdfast.run.directory import run_manifest
from killing import killed_at_every_point, largest_file


def tensors():
    return {
        "arena": torch.randn(300), "kernel": torch.randn(3, 4, 5), "updates": torch.tensor(2**40 + 1),
        "done": torch.tensor(True), "mask": torch.rand(7) > 0.5, "none": torch.zeros(0, 3),
        "bytes": torch.randint(0, 256, (4, 2), dtype=torch.uint8)}


def small(step):
    return {"weight": torch.full((5,), float(step)), "step": torch.tensor(step)}


def put(directory, *steps, **options):
    """Save a small checkpoint of each step; returns the last one's folder."""
    return [save(directory, step, small(step), {}, **options) for step in steps][-1]


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def same_bits(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()


def test_round_trip(tmp_path):
    saved = tensors()
    saved["arena"][:4] = torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45])
    saved["arena"].view(torch.int32)[4] = 0x7FC00123  # a NaN with a payload
    manifest = {"replay": {"steps": 3, "chunks": [{"crc": 2**32 - 1}]}, "state": 2**127, "score": 0.1,
                "text": "é\n", "best": float("-inf"), "none": None, "list": [1, [True]]}
    path = save(tmp_path / "ckpt", 2500, saved, manifest)
    assert path == tmp_path / "ckpt" / "000000002500" and names(path) == [MANIFEST, TENSORS]
    found = latest(tmp_path / "ckpt")
    assert (found.step, found.path, found.manifest, found.discarded) == (2500, path, manifest, [])
    assert found.tensors.keys() == saved.keys()
    for name, tensor in saved.items():
        assert same_bits(found.tensors[name], tensor), name
    assert str(path) not in Path("/proc/self/maps").read_text()  # not the file itself, which may be cut short


def test_views_shared_memory_and_parameters(tmp_path):
    arena = torch.arange(24.0)
    matrix = arena.view(4, 6)
    saved = {"arena": arena, "again": arena, "view": arena[4:10], "matrix": matrix, "columns": matrix.T,
             "strided": arena[::5], "broadcast": arena[3].expand(3, 2), "element": arena[7],
             "parameter": torch.nn.Parameter(torch.ones(2, 2))}
    save(tmp_path, 1, saved, {})
    found = latest(tmp_path).tensors
    for name, tensor in saved.items():
        assert same_bits(found[name], tensor.detach().contiguous()), name
    save(tmp_path, 2, {"view": arena[4:10]}, {})
    assert same_bits(latest(tmp_path).tensors["view"], arena[4:10])
    found["arena"].zero_()
    assert found["view"].sum() == arena[4:10].sum() and not found["parameter"].requires_grad


def test_only_an_absent_checkpoint_is_none(tmp_path):
    assert latest(tmp_path) is None and latest(tmp_path / "missing") is None
    (tmp_path / "notes").mkdir()
    (tmp_path / ".tmp-000000000005").mkdir()
    assert latest(tmp_path) is None
    put(tmp_path, 5, tag="best")
    assert latest(tmp_path) is None and latest(tmp_path, tag="best").step == 5


def test_the_last_two_and_one_per_tag_are_kept(tmp_path):
    for step in (10, 20, 30, 40):
        save(tmp_path, step, small(step), {})
        if step in (10, 30):
            save(tmp_path, step, small(-step), {}, tag="best")
    (tmp_path / "notes").touch()
    assert names(tmp_path) == ["000000000030", "000000000040", "best-000000000030", "notes"]
    assert latest(tmp_path).tensors["weight"][0] == 40
    assert latest(tmp_path, tag="best").tensors["weight"][0] == -30
    put(tmp_path, 20, tag="best")  # a best one of an earlier step replaces it
    assert latest(tmp_path, tag="best").step == 20 and len(names(tmp_path)) == 4


def test_a_reader_is_slower_than_the_run_that_saves(tmp_path, monkeypatch):
    """All that was there when it looked is gone when it reads."""
    put(tmp_path, 10)
    steps = [30, 20]

    def slow(path):
        while steps:
            save(tmp_path, steps.pop(), small(0), {})
        return load(path)

    monkeypatch.setattr(checkpoint, "load", slow)
    found = latest(tmp_path)
    assert (found.step, found.discarded) == (30, []) and names(tmp_path) == ["000000000020", "000000000030"]


def test_saving_a_step_again_and_going_back(tmp_path):
    for step, mark in [(10, 1), (20, 2), (20, 3), (20, 4)]:
        save(tmp_path, step, small(mark), {})
    found = latest(tmp_path)
    assert found.step == 20 and found.tensors["weight"][0] == 4
    assert names(tmp_path) == ["000000000010", "000000000020.2"]
    put(tmp_path, 15)  # resumed from 10: what came after belongs to a past that is no more
    assert names(tmp_path) == ["000000000010", "000000000015"]
    put(tmp_path, 5)
    assert names(tmp_path) == ["000000000005"]


def test_leftovers_of_killed_saves_are_cleared(tmp_path):
    (tmp_path / ".tmp-000000000005").mkdir()
    (tmp_path / ".tmp-000000000005" / TENSORS).write_bytes(b"x" * 100)
    (tmp_path / ".tmp-file").touch()
    (tmp_path / ".tmp-link").symlink_to(tmp_path)
    put(tmp_path, 10)
    assert names(tmp_path) == ["000000000010"] and latest(tmp_path).step == 10
    (tmp_path / ".tmp-old-000000000005").mkdir()
    clear_leftovers(tmp_path)
    clear_leftovers(tmp_path / "not there yet")
    assert [path.name for path in tmp_path.iterdir()] == ["000000000010"]


@pytest.mark.parametrize(("step", "tag"), [(-1, None), (10**12, None), (1, "../x"), (1, ""), (1, "A"), (1, "a\n")])
def test_impossible_names_are_refused(tmp_path, step, tag):
    with pytest.raises(ValueError, match="checkpoint: needs"):
        save(tmp_path, step, small(1), {}, tag=tag)
    assert names(tmp_path) == []


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_both_files_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        path = put(tmp_path, 1)
    finally:
        os.umask(before)
    assert {name: oct((path / name).stat().st_mode & 0o777) for name in (TENSORS, MANIFEST)} == dict.fromkeys(
        (TENSORS, MANIFEST), oct(0o666 & ~umask))


def test_the_name_of_a_new_folder_is_durable(tmp_path, monkeypatch):
    """A checkpoint that is synced in a folder whose own name is not could be gone after a power cut."""
    synced = []
    monkeypatch.setattr(durable, "sync_directory", synced.append)
    put(tmp_path / "run" / "ckpt", 1)
    assert synced == [tmp_path / "run", tmp_path]
    put(tmp_path / "run" / "ckpt", 2)
    assert len(synced) == 2


def test_what_json_cannot_hold_is_refused_and_leaves_nothing(tmp_path):
    put(tmp_path, 1)
    with pytest.raises(TypeError):
        save(tmp_path, 2, small(2), {"tensor": torch.ones(1)})
    assert names(tmp_path) == ["000000000001"]


# Damage


def rewrite(path, change):
    path.write_bytes(change(path.read_bytes()))


def flip(place):
    return lambda data: data[:place] + bytes([data[place] ^ 4]) + data[place + 1:]


def replace_by_link(path):
    moved = path.rename(path.parent.parent / ("elsewhere-" + path.name))
    path.symlink_to(moved)


def replace_by(path, make):
    path.unlink()
    make(path)


DAMAGE = {
    "tensors cut": (lambda c: rewrite(c / TENSORS, lambda d: d[:-1]), "bytes, expected"),
    "tensors empty": (lambda c: (c / TENSORS).write_bytes(b""), "has 0 bytes"),
    "tensors flipped": (lambda c: rewrite(c / TENSORS, flip(-2)), "does not match its checksum"),
    "tensors missing": (lambda c: (c / TENSORS).unlink(), f"{TENSORS} cannot be read: No such file"),
    "tensors a link": (lambda c: replace_by_link(c / TENSORS), f"{TENSORS} cannot be read: it is a link"),
    "tensors a pipe": (lambda c: replace_by(c / TENSORS, os.mkfifo), "it is not a regular file"),
    "manifest cut": (lambda c: rewrite(c / MANIFEST, lambda d: d[:-1]), "not readable"),
    "manifest empty": (lambda c: (c / MANIFEST).write_bytes(b""), "not readable"),
    "manifest garbage": (lambda c: (c / MANIFEST).write_bytes(bytes(range(256))), "not readable"),
    "manifest no object": (lambda c: (c / MANIFEST).write_text("[1, 2]"), "not readable"),
    "manifest a number": (lambda c: (c / MANIFEST).write_text("9" * 10_000), "not readable"),
    "manifest too deep": (lambda c: (c / MANIFEST).write_text("[" * 100_000), "not readable"),
    "manifest without checksum": (lambda c: (c / MANIFEST).write_text('{"step": 20}'), "not readable"),
    "manifest edited": (lambda c: rewrite(c / MANIFEST, lambda d: d.replace(b'"mark": 2', b'"mark": 3')),
                        "does not match its checksum"),
    "manifest missing": (lambda c: (c / MANIFEST).unlink(), f"{MANIFEST} cannot be read: No such file"),
    "manifest a link": (lambda c: replace_by_link(c / MANIFEST), f"{MANIFEST} cannot be read: it is a link"),
    "manifest a folder": (lambda c: replace_by(c / MANIFEST, os.mkdir), "it is not a regular file"),
    "empty folder": (lambda c: [p.unlink() for p in c.iterdir()], f"{MANIFEST} cannot be read: No such file"),
    "a file": (lambda c: (shutil.rmtree(c), c.touch()), "not a folder"),
    "a link": (lambda c: c.symlink_to(c.rename(c.parent / "elsewhere")), "not a folder"),
    "a copy of another step": (lambda c: (shutil.rmtree(c), shutil.copytree(c.parent / "000000000010", c)),
                               "is of step 10"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_newest_valid_one_is_taken_and_damage_is_said(tmp_path, damage):
    make, words = DAMAGE[damage]
    for step in (10, 20):
        save(tmp_path, step, small(step), {"mark": step // 10})
    newest = tmp_path / "000000000020"
    make(newest)
    found = latest(tmp_path)
    assert (found.step, found.tensors["weight"][0], found.manifest) == (10, 10, {"mark": 1})
    assert len(found.discarded) == 1 and str(newest) in found.discarded[0] and words in found.discarded[0]
    (tmp_path / "000000000010" / TENSORS).unlink()
    with pytest.raises(RunError) as caught:
        latest(tmp_path)
    message = str(caught.value)
    assert str(newest) in message and str(tmp_path / "000000000010") in message
    assert f"delete {tmp_path}" in message and words in message


@pytest.mark.parametrize("name", [MANIFEST, TENSORS])
def test_every_flipped_bit_is_found(tmp_path, name):
    path = save(tmp_path, 10, small(10), {"mark": [1, 2.5, "x"]}) / name
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 7]) + good[place + 1:])
        with pytest.raises(RunError, match="is damaged"):
            latest(tmp_path)
    path.write_bytes(good)
    assert latest(tmp_path).step == 10


def test_a_damaged_one_is_replaced_by_the_next_save_of_its_step(tmp_path):
    put(tmp_path, 10, 20)
    (tmp_path / "000000000020" / TENSORS).unlink()
    assert latest(tmp_path).step == 10
    save(tmp_path, 20, small(21), {})
    found = latest(tmp_path)
    assert (found.step, found.tensors["weight"][0], found.discarded) == (20, 21, [])
    assert names(tmp_path) == ["000000000010", "000000000020.1"]


def test_a_forged_manifest_with_right_checksums_gives_an_error_at_most(tmp_path):
    path = put(tmp_path, 10) / MANIFEST
    good = json.loads(path.read_text())
    good.pop("checksum")
    for key in good:
        for value in (None, -1, 10**30, "../../x", [], {"a": 1}, "missing"):
            body = {k: v for k, v in {**good, key: value}.items() if v != "missing"}
            path.write_text(json.dumps({"checksum": text_digest(body), **body}))
            if (key, value) == ("manifest", {"a": 1}):
                assert latest(tmp_path).manifest == value
                continue
            with pytest.raises(RunError):
                latest(tmp_path)


RUN = {"step": 10, "updates": 3, "episodes": 2, "evaluated": 8, "best_score": 1.5, "best_eval": None, "last_score": -1,
       "replay": {"steps": 5}, "replay_rng": "00ff", "prefill_rng": np.random.PCG64(0).state, "config": {},
       "records": {"eval.jsonl": {"bytes": 3, "crc": 7}}}
FORGED = {
    **{name: ["3", 3.0, -1, 10**12, True, None] for name in ("step", "updates", "episodes", "evaluated")},
    **{name: ["3", [], True, float("inf"), float("nan")] for name in ("best_score", "best_eval", "last_score")},
    "replay": [None, []], "replay_rng": [None, 5], "config": [[]],
    "records": [[], {"eval.jsonl": 3}, {"eval.jsonl": {"bytes": -1, "crc": 0}}],
    "prefill_rng": [None, {}, RUN["prefill_rng"] | {"uinteger": -1}, RUN["prefill_rng"] | {"bit_generator": "MT19937"},
                    RUN["prefill_rng"] | {"state": {"state": 2**128, "inc": 1}}],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in FORGED.items() for value in values])
def test_a_forged_field_of_a_manifest_is_named(name, value):
    schedule, path = Schedule(20, 4, Fraction(1, 2)), Path("ckpt/000000000010")
    assert run_manifest(Checkpoint(10, {}, RUN, path), schedule, 2) is RUN
    with pytest.raises(RunError) as caught:
        run_manifest(Checkpoint(10, {}, RUN | {name: value}, path), schedule, 2)
    said = str(caught.value)
    assert said.startswith(f"{path / MANIFEST}: {name}") and ", expected " in said and "Delete that checkpoint" in said
    assert isinstance(value, dict) or f"{name} is {value!r}, expected " in said


@pytest.mark.parametrize(("name", "value", "expected"), [
    ("step", 11, "10, as in the checkpoint's name"), ("updates", 4, "at most the 3 that are due"),
    ("evaluated", 11, "at most step 10"), ("replay", {"steps": 6}, "10 steps of 2 environments")])
def test_fields_of_a_manifest_that_contradict_one_another(name, value, expected):
    found = Checkpoint(10, {}, RUN | {name: value}, Path("000000000010"))
    with pytest.raises(RunError, match=expected):
        run_manifest(found, Schedule(20, 4, Fraction(1, 2)), 2)


def test_the_earlier_one_that_is_kept_is_a_valid_one(tmp_path):
    put(tmp_path, 10, 17)
    rewrite(tmp_path / "000000000017" / TENSORS, flip(-1))
    put(tmp_path, 20)
    assert names(tmp_path) == ["000000000010", "000000000020"]
    for name in names(tmp_path):
        (tmp_path / name / TENSORS).unlink()
    put(tmp_path, 30)
    assert names(tmp_path) == ["000000000030"]


def test_another_format_is_refused_not_passed_over(tmp_path, monkeypatch):
    put(tmp_path, 10)
    monkeypatch.setattr("hdfast.run.checkpoint.FORMAT", 2)
    put(tmp_path, 20)
    assert json.loads((tmp_path / "000000000020" / MANIFEST).read_text())["format"] == 2
    monkeypatch.undo()
    with pytest.raises(RunError, match=r"000000000020 has format 2, this hdfast reads 1\. Use the version"):
        latest(tmp_path)


# The disk and the process fail


def test_a_failed_write_leaves_the_one_before(tmp_path):
    put(tmp_path, 10)
    for size, kept in [(50, {}), (1000, {"long": "x" * 5000})]:  # fails in the tensors; in the manifest
        with largest_file(size), pytest.raises(RunError, match=f"cannot write a checkpoint in {tmp_path}"):
            save(tmp_path, 20, small(20), kept)
        assert names(tmp_path) == ["000000000010"] and latest(tmp_path).step == 10
    put(tmp_path, 20)
    assert latest(tmp_path).step == 20


def test_a_directory_that_cannot_be_made_or_read(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot write a checkpoint in .*file/ckpt: .*--logdir"):
        put(tmp_path / "file" / "ckpt", 1)
    with pytest.raises(RunError, match=r"cannot read the checkpoints in .*file: "):
        latest(tmp_path / "file")


@pytest.mark.parametrize(("step", "damaged"), [(30, False), (20, False), (15, True), (15, False)])
def test_killed_anywhere_while_saving(tmp_path, step, damaged):
    original, directory = tmp_path / "original", tmp_path / "ckpt"
    put(original, 10, 20)
    if damaged:
        (original / "000000000020" / TENSORS).unlink()
    before = latest(original)
    shutil.copytree(original, directory)
    outcomes = set()
    for where in killed_at_every_point(lambda: save(directory, step, small(99), {})):
        found = latest(directory)
        mark = found.tensors["weight"][0].item()
        allowed = {(before.step, before.step), (step, 99), *([(10, 10)] if step == 15 else [])}
        assert (found.step, mark) in allowed, where
        for path in directory.iterdir():
            if not path.name.startswith(TEMPORARY) and str(path.name) not in str(before.discarded):
                load(path)  # whatever is visible is whole
        outcomes.add(mark)
        save(directory, found.step + 1, small(7), {})  # and the run goes on
        assert latest(directory).tensors["weight"][0] == 7 and len(names(directory)) == 2, where
        shutil.rmtree(directory)
        shutil.copytree(original, directory)
    assert outcomes >= {before.step, 99}
