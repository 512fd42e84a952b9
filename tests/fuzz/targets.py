"""What is fuzzed in Python: the command line, checkpoints and the replay. Each target is a function of some bytes that
may raise nothing but what is documented, whatever the bytes are. The raw ops are fuzzed by tests/fuzz/native.

A target gets an empty folder. Formats of several files are one input, the files between lines of equals signs; digests
that a format demands are put where a seed says "auto", or no changed byte would ever come past the first check.
"""

import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from hdfast import cli, rng
from hdfast.errors import RunError
from hdfast.protocol import Schedule
from hdfast.replay.sequences import Replay
from hdfast.run import checkpoint, directory
from hdfast.spaces import Discrete, ObsSpace, described, spaces

SPACES = ObsSpace.single((3,), "float32"), Discrete(2)
SPLIT = b"\n=====\n"
AUTO = "auto"


@dataclass(frozen=True)
class Target:
    """`run` is called with an input and an empty folder; `seeds` are inputs to begin with."""

    run: Callable[[bytes, Path], None]
    seeds: Callable[[], list[bytes]]


def parts(data: bytes, count: int) -> list[bytes]:
    found = data.split(SPLIT, count - 1)
    return found + [b""] * (count - len(found))


# The command line

def words(data: bytes) -> list[str]:
    return data.decode(errors="surrogateescape").split("\n")


STUBS = {"hdfast.trainer.train": None, "hdfast.commands.dry_run.dry_run": None,
         "hdfast.commands.sweep.sweep": True, "hdfast.commands.doctor.doctor": 0,
         "hdfast.bench.run.bench": 0, "hdfast.commands.reproduce.reproduce": True,
         "hdfast.report.build._write": Path("index.html")}


def walk_within(folder: Path) -> Callable[..., Iterable]:
    """os.walk that finds nothing outside of a folder: through a whole disk it takes as long as the disk is large."""
    real, inside = os.walk, folder.resolve()
    return lambda top, *args, **options: real(top, *args, **options) if Path(top).resolve().is_relative_to(
        inside) else ()


def command(data: bytes, folder: Path) -> None:
    """A whole command line; what would work for long, or write somewhere, is replaced."""
    from hdfast import bench, evaluation, trainer  # noqa: F401
    from hdfast.bench import run  # noqa: F401
    from hdfast.commands import doctor, dry_run, reproduce, sweep  # noqa: F401
    said = io.StringIO()
    patches = [mock.patch(name, lambda *_, value=value, **__: value) for name, value in STUBS.items()]
    patches += [mock.patch("time.sleep", side_effect=KeyboardInterrupt), mock.patch("os.walk", walk_within(folder))]
    with chdir(folder), redirect_stdout(io.StringIO()), redirect_stderr(said):
        for patch in patches:
            patch.start()
        try:
            code = cli.main(words(data))
        finally:
            for patch in patches:
                patch.stop()
    error = said.getvalue()
    assert code in (0, 1, 2, 130) and "Traceback" not in error
    assert code in (0, 130) or (error.startswith("hdfast: error: ") and error.count("\n") == 1), error


# A run's files

def checkpoints(data: bytes, folder: Path) -> None:
    """manifest.json, tensors.safetensors."""
    manifest, tensors = parts(data, 2)
    path = folder / "000000000010"
    path.mkdir()
    (path / checkpoint.TENSORS).write_bytes(tensors)
    with suppress(ValueError, RecursionError, AttributeError, TypeError):
        body = json.loads(manifest)
        for name, value in {"bytes": len(tensors), "sha256": hashlib.sha256(tensors).hexdigest()}.items():
            if body.get(name) == AUTO:
                body[name] = value
        if body.pop("checksum", None) == AUTO:
            manifest = json.dumps({"checksum": checkpoint.text_digest(body), **body}).encode()
    (path / checkpoint.MANIFEST).write_bytes(manifest)
    with suppress(checkpoint.Damaged, RunError):
        found = checkpoint.load(path)
        spaces(found.manifest)
        manifest = directory.run_manifest(found, Schedule(20, 4, Fraction(1, 2)), 2)
        assert manifest["step"] == 10 and 0 <= manifest["updates"] <= 3 and 0 <= manifest["evaluated"] <= 10
        np.random.PCG64().state = manifest["prefill_rng"]
        rng.from_text(manifest["replay_rng"])
    with suppress(RunError):
        assert checkpoint.latest(folder).step == 10


