"""Replay on disk: append-only chunk files that outlive a killed process.

A chunk is a 512-byte JSON header, padded with spaces, followed by fixed-size little-endian records. A record
is one time step of all environments: {index, action, reward, flags, obs, crc}. `crc` is the CRC-32 of the
record's other bytes, continued from the previous record of the chunk (0 before the first), so that the last
record's crc vouches for all before it; the manifest holds that number. What lies behind the manifest's last
record was never flushed and is cut off by `rewind`. Nothing here is ever unpickled.
"""

import json
import os
import re
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hdfast.errors import RunError
from hdfast.run import fields
from hdfast.run.durable import disk_errors, make_directory, regular, sync_directory, write_all

FORMAT = 1
HEADER_BYTES = 512
CHUNK_BYTES = 32 << 20  # a chunk's size; at 64x64x3 that is 2,726 steps
READ_BYTES = 2 << 20  # read at a time when loading: stays in the cache between checksum and copy
CHUNK_NAME = re.compile(r"chunk-([0-9]{12})\.bin")
START_OVER = "Bring the file back from a copy, or start over with another --logdir."


@dataclass
class Chunk:
    """`records` steps from step `first` on; `crc` is that of the last one."""

    first: int
    records: int
    crc: int

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


class ChunkStore:
    """The chunk files of one run in `directory` (created if missing), written by one process.

    `flush` deletes the chunks of evicted steps, but keeps those that its manifest or one of the two before
    needs: while a checkpoint is being written, the two older ones may still be taken. So flush once per
    checkpoint.
    """

    def __init__(self, directory: Path, num_envs: int, obs_shape: tuple[int, ...], obs_dtype: str, *,
                 chunk_bytes: int = CHUNK_BYTES):
        self.directory = directory
        obs_type = np.dtype(obs_dtype).newbyteorder("<")
        self.record = np.dtype([
            ("index", "<i8"), ("action", "<i4", (num_envs,)), ("reward", "<f4", (num_envs,)),
            ("flags", "u1", (num_envs,)), ("obs", obs_type, (num_envs, *obs_shape)), ("crc", "<u4")])
        self._kind = dict(magic="hdfast-replay", version=FORMAT, num_envs=num_envs, obs_shape=list(obs_shape),
                          obs_dtype=obs_dtype, record_bytes=self.record.itemsize)
        self._per_chunk = max(1, chunk_bytes // self.record.itemsize)
        self._scratch = np.zeros(1, self.record)
        self._scratch_bytes = self._scratch.view(np.uint8).data
        self._chunks: list[Chunk] = []  # oldest first; the last one is appended to
        self._next = self._flushed = 0  # index of the next record, now and at the last flush
        self._file: Any = None  # unbuffered, open on the last chunk
        self._recent: deque[int] = deque(maxlen=3)  # first index needed by each of the last three manifests
        self._ready = False
        with disk_errors("create", self.directory):
            make_directory(self.directory)

    def append(self, obs: np.ndarray, action: np.ndarray, reward: np.ndarray, flags: np.ndarray) -> None:
        """Append one step of all environments; after a RunError (disk full ...) the step is not there."""
        if not self._ready:
            self._refuse_leftovers()
        with disk_errors("write the replay in", self.directory):
            chunk = self._open_chunk()
            self._scratch[0] = (self._next, action, reward, flags, obs, 0)
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
        if manifest["format"] != FORMAT:
            raise RunError(f"the replay in {self.directory} has format {manifest['format']}, this hdfast reads "
                           f"{FORMAT}. Use the one that wrote it, or choose another --logdir.")
        steps, oldest, end = manifest["steps"], manifest["oldest"], None
        chunks = [Chunk(entry["first"], entry["records"], entry["crc"]) for entry in manifest["chunks"]]
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

    def read(self, index: Index) -> Iterator[np.ndarray]:
        """Yield the records in order, in checked blocks of about 2 MiB; a block is valid until the next one.

        Raises RunError naming file and remedy if a chunk is missing, short, damaged or of another kind.
        """
        block = np.empty(max(1, READ_BYTES // self.record.itemsize), self.record)
        for chunk in index.chunks:
            path, crc, need = self.directory / chunk.name, 0, self._size(chunk)
            with disk_errors("read", path), open(path, "rb", opener=regular) as file:
                head, size = file.read(HEADER_BYTES), os.fstat(file.fileno()).st_size
                if head != self._header(chunk):
                    raise RunError(f"replay chunk {path} begins with {head.strip()!r:.200}, this run expects "
                                   f"{self._header(chunk).strip()!r}: it is damaged, or of another run or version. "
                                   f"{START_OVER}")
                if size < need or (size > need and chunk is not index.chunks[-1]):
                    raise RunError(f"replay chunk {path} has {size} bytes, expected {need} for {chunk.records} steps "
                                   f"of {self.record.itemsize} bytes. {START_OVER}")
                for start in range(0, chunk.records, len(block)):
                    part = block[:min(len(block), chunk.records - start)]
                    if file.readinto(part.view(np.uint8)) != part.nbytes:
                        raise RunError(f"replay chunk {path} shrank while it was read. {START_OVER}")
                    crc = self._check_records(path, part, chunk.first + start, crc)
                    yield part
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
        if self._chunks and self._chunks[-1].records < self._per_chunk:
            if self._file is None:
                file = (self.directory / self._chunks[-1].name).open("ab", buffering=0)
                file.truncate(self._size(self._chunks[-1]))
                self._file = file
            return self._chunks[-1]
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
        return json.dumps({**self._kind, "first": chunk.first}).encode().ljust(HEADER_BYTES - 1) + b"\n"

    def _size(self, chunk: Chunk) -> int:
        return HEADER_BYTES + chunk.records * self.record.itemsize

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
        size, data = self.record.itemsize, records.view(np.uint8).data
        expected = np.empty(len(records), np.uint32)
        for i in range(len(records)):
            crc = zlib.crc32(data[i * size:(i + 1) * size - 4], crc)
            expected[i] = crc
        wrong = (records["crc"] != expected) | (records["index"] != np.arange(first, first + len(records)))
        if wrong.any():
            raise RunError(f"replay chunk {path} is damaged: step {first + int(wrong.argmax())} does not "
                           f"match its checksum. {START_OVER}")
        return crc

