"""`hdfast train` with one slow part: python stopping_case.py PART FLAGS... prints "busy" when it is in there."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hdfast.cli import main
from hdfast.run import stopping
from programs import ROOT


@contextmanager
def training(part: str, config, **environment: str) -> Iterator[subprocess.Popen]:
    """This program as a process that is in its slow part; killed at the end of the block, if not before."""
    words = [f"--{name}={value}" for name, value in config.flat().items()]
    process = subprocess.Popen([sys.executable, __file__, part, "train", *words], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | environment)
    try:
        lines = []
        while (line := process.stdout.readline()) and line != "busy\n":
            lines.append(line)
        assert line == "busy\n", (lines, process.communicate())
        yield process
    finally:
        process.kill()
        process.communicate()


def busy(wait):
    """A function that says so, and waits."""
    def call(*args, **kwargs):
        print("busy", flush=True)
        wait()
    return call


def native(*args, **kwargs) -> None:
    """Minutes in native code: no signal handler of Python runs, but other threads do; one says "busy"."""
    clock = time.pthread_getcpuclockid(threading.get_ident())

    def tell() -> None:
        began = time.clock_gettime(clock)
        while time.clock_gettime(clock) < began + 0.5:
            time.sleep(0.05)
        print("busy", flush=True)

    stopping.monotonic = lambda: 60.0 * Path(os.environ["LATER"]).exists()
    threading.Thread(target=tell, daemon=True).start()
    hashlib.pbkdf2_hmac("sha512", b"", b"", 2**31 - 1)


def after(real, count: int, then):
    """`real` for `count` calls, then `then`."""
    left = iter(range(count))
    return lambda *args, **kwargs: (real if next(left, None) is not None else then)(*args, **kwargs)


def slow_down(part: str) -> None:
    if part in ("update", "native"):
        from hdfast.model.world_model import WorldModel
        real = WorldModel.forward
        slow = native if part == "native" else lambda *args: busy(lambda: time.sleep(1.5))() or real(*args)
        WorldModel.forward = after(real, 5, slow)
    elif part == "environment":
        from hdfast.envs.dummy import DummyBackend
        DummyBackend.recv = after(DummyBackend.recv, 80, busy(threading.Event().wait))
    elif part == "evaluation":
        from hdfast.agent import Agent
        act, calls = Agent.act, []

        def slow(self, step, state, generator=None):
            if generator is not None:
                calls.append(1) or len(calls) > 1 or print("busy", flush=True)
                time.sleep(0.3)
            return act(self, step, state, generator)
        Agent.act = slow


if __name__ == "__main__":
    slow_down(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
