"""What a person watches: the progress line of a run, the table of many. Rich is imported here alone."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hdfast.run.durable import disk_errors, regular, write_all

REFRESH = 0.1  # seconds between redraws of the live line
Segment = tuple[str, str]  # text, rich style


class ProgressLine:
    """The line a person watches: live on a terminal, one plain line per log interval elsewhere, mirrored to a file."""

    def __init__(self, mirror: Path, *, task: str, action_repeat: int):
        self._task, self._repeat, self._print = task.removeprefix("atari_"), action_repeat, True
        self._mirror_path = mirror
        with disk_errors("open", mirror):
            # With a buffer, closing would fail again on a full disk.
            self._mirror = open(mirror, "ab", buffering=0, opener=regular)
        self._eta = Eta()
        self._drawn, self._plain = -math.inf, ""
        self._scalars: Mapping[str, float] = {}
        self._score: tuple[float | None, float | None] = (None, None)
        self._live = _live()

    def show(self, agent_step: int, total_steps: int, update: int, scalars: Mapping[str, float] | None = None,
             score: float | None = None, best: float | None = None) -> None:
        """Show how far the run is, cheap enough for every step; steps are agent steps.

        Redraws the live line at most ten times a second. A call with `scalars` (the last log row) is a log interval:
        it also writes one plain line to console.log and, where there is no live line, to standard output.
        """
        now = time.monotonic()
        self._eta.add(now, agent_step, update)
        if scalars is None and (self._live is None or now - self._drawn < REFRESH):
            return
        self._drawn = now
        self._scalars = self._scalars if scalars is None else scalars
        self._score = (self._score[0] if score is None else score, self._score[1] if best is None else best)
        left = self._eta.seconds_left(now, agent_step, total_steps)
        segments = line_segments(self._task, agent_step * self._repeat, total_steps * self._repeat, left,
                                 self._scalars, *self._score)
        self._plain = "  ".join(text for text, _ in segments)
        self._draw(lambda live: live.update(_styled(segments), refresh=True))
        if scalars is not None:
            self._write(self._plain)
            if not self._live:
                self._say(self._plain)

    def message(self, text: str) -> None:
        """Print a note above the live line and into the mirror."""
        self._write(text)
        if self._live:
            self._draw(lambda live: live.console.print(text, highlight=False, markup=False))
        else:
            self._say(text)

    def finish(self) -> None:
        """Take the live line down, leaving its last state as an ordinary line: what is said from now on is below it."""
        if self._live:
            self._draw(lambda live: live.stop())
            self._live = None
            if self._plain:
                self._say(self._plain)

    def close(self) -> None:
        """Finish, and close the mirror."""
        self.finish()
        self._mirror.close()

    def _draw(self, draw: Callable[[Any], None]) -> None:
        """Do something with the live line, if there is one."""
        if self._live:
            try:
                draw(self._live)
            except OSError:  # the terminal is gone
                self._live, self._print = None, False

    def _say(self, text: str) -> None:
        if self._print:
            try:
                print(text, flush=True)
            except (OSError, ValueError):  # the reader is gone, or an environment closed it; console.log has every line
                self._print = False

    def _write(self, text: str) -> None:
        with disk_errors("write", self._mirror_path):
            write_all(self._mirror, f"{text}\n".encode(errors="replace"))


class Eta:
    """Seconds left, by the later half of the steps since this start: evaluations count, the distant past does not.

    There is none before the first update: the random steps before it say nothing.
    """

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()
        self._began = 0.0
        self._update: int | None = None

    def add(self, now: float, agent_step: int, update: int) -> None:
        """Note the progress at time `now` in seconds; prefill is forgotten when the first update comes."""
        first_update = self._update == 0 and update > 0
        if self._update is None or first_update:
            self._points.clear()
            self._began = now
        self._update = update
        if not self._points or now - self._points[-1][0] >= REFRESH:
            self._points.append((now, agent_step))
        while len(self._points) > 2 and self._points[1][0] < (self._began + now) / 2:
            self._points.popleft()

    def seconds_left(self, now: float, agent_step: int, total_steps: int) -> float | None:
        """Estimate at time `now`; None while nothing is known."""
        if agent_step >= total_steps:
            return 0.0
        if not self._points or not self._update:
            return None
        then, step = self._points[0]
        if now - then < 1 or agent_step <= step:
            return None
        return (total_steps - agent_step) * (now - then) / (agent_step - step)


def line_segments(task: str, frames: int, total: int, left: float | None, scalars: Mapping[str, float],
                  score: float | None, best: float | None) -> list[Segment]:
    """The parts of the progress line, most important first, each with its rich style; what is not known is left out."""
    parts = [(task, "bold")] if task else []
    parts += [(f"{compact(frames)}/{compact(total)} frames", ""), (f"{100 * frames // max(total, 1)}%", "bold"),
              (f"{'?' if left is None else duration(left)} left", "")]
    if score is not None:
        parts.append((f"score {points(score)}" + ("" if best is None else f" (best {points(best)})"), "green"))
    speeds = (("fps/policy", "policy {} fps"), ("fps/train", "train {} upd/s"))
    parts += [(text.format(compact(scalars[name])), "cyan") for name, text in speeds if name in scalars]
    losses = (("img", "train/loss/image"), ("rew", "train/loss/rew"),
              ("kl", "train/kl" if "train/kl" in scalars else "train/loss/dyn"))
    shown = [f"{label} {number(scalars[name])}" for label, name in losses if name in scalars]
    parts += [(" ".join(shown), "yellow")] if shown else []
    coeffs = [scalars[name] for name in (f"train/harmony/{term}_coeff" for term in ("rew", "image", "kl"))
              if name in scalars]
    parts += [("harmony " + "/".join(f"{c:.2g}" for c in coeffs), "magenta")] if coeffs else []
    return parts


def compact(value: float) -> str:
    """1900 -> 1.9k, 10400 -> 10.4k, 162000 -> 162k; 0.44 -> 0.4, 61.2 -> 61."""
    size = abs(value)
    unit, letter = (1e6, "M") if size >= 999_500 else (1e3, "k") if size >= 999.5 else (1, "")
    value /= unit
    text = f"{value:.1f}" if abs(value) < (99.95 if letter else 9.95) else f"{value:.0f}"
    return text.removesuffix(".0") + letter


def number(value: float) -> str:
    """A loss: 0.41, 1.8, 31.2, 1,234."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 10 else f"{value:.2g}"


