"""The two errors a user can meet, the hint that goes with a misspelt name, and text from strangers made harmless."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A setting the user gave cannot be used (exit code 2)."""


class RunError(RuntimeError):
    """A run cannot start or go on, or a file cannot be used (exit code 1)."""


class EnvError(RunError):
    """An environment failed: it raised, hung, or gave a number that is not finite."""


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
