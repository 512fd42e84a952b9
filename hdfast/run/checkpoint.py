"""Checkpoints: a folder each, with `tensors.safetensors` and a `manifest.json` that vouches for both.

    ckpt/000000002500/        the step; the last two are kept
    ckpt/000000002500.1/      the same step saved again
    ckpt/best-000000002500/   tagged: one per tag, only found when asked for by its tag

A checkpoint is written into a hidden folder beside, made durable, and renamed: a visible one is complete
unless it was damaged later, which checksums find. Nothing is unpickled, no file name is read from a manifest.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch

from hdfast.errors import RunError
from hdfast.run import fields
from hdfast.run.durable import disk_errors, make_directory, regular, sync_directory

FORMAT = 1
STEP_LIMIT = 10**12  # twelve digits in a checkpoint's name
MANIFEST_LIMIT = 64 << 20  # bytes; a run's manifest has about ten thousand
TENSORS, MANIFEST, TEMPORARY = "tensors.safetensors", "manifest.json", ".tmp-"
TAG = re.compile(r"[a-z]+")
NAME = re.compile(r"(?:([a-z]+)-)?([0-9]{12})(?:\.([0-9]{1,9}))?")


@dataclass
class Checkpoint:
    """A loaded checkpoint; `discarded` says in full sentences which newer ones are damaged, and how."""

    step: int
    tensors: dict[str, torch.Tensor]
    manifest: dict[str, Any]
    path: Path
    discarded: list[str] = field(default_factory=list)


class Damaged(Exception):
    """What is wrong with one checkpoint, told in a few words."""


def save(directory: Path, step: int, tensors: dict[str, torch.Tensor], manifest: dict[str, Any], *,
         tag: str | None = None) -> Path:
    """Write a checkpoint durably, then remove those it makes superfluous; returns its folder.

    Kept are this one and the newest valid one of an earlier step; with `tag`, only this one of that tag.
    Those of later steps go: a run that saves step n has resumed from before n. Tensors may have any device,
    shape and layout; `manifest` holds anything JSON. Raises RunError if the disk fails; those before are then
    still there.
    """
    if not 0 <= step < STEP_LIMIT or (tag is not None and not TAG.fullmatch(tag)):
        raise ValueError(f"checkpoint: needs 0 <= step < {STEP_LIMIT} and a tag of letters a-z or None, "
                         f"got {step} and {tag!r}")
    with disk_errors("write a checkpoint in", directory):
        make_directory(directory)
        clear_leftovers(directory)
        others = existing(directory, tag)
        again = [number for other, number, _ in others if other == step]
        name = (f"{tag}-" if tag else "") + f"{step:012d}" + (f".{max(again) + 1}" if again else "")
        beside = directory / (TEMPORARY + name)
        try:
            write(beside, step, tensors, manifest)
            discard(path for other, _, path in others if other > step)
            beside.rename(directory / name)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        sync_directory(directory)
        earlier = [path for other, _, path in others if other < step and tag is None]
        kept = next(filter(valid, reversed(earlier)), None)
        discard(path for other, _, path in others if other <= step and path != kept)
    return directory / name


def clear_leftovers(directory: Path) -> None:
    """Delete what a process left that was killed while it wrote or deleted a checkpoint; nobody else may be writing."""
    with disk_errors("clear leftovers in", directory):
        for leftover in directory.glob(TEMPORARY + "*"):
            remove(leftover)


def latest(directory: Path, *, tag: str | None = None) -> Checkpoint | None:
    """Load the newest valid checkpoint (of `tag`), tensors on the CPU; None if there is none at all.

    Damaged newer ones are named in `discarded`. Raises RunError if there are some but none is valid, if one
    has another format version, or if reading is not permitted.
    """
    found = None
    with disk_errors("read the checkpoints in", directory):
        while found != (found := existing(directory, tag)):  # again where a process that trains has replaced them all
            discarded = []
            for _, _, path in reversed(found):
                try:
                    checkpoint = load(path)
                except Damaged as error:
                    discarded.append(f"Checkpoint {path} is damaged ({error}) and was passed over.")
                else:
                    checkpoint.discarded = discarded
                    return checkpoint
    if discarded:
        raise RunError(f"no checkpoint in {directory} can be used. {' '.join(discarded)} Bring one back "
                       f"from a copy, or delete {directory} and run the command again to start over.")
    return None


def load(path: Path) -> Checkpoint:
    """Verify and load one checkpoint folder; raises Damaged, or RunError for another format version."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    body = verify(path)
    try:
        loaded = load_file(path / TENSORS)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise Damaged(f"{type(error).__name__}: {error}") from error
    # Copied, because what load_file gives is the mapped file: cut it short and the process dies of a SIGBUS.
    tensors = {name: tensor.clone() for name, tensor in loaded.items()}
    return Checkpoint(body["step"], tensors, body["manifest"], path)


