"""Paths that a user gave, and the search for runs in the folders below one. Standard library only."""

import os
from collections.abc import Iterator
from pathlib import Path

from hdfast.errors import ConfigError

MOST_FOLDERS = 20_000  # that are searched for runs; the largest sweep has 10,000 runs, and no run is searched


def is_folder(path: Path) -> bool:
    """Whether a path is a folder that can be opened; no name is an error, however long or strange."""
    try:
        return path.is_dir()
    except OSError:
        return False


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder at or below `root` with the names of folders and files in it, as os.walk; ConfigError beyond
    MOST_FOLDERS, because a search that begins too high would read a whole disk silently."""
    for number, (where, below, files) in enumerate(os.walk(root)):
        if number == MOST_FOLDERS:
            raise ConfigError(f"looked for runs in {MOST_FOLDERS:,} folders below {root} and there are more; name a "
                              "folder nearer to the runs")
        below.sort()
        yield Path(where), below, files


def expanded(text: str) -> Path:
    """The path a user gave, a leading ~ expanded; ConfigError for what no path can be, and for the home of an
    unknown user."""
    try:
        path = Path(text).expanduser()
        os.fsencode(path)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"the path {text!r:.80} cannot be used ({error}); write it out, or put ./ before "
                          "a ~") from error
    if "\0" in text:
        raise ConfigError(f"the path {text!r:.80} holds a zero byte; leave that out")
    return path
