"""A thread that waits for environments, so that its caller can stop waiting."""

import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

SLICE = 1.0  # seconds at most; time is counted in slices, so that a suspended process does not find its time over


class Worker:
    """Runs one function at a time on a daemon thread of its own.

    A function that never returns leaves the thread behind, busy forever; the process can still end.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue = SimpleQueue()
        self._results: SimpleQueue = SimpleQueue()
        self.busy = False
        self._thread = threading.Thread(target=_serve, args=(self._jobs, self._results), daemon=True,
                                        name="environments")
        self._thread.start()
        self._stop = weakref.finalize(self, self._jobs.put, None)  # ends the thread; also when nobody holds the worker

    def start(self, function: Callable, *args: Any) -> None:
        """Begin `function(*args)`; its result must be taken before the next begins."""
        self.busy = True
        self._jobs.put((function, args))

    def result(self, seconds: float = 0.0, progress: Callable[[], int] = lambda: 0) -> Any:
        """What the function returned or raised; TimeoutError when `seconds` are over since `progress` last gave another
        number, without a limit if they are 0.

        A signal handler that raises ends the wait.
        """
        span = min(SLICE, seconds / 8) if seconds else SLICE
        left, before = seconds, progress()
        while True:
            try:
                value, error = self._results.get(timeout=span)
                break
            except Empty:
                now = progress()
                left, before = left - span if now == before else seconds, now
                if seconds and left <= 0:
                    raise TimeoutError from None
        self.busy = False
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        """End the thread, and wait until it has ended unless it is busy."""
        self._stop()
        if not self.busy:
            self._thread.join(SLICE)

    def call(self, function: Callable, *args: Any, seconds: float = 0.0) -> Any:
        """`start`, then `result`."""
        self.start(function, *args)
        return self.result(seconds)


def _serve(jobs: SimpleQueue, results: SimpleQueue) -> None:
    while (job := jobs.get()) is not None:
        function, args = job
        outcome: tuple[Any, Exception | None]
        try:
            outcome = (function(*args), None)
        except Exception as error:
            outcome = (None, error)
        except BaseException as error:  # sys.exit in an environment must not end the run as if it were done
            outcome = (None, RuntimeError(f"{type(error).__name__} {error}".rstrip()))
        results.put(outcome)
        del job, function, args, outcome  # keep nothing alive while waiting