def replay(data: bytes, folder: Path) -> None:
    """Manifest of the checkpoint, header of the chunk, its records."""
    manifest, header, records = parts(data, 3)
    held = Replay(64, 1, *SPACES, directory=folder, seed=0)
    layout = held._store.layouts[1 if b'"version": 1' in header else 2]
    size, crc = layout.record.itemsize, 0
    whole = bytearray(records[:len(records) // size * size])
    for i in range(0, len(whole), size):
        whole[i:i + 8] = (i // size).to_bytes(8, "little")
        crc = zlib.crc32(whole[i:i + size - 4], crc)
        whole[i + size - 4:i + size] = crc.to_bytes(4, "little")
    header = header.ljust(layout.header_bytes - 1)[:layout.header_bytes - 1] + b"\n"
    (folder / "chunk-000000000000.bin").write_bytes(header + whole + records[len(whole):])
    try:
        found = json.loads(manifest.replace(b'"auto"', str(crc).encode()))
    except (ValueError, RecursionError):
        found = None
    try:
        held.restore(found)
        with suppress(RuntimeError):  # too few steps
            held.sample(2, 2)
        held.flush()
    except RunError:
        pass
    finally:
        held.close()


# Seeds

FORMAT_1 = {"obs_shape": [64, 64, 3], "obs_dtype": "uint8", "actions": 6}


def checkpoint_seed(kind: dict = FORMAT_1) -> bytes:
    """`kind` is what it says of observations and actions."""
    from safetensors.torch import save
    tensors = save({"weight": torch.zeros(2, 2), "rng/act": torch.zeros(3, dtype=torch.uint8)})
    run = {"step": 10, "updates": 3, "episodes": 2, "evaluated": 8, "best_score": 1.5, "best_eval": None,
           "last_score": -1, **kind, "replay_rng": "00ff",
           "replay": {"format": 1, "steps": 5, "oldest": 0, "chunks": []}, "prefill_rng": np.random.PCG64(0).state,
           "records": {"eval.jsonl": {"bytes": 3, "crc": 7}}, "config": {"seed": 1}}
    manifest = {"checksum": AUTO, "format": checkpoint.FORMAT, "step": 10, "bytes": AUTO, "sha256": AUTO,
                "manifest": run}
    return json.dumps(manifest).encode() + SPLIT + tensors


def huge_checkpoint_seed() -> bytes:
    """A file that says it holds 2^60 numbers."""
    head = json.dumps({"weight": {"dtype": "F32", "shape": [1 << 30, 1 << 30], "data_offsets": [0, 1 << 62]}}).encode()
    return checkpoint_seed().split(SPLIT)[0] + SPLIT + len(head).to_bytes(8, "little") + head


def replay_seed(version: int) -> bytes:
    """`version` is that of the format."""
    kind = {"obs_shape": [3], "obs_dtype": "float32"} if version == 1 else described(*SPACES)
    size = 33 if version == 1 else 37
    head = dict(magic="hdfast-replay", version=version, num_envs=1, **kind, record_bytes=size, first=0)
    chunk = {"name": "chunk-000000000000.bin", "first": 0, "records": 4, "crc": AUTO}
    if version == 2:
        chunk["format"] = 2
    manifest = {"format": version, "steps": 4, "oldest": 0, "chunks": [chunk]}
    return SPLIT.join([json.dumps(manifest).encode(), json.dumps(head).encode(), bytes(range(size)) * 4])


LINES = ["train\n--configs\ncpu\n--task=pong\n--run.steps\n5000\n--no-harmony",
         "configs\n--diff\nsmall\nlarge+cpu\n--json",
         "sweep\n--tasks\natari26\n--seeds\n0-4,7\n--logdir=runs/{task}",
         "report\nruns\n--scores\na.json\n--bootstrap=100",
         "report\n--published\n--watch\n5", "eval\nruns\n--video\nx.gif\n--checkpoint=best", "watch\n.\n--once",
         "--version",
         "reproduce\n~no.such.user/run\n--logdir=new", "bench\n--only=ops\n--json\n-", "train\n--help"]

TARGETS = {
    "command": Target(command, lambda: [line.encode() for line in LINES]),
    "checkpoint": Target(checkpoints, lambda: [checkpoint_seed(), checkpoint_seed(described(*SPACES)),
                                               huge_checkpoint_seed()]),
    "replay": Target(replay, lambda: [replay_seed(1), replay_seed(2)]),
}


def run_once(name: str, data: bytes, folder: Path) -> None:
    """One input of a target, in a folder that is made for it and removed."""
    place = folder / f"{name}-{os.getpid()}"
    place.mkdir()
    try:
        TARGETS[name].run(data, place)
    finally:
        shutil.rmtree(place)
