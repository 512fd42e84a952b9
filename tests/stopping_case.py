"""`hdfast train` with one part made slow: python stopping_case.py PART FLAGS... prints "busy" when it is in there."""

import hashlib
import sys
import threading
import time

from hdfast.cli import main


def busy(wait):
    """A function that says so, and waits."""
    def call(*args, **kwargs):
        print("busy", flush=True)
        wait()
    return call


def native(*args, **kwargs) -> None:
    """Minutes in native code: no signal handler of Python's runs, but other threads do, one of which says "busy"."""
    threading.Timer(1.0, print, ("busy",), {"flush": True}).start()
    hashlib.pbkdf2_hmac("sha512", b"", b"", 10**9)


def after(real, count: int, then):
    """`real` for `count` calls, then `then`."""
    left = iter(range(count))
    return lambda *args, **kwargs: (real if next(left, None) is not None else then)(*args, **kwargs)


def slow_down(part: str) -> None:
    if part in ("update", "native"):
        from hdfast.world_model import WorldModel
        slow = native if part == "native" else busy(lambda: [time.sleep(0.2) for _ in range(600)])
        WorldModel.forward = after(WorldModel.forward, 5, slow)
    elif part == "behaviour":
        from hdfast.learner import Learner
        Learner.critic_gradient = after(Learner.critic_gradient, 5, busy(lambda: [time.sleep(0.2) for _ in range(600)]))
    elif part == "environment":
        from hdfast.envs.dummy import DummyDoor
        DummyDoor.recv = after(DummyDoor.recv, 60, busy(threading.Event().wait))
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
