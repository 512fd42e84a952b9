"""What the files of a run share: bounded reading, folder fsync, disk errors in plain words, the lock of a run."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hdfast.errors import ConfigError, RunError

LOCK = ".lock"  # in a run directory; held by flock while a process trains there
READ_LIMIT = 64 << 20  # bytes of a settings, state or score file
REMEDIES = {
    errno.ENOSPC: "Free some space on that disk, then run the same command again.",
    errno.EDQUOT: "The disk quota is used up: free some space, then run the same command again.",
    errno.EACCES: "Give this user permission there, or choose another --logdir.",
    errno.EPERM: "Give this user permission there, or choose another --logdir.",
    errno.EROFS: "The file system is read-only: choose another --logdir.",
}


@contextmanager
def disk_errors(doing: str, path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a RunError "cannot <doing> <path>: <reason>. <remedy>"."""
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno, "Check the disk and the path, or choose another --logdir.")
        raise RunError(f"cannot {doing} {path}: {error.strerror or error}. {remedy}") from error


def read_bounded(path: Path, limit: int = READ_LIMIT) -> bytes:
    """The content of a regular file; OSError for anything else (reading a pipe waits, a device has no end) and for more
    than `limit` bytes."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit} bytes")
    return data


def is_folder(path: Path) -> bool:
    """Whether a path is a folder that can be looked at; no name, however long or strange, is an error."""
    try:
        return path.is_dir()
    except OSError:
        return False


def expanded(text: str) -> Path:
    """The path a user gave, a leading ~ expanded; ConfigError for the home of a user who is not there."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"the path {text} begins with the home of an unknown user; write it out, or put ./ before "
                          "it") from error


def sync_directory(path: Path) -> None:
    """Make the names inside a folder durable: files created, renamed or deleted there."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether a process holds the run directory at `path`."""
    try:
        with open(path / LOCK, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
