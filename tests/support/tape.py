"""A stand-in for CUDA graphs on any device: it records the ops of one run and runs them again on the same tensors.

Like a graph it replays ops and no Python: a value that Python computed once stays as it was, and memory that the
function allocated is the same in every replay. Unlike a graph, recording does run the ops; `record` restores what they
changed.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hdfast import cuda_graph


def tensors(tree) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


class Tape(TorchDispatchMode):
    """Records ops with their tensors; `replay` runs them again into the tensors of the first run."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple[Callable, tuple, dict, list[Tensor]]] = []
        self.changed: dict[int, tuple[Tensor, Tensor]] = {}  # storage -> a tensor on all of it, and its first content
        self.own: set[int] = set()  # storages made while recording

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if opened := cuda_graph.inner(func):
            with self:
                return opened(*args, **kwargs)
        given = {x.untyped_storage().data_ptr() for x in tensors((args, kwargs))}
        for x in tensors((args, kwargs)) if func._schema.is_mutable else ():
            self.keep(x)
        out = func(*args, **kwargs)
        fresh = [x for x in tensors(out) if x.untyped_storage().data_ptr() not in given]
        self.own |= {x.untyped_storage().data_ptr() for x in fresh}
        self.calls.append((func, args, kwargs, fresh))
        return out

    def cut(self, call: Callable) -> None:
        """Leave `call` out of the recording here."""
        self.calls.append((None, call, {}, []))

    def keep(self, x: Tensor) -> None:
        where = x.untyped_storage().data_ptr()
        if where not in self.own and where not in self.changed:
            whole = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())
            self.changed[where] = whole, whole.clone()

    def restore(self) -> None:
        for whole, content in self.changed.values():
            whole.copy_(content)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, fresh in self.calls:
            if func is None:
                args()
                continue
            given = {x.untyped_storage().data_ptr() for x in tensors((args, kwargs))}
            out = func(*args, **kwargs)
            again = [x for x in tensors(out) if x.untyped_storage().data_ptr() not in given]
            for static, x in zip(fresh, again, strict=True):
                static.copy_(x)


def record(function: Callable, inputs: Sequence[Tensor], *, device: torch.device, pool, generators):
    """Replaces hdfast.cuda_graph.record."""
    tape, states = Tape(), [g.get_state() for g in generators]
    with cuda_graph.cutting(tape.cut), cuda_graph.watched(cuda_graph.Watch(device)), tape:
        outputs = function(*inputs)
    tape.restore()
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
    return tape, outputs
