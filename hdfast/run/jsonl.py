"""JSON-lines records of a run: append-only, one valid object a line, whole across crashes and full disks.

Every row holds `step` in environment frames; that is what a resumed run trims by. Standard library only.
"""

import json
import math
import os
import zlib
from pathlib import Path
from typing import Any

from hdfast.run.durable import disk_errors, make_directory, read_bounded, regular, sync_directory, write_all

RECORDS = ("metrics.jsonl", "scores.jsonl", "eval.jsonl")
READ_LIMIT = 1 << 30  # bytes of records; 100,000 steps write half a megabyte


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a finite number, and fits a float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def plain(value: Any) -> Any:
    """Value as JSON types: arrays become lists, NaN and infinities become None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class JsonLines:
    """One append-only file; every row reaches the operating system before `append` returns."""

    def __init__(self, path: Path):
        self.path = path
        with disk_errors("open", path):
            self._file = open(path, "ab", buffering=0, opener=regular)
            data = content(path)
        self._size, self._crc = len(data), zlib.crc32(data)

    def append(self, row: dict[str, Any]) -> None:
        """Write one row; raises RunError, leaving no half line behind, where the file cannot grow."""
        data = json.dumps(plain(row), allow_nan=False).encode() + b"\n"
        with disk_errors("write", self.path):
            try:
                write_all(self._file, data)
            except OSError:
                if self._file.tell() > self._size:
                    self._file.truncate(self._size)
                raise
        self._size, self._crc = self._size + len(data), zlib.crc32(data, self._crc)

    def mark(self) -> dict[str, int]:
        """Put every row on the disk; returns the file's size in bytes and their CRC-32, which `rewind` takes."""
        with disk_errors("write", self.path):
            os.fsync(self._file.fileno())
        return {"bytes": self._size, "crc": self._crc}

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a file in order; a missing file gives none, and lines that are not whole JSON objects are left out."""
    with disk_errors("read", path):
        return _objects(content(path).splitlines())


def content(path: Path) -> bytes:
    """All of a file of records, b"" of what is none; OSError where it is too large."""
    return read_bounded(path, READ_LIMIT) if path.is_file() else b""


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none that can be read."""
    try:
        return _parse(read_bounded(path)) or {}
    except OSError:
        return {}


def tail(path: Path, window: int = 1 << 16) -> list[bytes]:
    """The whole lines in the last `window` bytes of a file; none where it cannot be read."""
    try:
        with open(path, "rb", opener=regular) as file:
            start = max(0, os.fstat(file.fileno()).st_size - window)
            file.seek(start)
            return file.read().splitlines()[start > 0:]
    except OSError:
        return []


def last_rows(path: Path, window: int = 1 << 16) -> list[dict[str, Any]]:
    """Rows in the last `window` bytes of a file, in order; none where it cannot be read."""
    return _objects(tail(path, window))


def rewind(path: Path, mark: dict[str, int] | None, last_step: int) -> tuple[int, str]:
    """Cut a file back to its `mark`, or to the rows up to `last_step` (frames); how many rows went, and what is wrong.

    A file that does not begin with the bytes of its mark is copied to NAME.damaged and cut by step; so is one without a
    mark, not copied. Torn lines go. A crash leaves the file before or the file after, whole.
    """
    with disk_errors("read", path):
        data = content(path)
    intact = mark is not None and len(data) >= mark["bytes"] and zlib.crc32(data[:mark["bytes"]]) == mark["crc"]
    kept = data[:mark["bytes"]] if intact else b"".join(
        line + b"\n" for line in data.splitlines() if _reached(_parse(line), last_step))
    wrong = ""
    if mark is not None and not intact and not path.is_file():
        wrong = f"{path} is missing: its rows before the checkpoint are lost"
    elif mark is not None and not intact:
        replace(path.with_name(path.name + ".damaged"), data)
        wrong = (f"{path} is damaged: it is not what the checkpoint was saved with; rows that can be read are kept, "
                 f"the file as it was is {path.name}.damaged")
    if kept != data:
        replace(path, kept)
    return len(data.splitlines()) - len(kept.splitlines()), wrong


def _reached(row: dict[str, Any] | None, last_step: int) -> bool:
    return row is not None and is_number(step := row.get("step", 0)) and step <= last_step


def replace(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one move (written beside, synced, renamed); raises RunError where it cannot."""
    beside = path.with_name(f".{path.name}.part")
    with disk_errors("write", path):
        try:
            make_directory(path.parent)
            beside.unlink(missing_ok=True)  # and never written through, if it is a link
            with open(beside, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
            sync_directory(path.parent)
        except OSError:
            beside.unlink(missing_ok=True)
            raise


def _objects(lines: list[bytes]) -> list[dict[str, Any]]:
    return [row for row in map(_parse, lines) if row is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
