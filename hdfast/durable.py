"""What the files of a run share: folder fsync, disk errors in plain words, the lock of a run directory."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hdfast.errors import RunError

LOCK = ".lock"  # in a run directory; held by flock while a process trains there
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
