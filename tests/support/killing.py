"""Ends a process in the middle of its file operations, as kill -9 does: without any cleanup. And files that do not fit.
"""

import itertools
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POINTS = ("fsync", "rename", "unlink", "mkdir")  # of os; and shutil.rmtree
KILLED = 99
LONGEST = 300  # seconds; a child that hangs ends too


def killed_at_every_point(action: Callable[[], object]) -> Iterator[str]:
    """Run `action` in child processes, the k-th of which dies before its k-th file operation; yields after each.

    The last child lives to the end. It yields where the child died.
    """
    for k in itertools.count():
        child = os.fork()
        if not child:
            code = 1
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LONGEST)
            try:
                _die_before(k)
                action()
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, KILLED), f"the child failed by itself with exit code {code}"
        yield f"before file operation {k}" if code else "not at all"
        if not code:
            return


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Inside the block no file grows beyond `size` bytes: the kernel writes a part, then refuses."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def _die_before(k: int) -> None:
    left = iter(range(k))

    def counted(real):
        def call(*args, **kwargs):
            if next(left, None) is None:
                os._exit(KILLED)
            return real(*args, **kwargs)
        return call

    for module, name in [*((os, name) for name in POINTS), (shutil, "rmtree")]:
        setattr(module, name, counted(getattr(module, name)))
