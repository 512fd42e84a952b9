"""Requests to stop a run: SIGINT, SIGTERM, SIGHUP, or its time limit. docs/reliability.md lists the promises."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGHUP: the terminal is gone
AGAIN = 0.5  # seconds: a SIGINT that follows sooner is the same request, sent by a terminal and by a launcher


class Stopped(BaseException):
    """Something asked the run to stop; unfinished work does not count.

    No Exception, since a signal raises it anywhere, also in code that continues after exceptions.
    """


class Stopping:
    """Requests to stop a run: by a signal, or `seconds` from now (0: no limit)."""

    def __init__(self, seconds: float = 0.0):
        self.signal: int | None = None
        self._limit, self._began = seconds, monotonic()
        self._interruptible = False

    def reason(self) -> str | None:
        """SIGINT, SIGTERM, SIGHUP, run.max_seconds, or None."""
        if self.signal is not None:
            return signal.Signals(self.signal).name
        return "run.max_seconds" if self._limit and monotonic() - self._began >= self._limit else None

    def check(self) -> None:
        """Raise Stopped if there is a reason to."""
        if self.reason():
            raise Stopped

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A block in which a signal raises Stopped at once."""
        self._interruptible = True  # before the check: a signal comes before it or interrupts
        try:
            self.check()
            yield
        finally:
            self._interruptible = False

    def leave(self) -> None:
        """End the process as the signal would have, if there was one: KeyboardInterrupt or SystemExit."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT, SIGTERM and SIGHUP (except under `nohup`) as requests. A second SIGINT ends the process at once,
        even if the main thread is busy.

        Only the main thread can listen; elsewhere this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        watcher = threading.Thread(target=_watch, args=(reader,), daemon=True)
        watcher.start()
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        before = {number: signal.signal(number, self._ask) for number in SIGNALS
                  if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            os.close(writer)
            watcher.join()
            os.close(reader)

    def _ask(self, number: int, _: object) -> None:
        self.signal = number if self.signal is None else self.signal
        if self._interruptible:
            self._interruptible = False
            raise Stopped


def _watch(reader: int) -> None:
    """End the process at the second SIGINT; Python's own handlers wait until the main thread leaves native code."""
    first: float | None = None
    while numbers := os.read(reader, 64):
        for number in numbers:
            if first is None and number in SIGNALS:
                first = monotonic()
                _say("\nhdfast: stopping, everything is saved first; Ctrl-C again exits at once\n")
            elif number == signal.SIGINT and monotonic() - first > AGAIN:
                _say("\x1b[?25h" if os.isatty(2) else "")  # the progress line hid the cursor
                os._exit(128 + signal.SIGINT)


def _say(text: str) -> None:
    try:
        os.write(sys.__stderr__.fileno(), text.encode())
    except (OSError, AttributeError, ValueError):  # nobody reads it
        pass