def valid(path: Path) -> bool:
    """Whether a checkpoint folder is whole and of this format; reads all of it."""
    try:
        verify(path)
    except (Damaged, RunError):
        return False
    return True


def verify(path: Path) -> dict[str, Any]:
    """The content of a checkpoint's manifest, once all checksums hold; raises as `load` does."""
    if path.is_symlink() or not path.is_dir():
        raise Damaged("it is not a folder")
    with opened(path / MANIFEST) as file:
        body = parse(file.read(MANIFEST_LIMIT))
    if body.get("format") != FORMAT:
        raise RunError(f"checkpoint {path} has format {body.get('format')}, this hdfast reads {FORMAT}. "
                       "Use the version that wrote it, or start over with another --logdir.")
    if said := fields.wrong(body, fields.CHECKPOINT):
        raise Damaged(f"{MANIFEST}: {said}")
    if body["step"] != int(NAME.fullmatch(path.name)[2]):
        raise Damaged(f"{MANIFEST} is of step {body['step']}")
    with opened(path / TENSORS) as file:
        found = os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
    if found != (body["bytes"], body["sha256"]):
        raise Damaged(f"{TENSORS} has {found[0]} bytes, expected {body['bytes']}, or does not match its checksum")
    return body


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file of a checkpoint to read; Damaged where it is missing, no regular file or unreadable."""
    try:
        with open(path, "rb", opener=regular) as file:
            yield file
    except PermissionError:
        raise
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read: {error.strerror}") from error


def parse(raw: bytes) -> dict[str, Any]:
    """The verified content of a manifest file; raises Damaged."""
    try:
        body = json.loads(raw)
        intact = body.pop("checksum") == text_digest(body)
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise Damaged(f"{MANIFEST} is not readable") from error
    if not intact:
        raise Damaged(f"{MANIFEST} does not match its checksum")
    return body


def write(folder: Path, step: int, tensors: dict[str, torch.Tensor], manifest: dict[str, Any]) -> None:
    """Write both files into a new folder and make them durable."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder.mkdir()
    try:
        save_file(separate(tensors), folder / TENSORS)
    except SafetensorError as error:
        code = re.search(r"os error ([0-9]+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
    with open(folder / TENSORS, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    body = dict(format=FORMAT, step=step, bytes=(folder / TENSORS).stat().st_size, sha256=sha256, manifest=manifest)
    body = json.loads(json.dumps(body))  # as it will be read back: the checksum is of just that
    (folder / MANIFEST).write_text(json.dumps({"checksum": text_digest(body), **body}, indent=1))
    shutil.copymode(folder / MANIFEST, folder / TENSORS)  # by the umask; safetensors lets only the owner read it
    for name in (TENSORS, MANIFEST):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    sync_directory(folder)


def separate(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same values on the CPU, each contiguous and alone in its memory, as safetensors wants them."""
    out, seen = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        if not tensor.is_contiguous() or tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        seen.add(tensor.untyped_storage().data_ptr())
        out[name] = tensor
    return out


def existing(directory: Path, tag: str | None) -> list[tuple[int, int, Path]]:
    """(step, number, path) of the checkpoints there, valid or not, oldest first."""
    if not directory.exists():
        return []
    matches = [NAME.fullmatch(path.name) for path in directory.iterdir()]
    return sorted((int(m[2]), int(m[3] or 0), directory / m[0]) for m in matches if m and m[1] == tag)


def discard(paths: Iterable[Path]) -> None:
    """Delete checkpoints; each disappears at once, so that none is ever seen half deleted."""
    for path in paths:
        remove(path.rename(path.with_name(TEMPORARY + "old-" + path.name)))


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def text_digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
