"""The errors that a user can meet, faults of the machine in plain words, the hint for a misspelled name, and untrusted
text made harmless."""

import difflib
import errno
from collections.abc import Iterable


class ConfigError(ValueError):
    """A setting the user gave cannot be used (exit code 2)."""


class RunError(RuntimeError):
    """A run cannot start or continue, or a file cannot be used (exit code 1)."""


class EnvError(RunError):
    """An environment failed: it raised, hung, or gave a number that is not finite."""


REFUSALS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)
NO_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


def of_the_machine(error: Exception) -> str:
    """What happened and what to do, if an error is the machine's (no memory, no disk space, no more open files, a
    package that cannot be imported) and not a bug of this program; else ''."""
    text = str(error).partition("\n")[0]
    if isinstance(error, MemoryError) or any(words in text for words in NO_MEMORY):
        return (f"out of memory ({text or 'the system has no more'}); lower --run.batch_size, --run.batch_length, "
                "--replay.capacity, the number of environments or the sizes of the model, or free some memory")
    if isinstance(error, OSError) and error.errno in REFUSALS:
        where = f" ({error.filename})" if error.filename else ""
        return f"the system refused: {error.strerror}{where}; see `df` and `ulimit -a`, then run the same command again"
    if isinstance(error, ImportError) and error.name and error.name.partition(".")[0] != "hdfast":
        return f"cannot import {error.name} ({text}); install hdfast again, which installs the packages that it needs"
    return ""


def spelled_out(text: str) -> str:
    """The text with control characters and undecodable bytes as escapes, lines kept: safe for a terminal and a file."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def cell(text: str) -> str:
    """The text as a cell of a CSV file: what a spreadsheet would take for a formula gets an apostrophe before it."""
    try:
        float(text)
    except ValueError:
        return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
    return text


def nearest(name: str, known: Iterable[str]) -> str:
    """", did you mean ...?" for the closest known name, or an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean '{match[0]}'?" if match else ""
