"""The two errors a user can meet, and the hint that goes with a misspelt name."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A setting the user gave cannot be used (exit code 2)."""


class RunError(RuntimeError):
    """A run cannot start or go on, or a file cannot be used (exit code 1)."""


def nearest(name: str, known: Iterable[str]) -> str:
    """", did you mean ...?" for the closest known name, or an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean '{match[0]}'?" if match else ""
