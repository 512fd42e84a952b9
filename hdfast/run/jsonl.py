"""JSON-lines records of a run: append-only, one valid object a line, whole across crashes and full disks.

Every row holds `step` in environment frames; that is what a resumed run trims by. Standard library only.
"""

import json
import math
import os
import zlib
from pathlib import Path
from typing import Any

from hdfast.run.durable import disk_errors, make_directory, read_bounded, regular, sync_directory

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
        data = left = json.dumps(plain(row), allow_nan=False).encode() + b"\n"
        with disk_errors("write", self.path):
            try:
                while left:
                    left = left[self._file.write(left):]
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
    if not path.is_file():
        return []
    with disk_errors("read", path):
        return [row for row in map(_parse, content(path).splitlines()) if row is not None]


def content(path: Path) -> bytes:
    """All of a file of records, b"" of what is none; OSError where it is too large."""
    return read_bounded(path, READ_LIMIT) if path.is_file() else b""


def last_rows(path: Path, window: int = 1 << 16) -> list[dict[str, Any]]:
    """Rows in the last `window` bytes of a file, in order; none where it cannot be read."""
    try:
        with open(path, "rb", opener=regular) as file:
            start = max(0, os.fstat(file.fileno()).st_size - window)
            file.seek(start)
            lines = file.read().splitlines()
    except OSError:
        return []
    return [row for row in map(_parse, lines[start > 0:]) if row is not None]


def rewind(path: Path, mark: Any, last_step: int) -> tuple[int, str]:
    """Cut a file back to where `mark` was made; returns how many rows went, and what is wrong with the file or ''.

    A file that does not begin with the bytes of the mark is copied to NAME.damaged, and its whole rows up to
    `last_step` (environment frames) are kept; so are those of any file where the mark is none.
    """
    size, crc = (mark.get("bytes"), mark.get("crc")) if isinstance(mark, dict) else (None, None)
    if type(size) is not int or type(crc) is not int:
        return trim(path, last_step), ""
    with disk_errors("read", path):
        data = content(path)
    if len(data) >= size and zlib.crc32(data[:size]) == crc:
        if len(data) > size:
            replace(path, data[:size])
        return len(data[size:].splitlines()), ""
    if not path.is_file():
        return 0, f"{path} is missing: its rows before the checkpoint are lost"
    replace(path.with_name(path.name + ".damaged"), data)
    return trim(path, last_step), (f"{path} is damaged: it is not what the checkpoint was saved with; rows that can be "
                                   f"read are kept, the file as it was is {path.name}.damaged")


def trim(path: Path, last_step: int) -> int:
    """Drop the rows beyond `last_step` (environment frames) and every torn line; returns how many went.

    The new file is written beside the old one and renamed, so a crash leaves one of the two, whole.
    """
    if not path.is_file():
        return 0
    with disk_errors("read", path):
        data = content(path)
    lines = data.splitlines()
    kept = [line for line in lines if (row := _parse(line)) is not None and _reached(row, last_step)]
    fixed = b"".join(line + b"\n" for line in kept)
    if fixed != data:
        replace(path, fixed)
    return len(lines) - len(kept)


def _reached(row: dict[str, Any], last_step: int) -> bool:
    step = row.get("step", 0)
    return is_number(step) and step <= last_step


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


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
