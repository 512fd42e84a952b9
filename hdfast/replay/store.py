"""Replay on disk: append-only chunk files that outlive a killed process.

A chunk is a JSON header of a multiple of 512 bytes, padded with spaces, followed by fixed-size little-endian records. A
record is one time step of all environments: {index, action, reward, flags, obs..., crc}, with one obs per part of the
observation and encoded actions. Chunks of format 1, one obs and actions by number, are read and never written. `crc` is
the CRC-32 of the record's other bytes, continued from the previous record of the chunk (0 before the first), so that
the last record's crc vouches for all before it; the manifest holds that number. What lies behind the manifest's last
record was never flushed and is cut off by `rewind`. Nothing here is ever unpickled.
"""

import json
import os
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hdfast.errors import RunError
from hdfast.run import fields
from hdfast.run.durable import disk_errors, make_directory, regular, sync_directory, write_all
from hdfast.spaces import ActSpace, Discrete, ObsSpace, Part, described

FORMAT = 2
HEADER_BLOCK = 512
CHUNK_BYTES = 32 << 20  # a chunk's size; at 64x64x3 that is 2,726 steps
READ_BYTES = 2 << 20  # read at a time when loading: stays in the cache between checksum and copy
CHUNK_NAME = re.compile(r"chunk-([0-9]{12})\.bin")
START_OVER = "Bring the file back from a copy, or start over with another --logdir."


@dataclass
class Chunk:
    """`records` steps from step `first` on in records of a format; `crc` is that of the last one."""

    first: int
    records: int
    crc: int
    format: int = FORMAT

    @property
    def name(self) -> str:
        return f"chunk-{self.first:012d}.bin"

    @property
    def end(self) -> int:
        return self.first + self.records


@dataclass(frozen=True)
class Index:
    """A checked manifest: steps oldest..steps-1 of every environment, and the chunks that hold them."""

    steps: int
    oldest: int
    chunks: list[Chunk]


