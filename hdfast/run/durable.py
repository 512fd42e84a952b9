"""What the files of a run share: bounded reading, folder fsync, disk errors in plain words, the lock of a run."""

import errno
import fcntl
import json
import os
import platform
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from hdfast.errors import RunError

LOCK = ".lock"  # in a run directory; held by flock while a process trains there
READ_LIMIT = 64 << 20  # bytes of a settings, state or score file
LOCK_WAIT = 0.5  # seconds; is_held has the lock for an instant, which must not turn a run away
REMEDIES = {
    errno.ENOSPC: "Free some space on that disk, then run the same command again.",
    errno.EDQUOT: "The disk quota is used up: free some space, then run the same command again.",
    errno.EACCES: "Give this user permission there, or choose another --logdir.",
    errno.EPERM: "Give this user permission there, or choose another --logdir.",
    errno.EROFS: "The file system is read-only: choose another --logdir.",
}


@contextmanager
def disk_errors(doing: str, path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a RunError "cannot <doing> <path>: <reason> (<file>). <remedy>"."""
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno, "Check the disk and the path, or choose another --logdir.")
        inside = f" ({error.filename})" if error.filename and str(error.filename) != str(path) else ""
        raise RunError(f"cannot {doing} {path}: {error.strerror or error}{inside}. {remedy}") from error


def regular(path: str, flags: int, *, follow: bool = False) -> int:
    """An opener for `open`: OSError for what is no regular file (reading a pipe waits, a device has no end) and, unless
    `follow`, for a link, which could lead what is written to another file of the user's."""
    try:
        handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW), 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise OSError(errno.EINVAL, "it is a link or a pipe, where a regular file belongs", path) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return handle


def read_bounded(path: Path, limit: int = READ_LIMIT) -> bytes:
    """The content of a regular file; OSError for anything else and for more than `limit` bytes."""
    with open(path, "rb", opener=partial(regular, follow=True)) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit} bytes")
    return data


def write_all(file: Any, data: bytes | memoryview) -> None:
    """Write every byte to an unbuffered file, which may take fewer at a time."""
    done = 0
    while done < len(data):
        done += file.write(data[done:])


def sync_directory(path: Path) -> None:
    """Make the names inside a folder durable: files created, renamed or deleted there."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(path: Path) -> None:
    """Make a folder, and those above it that are missing, with durable names; one that is there is left alone."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_directory(folder.parent)


class Lock:
    """The lock of the run directory `path`, held by one process at a time, whose pid and host its file tells.

    The system frees it when the process ends, however it ends. `left` is the holder before, {pid, host}, where that
    one was killed, else None. Raises RunError where another process has it or the file system has no locks, OSError
    where the file cannot be written.
    """

    def __init__(self, path: Path):
        self._file = open(path / LOCK, "a+b", buffering=0, opener=regular)
        try:
            self._take(path)
            self.left = lock_holder(path)
            self._file.truncate(0)
            self._file.write(json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())
        except BaseException:
            self._file.close()
            raise

    def _take(self, path: Path) -> None:
        deadline = time.monotonic() + LOCK_WAIT
        while True:
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = lock_holder(path)
                    who = "pid {pid} on host {host}".format(**holder) if holder else f"{path / LOCK} does not say which"
                    raise RunError(f"another process ({who}) is training in {path}; wait for it, stop it, or choose "
                                   "another --logdir") from None
            except OSError as error:
                raise RunError(f"cannot lock {path / LOCK}: {error.strerror}. Choose a --logdir on a file system with "
                               "file locks (flock)") from error
            time.sleep(0.05)

    def close(self) -> None:
        """Give up the lock; a second call does nothing."""
        if not self._file.closed:
            with suppress(OSError):
                self._file.truncate(0)
            self._file.close()


def lock_holder(path: Path) -> dict[str, Any] | None:
    """{pid, host} of the process that has or had the lock of a run directory; None where its file does not tell."""
    try:
        with open(path / LOCK, "rb", opener=regular) as file:
            found = json.loads(file.read(4096))
        if type(found["pid"]) is int and isinstance(found["host"], str):
            return {"pid": found["pid"], "host": found["host"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def is_held(path: Path) -> bool:
    """Whether a process holds the run directory at `path`."""
    try:
        with open(path / LOCK, "rb", opener=regular) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