def points(score: float) -> str:
    """A score: 14.2, 1,234."""
    return f"{score:,.0f}" if abs(score) >= 1000 else f"{score:.1f}"


def short(value: float) -> str:
    """Of an axis: 1500 is 1.5K, 2000000 is 2M."""
    for size, letter in ((1e6, "M"), (1e3, "K")):
        if abs(value) >= size:
            return f"{value / size:.6g}{letter}".replace("-", "\N{MINUS SIGN}")
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
    """45s, 18m, 2h05m, 1d03h."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 59.5:
        return f"{seconds:.0f}s"
    if minutes < 60:
        return f"{minutes}m"
    return f"{minutes // 60}h{minutes % 60:02d}m" if hours < 24 else f"{hours // 24}d{hours % 24:02d}h"


class LiveTable(AbstractContextManager):
    """A table on a terminal, redrawn in place; usable as a context manager, which leaves its last state standing."""

    STATES = MappingProxyType({"failed": "red", "died": "red", "retried": "yellow", "running": "green",
                               "finished": "cyan"})

    def __init__(self, header: Sequence[str], live: Any):
        self._header, self._live = header, live

    @classmethod
    def on_terminal(cls, header: Sequence[str]) -> "LiveTable | None":
        """The table, or None where standard output is no terminal."""
        live = _live(transient=False)
        return live and cls(header, live)

    def show(self, title: str, rows: Sequence[Sequence[str]]) -> None:
        """Draw the rows; columns after the third are numbers. What does not fit on the screen is left out."""
        from rich.table import Table
        from rich.text import Text  # of a plain string rich would read [brackets] as markup

        table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
        for i, name in enumerate(self._header):
            table.add_column(name, justify="right" if i > 2 else "left", no_wrap=True)
        for row in rows:
            table.add_row(*map(Text, row), style=self.STATES.get(row[2], ""))
        self._live.update(table, refresh=True)

    def message(self, text: str) -> None:
        """Print a note above the table."""
        self._live.console.print(text, highlight=False, markup=False)

    def __exit__(self, *_: object) -> None:
        self._live.stop()


def text_table(rows: Sequence[Sequence[str]], right: Container[int] = ()) -> str:
    """Rows as aligned columns of plain text, two spaces apart; the columns `right` align on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) if place in right else cell.ljust(width)
                               for place, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
                     for row in rows)


def _live(*, transient: bool = True) -> Any:
    """A started rich live display on a terminal, else None; a transient one disappears when it stops."""
    from rich.console import Console
    from rich.live import Live

    console = Console(file=sys.stdout)
    if not console.is_terminal or console.is_dumb_terminal:
        return None
    live = Live(console=console, auto_refresh=False, transient=transient)
    live.start()
    return live


def _styled(segments: Sequence[Segment]) -> Any:
    from rich.text import Text

    line = Text(no_wrap=True, overflow="ellipsis")
    for i, (text, style) in enumerate(segments):
        line.append("  " * (i > 0)).append(text, style=style)
    return line