@dataclass(frozen=True)
class Layout:
    """How a format writes a step: what a chunk's header says of it, the record, and its columns as `Ring.write` takes
    them."""

    kind: dict[str, Any]
    record: np.dtype
    columns: Callable[[np.ndarray], tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]]

    @property
    def header_bytes(self) -> int:
        """Length of a chunk's header, the same for every first step."""
        return -(-(len(json.dumps(self.kind)) + 32) // HEADER_BLOCK) * HEADER_BLOCK


def layouts(num_envs: int, obs_space: ObsSpace, act_space: ActSpace) -> dict[int, Layout]:
    """The layouts of a run by format: the present one, and the first one if its spaces fit that."""
    def layout(version: int, action: Any, parts: dict[str, Part], encode: Callable[[np.ndarray], np.ndarray],
               kind: dict[str, Any]) -> Layout:
        record = np.dtype([
            ("index", "<i8"), ("action", *action), ("reward", "<f4", (num_envs,)), ("flags", "u1", (num_envs,)),
            *((field, np.dtype(part.dtype).newbyteorder("<"), (num_envs, *part.shape))
              for field, part in parts.items()), ("crc", "<u4")])
        head = dict(magic="hdfast-replay", version=version, num_envs=num_envs, **kind, record_bytes=record.itemsize)
        return Layout(head, record, lambda x: ({part.name: x[field] for field, part in parts.items()},
                                               encode(x["action"]), x["reward"], x["flags"]))

    parts = obs_space.parts
    found = {FORMAT: layout(FORMAT, ("<f4", (num_envs, act_space.width)), {f"obs.{part.name}": part for part in parts},
                            lambda code: code, described(obs_space, act_space))}
    if len(parts) == 1 and isinstance(act_space, Discrete):
        found[1] = layout(1, ("<i4", (num_envs,)), {"obs": parts[0]}, act_space.encode,
                          {"obs_shape": list(parts[0].shape), "obs_dtype": parts[0].dtype})
    return found


class ChunkStore:
    """The chunk files of one run in `directory` (created if missing), written by one process.

    `flush` deletes the chunks of evicted steps, but keeps those that its manifest or one of the two before
    needs: while a checkpoint is being written, the two older ones may still be taken. So flush once per
    checkpoint.
    """

    def __init__(self, directory: Path, num_envs: int, obs_space: ObsSpace, act_space: ActSpace, *,
                 chunk_bytes: int = CHUNK_BYTES):
        self.directory = directory
        self.layouts = layouts(num_envs, obs_space, act_space)
        self._per_chunk = max(1, chunk_bytes // self.layouts[FORMAT].record.itemsize)
        self._scratch = np.zeros(1, self.layouts[FORMAT].record)
        self._scratch_bytes = self._scratch.view(np.uint8).data
        self._chunks: list[Chunk] = []  # oldest first; the last one is appended to
        self._next = self._flushed = 0  # index of the next record, now and at the last flush
        self._file: Any = None  # unbuffered, open on the last chunk
        self._recent: deque[int] = deque(maxlen=3)  # first index needed by each of the last three manifests
        self._ready = False
        with disk_errors("create", self.directory):
            make_directory(self.directory)

    def append(self, obs: dict[str, np.ndarray], action: np.ndarray, reward: np.ndarray, flags: np.ndarray) -> None:
        """Append one step of all environments, its actions encoded; after a RunError (disk full ...) the step is not
        there."""
        if not self._ready:
            self._refuse_leftovers()
        with disk_errors("write the replay in", self.directory):
            chunk = self._open_chunk()
            self._scratch[0] = (self._next, action, reward, flags, *obs.values(), 0)
            crc = zlib.crc32(self._scratch_bytes[:-4], chunk.crc)
            self._scratch["crc"][0] = crc
            try:
                write_all(self._file, self._scratch_bytes)
            except OSError:
                self.close()  # opening the chunk again cuts off what was half written
                raise
        chunk.records, chunk.crc = chunk.records + 1, crc
        self._next += 1

    def flush(self, oldest: int) -> dict[str, Any]:
        """Make every record durable, delete chunks nobody needs, return the JSON-able manifest of the rest.

        `oldest` is the index of the oldest step that has not been evicted.
        """
        with disk_errors("write the replay in", self.directory):
            if self._file:
                os.fsync(self._file.fileno())
            sync_directory(self.directory)
            self._chunks = [chunk for chunk in self._chunks if chunk.end > oldest]
            if self._next != self._flushed:
                self._recent.append(self._chunks[0].first)
                self._flushed = self._next
            if len(self._recent) == self._recent.maxlen:
                self._delete(path for first, path in self._files() if first < self._recent[0])
        chunks = [{"name": chunk.name, **vars(chunk)} for chunk in self._chunks if chunk.records]
        return {"format": FORMAT, "steps": self._next, "oldest": oldest, "chunks": chunks}

    def parse(self, manifest: Any) -> Index:
        """Check a manifest; raises RunError for anything that `flush` cannot have returned."""
        if said := fields.wrong(manifest, fields.REPLAY):
            raise self._damaged(said)
        steps, oldest, end = manifest["steps"], manifest["oldest"], None
        chunks = [Chunk(entry["first"], entry["records"], entry["crc"], entry.get("format", 1))
                  for entry in manifest["chunks"]]
        for unknown in {manifest["format"], *(chunk.format for chunk in chunks)} - self.layouts.keys():
            raise RunError(f"the replay in {self.directory} has format {unknown}, this run reads "
                           f"{' and '.join(map(str, self.layouts))}. Use the version that wrote it, or choose another "
                           "--logdir.")
        for chunk, entry in zip(chunks, manifest["chunks"], strict=True):
            if entry["name"] != chunk.name or not chunk.records or end not in (None, chunk.first):
                raise self._damaged(f"chunk {entry['name']!r:.60} is misnamed, empty or not the next one")
            end = chunk.end
        if steps != (end or 0) or not (chunks[0].first <= oldest < chunks[0].end if chunks else oldest == 0):
            raise self._damaged(f"the chunks do not hold exactly the steps {oldest} to {steps}")
        return Index(steps, oldest, chunks)

    @staticmethod
    def _damaged(said: str) -> RunError:
        return RunError(f"the checkpoint's replay manifest is damaged: {said}. Delete that checkpoint to continue from "
                        "the one before.")

    def read(self, index: Index) -> Iterator[tuple[int, dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]]:
        """Yield the steps in order, in checked blocks of about 2 MiB that are valid until the next one: the number of
        the first, then observations, encoded actions, rewards and flags.

        Raises RunError naming file and remedy if a chunk is missing, short, damaged or of another kind.
        """
        for chunk in index.chunks:
            layout = self.layouts[chunk.format]
            block = np.empty(max(1, READ_BYTES // layout.record.itemsize), layout.record)
            path, crc, need = self.directory / chunk.name, 0, self._size(chunk)
            with disk_errors("read", path), open(path, "rb", opener=regular) as file:
                head, size = file.read(layout.header_bytes), os.fstat(file.fileno()).st_size
                if head != self._header(chunk):
                    raise RunError(f"replay chunk {path} begins with {head.strip()!r:.200}, this run expects "
                                   f"{self._header(chunk).strip()!r}: it is damaged, or of another run or version. "
                                   f"{START_OVER}")
                if size < need or (size > need and chunk is not index.chunks[-1]):
                    raise RunError(f"replay chunk {path} has {size} bytes, expected {need} for {chunk.records} steps "
                                   f"of {layout.record.itemsize} bytes. {START_OVER}")
                for start in range(0, chunk.records, len(block)):
                    part = block[:min(len(block), chunk.records - start)]
                    if file.readinto(part.view(np.uint8)) != part.nbytes:
                        raise RunError(f"replay chunk {path} shrank while it was read. {START_OVER}")
                    crc = self._check_records(path, part, chunk.first + start, crc)
                    yield chunk.first + start, *layout.columns(part)
            if crc != chunk.crc:
                raise RunError(f"replay chunk {path} is not the one the checkpoint was saved with: its step "
                               f"{chunk.end - 1} has checksum {crc}, expected {chunk.crc}. {START_OVER}")

    def rewind(self, index: Index) -> None:
        """Go on from the manifest: cut off and delete whatever was appended after it. Call after `read`."""
        self.close()
        listed = {chunk.name for chunk in index.chunks}
        first_needed = index.chunks[0].first if index.chunks else 0
        with disk_errors("write the replay in", self.directory):
            self._delete(p for first, p in self._files() if first >= first_needed and p.name not in listed)
            if index.chunks:
                last = index.chunks[-1]
                with (self.directory / last.name).open("r+b") as file:
                    file.truncate(self._size(last))
                    os.fsync(file.fileno())
        self._chunks, self._next, self._flushed = list(index.chunks), index.steps, index.steps
        self._recent.clear()
        self._recent.append(first_needed)
        self._ready = True

    def close(self) -> None:
        """Close the open chunk; what was appended since the last flush is not durable."""
        file, self._file = self._file, None
        if file:
            file.close()

    def _open_chunk(self) -> Chunk:
        """The chunk that takes the next record, with `_file` open on its end."""
        last = self._chunks[-1] if self._chunks else None
        if last and last.records < self._per_chunk and last.format == FORMAT:
            if self._file is None:
                file = (self.directory / last.name).open("ab", buffering=0)
                file.truncate(self._size(last))
                self._file = file
            return last
        if self._file:
            os.fsync(self._file.fileno())
            self.close()
        chunk = Chunk(self._next, 0, 0)
        path = self.directory / chunk.name
        with path.open("xb", buffering=0) as file:
            try:
                write_all(file, self._header(chunk))
            except OSError:
                path.unlink()
                raise
        self._file = path.open("ab", buffering=0)
        self._chunks.append(chunk)
        return chunk

    def _header(self, chunk: Chunk) -> bytes:
        layout = self.layouts[chunk.format]
        text = json.dumps({**layout.kind, "first": chunk.first})
        return text.encode().ljust(layout.header_bytes - 1) + b"\n"

    def _size(self, chunk: Chunk) -> int:
        layout = self.layouts[chunk.format]
        return layout.header_bytes + chunk.records * layout.record.itemsize

    def _files(self) -> list[tuple[int, Path]]:
        """(first index, path) of every chunk file there is, in order."""
        matches = [CHUNK_NAME.fullmatch(path.name) for path in self.directory.iterdir()]
        return sorted((int(match[1]), self.directory / match[0]) for match in matches if match)

    def _delete(self, paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)
        sync_directory(self.directory)

    def _refuse_leftovers(self) -> None:
        with disk_errors("read", self.directory):
            found = len(self._files())
        if found:
            raise RunError(f"{self.directory} holds {found} replay chunks of an earlier run that was not "
                           "restored. Resume that run, delete the folder, or choose another --logdir.")
        self._ready = True

    def _check_records(self, path: Path, records: np.ndarray, first: int, crc: int) -> int:
        """Verify consecutive records that follow a record with checksum `crc`; returns the last one's."""
        size, data = records.itemsize, records.view(np.uint8).data
        expected = np.empty(len(records), np.uint32)
        for i in range(len(records)):
            crc = zlib.crc32(data[i * size:(i + 1) * size - 4], crc)
            expected[i] = crc
        wrong = (records["crc"] != expected) | (records["index"] != np.arange(first, first + len(records)))
        if wrong.any():
            raise RunError(f"replay chunk {path} is damaged: step {first + int(wrong.argmax())} does not "
                           f"match its checksum. {START_OVER}")
        return crc

