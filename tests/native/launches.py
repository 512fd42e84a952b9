"""How many launches a run takes: every op that computes, views and empty buffers left out."""

import contextlib
from collections import Counter
from collections.abc import Iterator

from torch.utils._python_dispatch import TorchDispatchMode

FREE = {"view", "_unsafe_view", "t", "transpose", "select", "slice", "unsqueeze", "unbind", "split_with_sizes",
        "detach", "new_empty", "empty", "empty_like"}


class Counting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        if name not in FREE:
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def launches() -> Iterator[Counter]:
    """Counts by name what runs inside."""
    with Counting() as counting:
        yield counting.names
