"""Tapes: on the CPU, what CUDA graphs are on a GPU.

A function of tensors is recorded once, op by op as torch's dispatcher sees them: forward pass, backward pass and
optimizers become one flat list of ops. Playing it runs the same ops on the same memory in the same order, so every
number is the same, without modules, autograd and checks. As with a graph, tensors from outside must keep their memory,
and Python may decide nothing but by the shapes of the inputs.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from hdfast import ops
from hdfast.cuda_graph import KEPT, WARMUP, Watch, inner, watched
from hdfast.errors import RunError

ALIASES = {torch.ops.aten.detach.default, torch.ops.aten.alias.default}


class Tape(Watch):
    """One run of a function as a list of ops; a mode of dispatch while it records. `first` is what that run returned.

    RunError names an op that no tape can hold.
    """

    def __init__(self, function: Callable[..., Any], inputs: tuple[Tensor, ...]):
        super().__init__(torch.device("cpu"))
        self._lines: list[tuple[list[str], str, set[str], bool]] = []  # results, call, tensors it reads, has an effect
        self._fixed: dict[str, Any] = {}  # values from outside, which the tape keeps alive
        self._names: dict[int, str] = {}  # theirs, by id
        self._numbers = itertools.count()
        self._made: set[int] = set()  # memory that ops of the recording allocated
        inputs = tuple(x.detach() for x in inputs)
        for i, x in enumerate(inputs):
            x._tape = self, f"x{i}"
        with watched(self):
            self.first = function(*inputs)
        outputs, self._tree = tree_flatten(self.first)
        results = [self._name(x) for x in outputs]
        lines = [f"def play({', '.join(f'x{i}' for i in range(len(inputs)))}):", *reversed([*self._body({*results})]),
                 f"return [{', '.join(results)}]"]
        exec(compile("\n ".join(lines), "<tape>", "exec"), self._fixed)
        self._play = self._fixed["play"]
        del self._lines, self._names, self._made

    def __call__(self, *inputs: Tensor) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return tree_unflatten(self._play(*inputs), self._tree)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if inner(func):  # the watch opens it: its ops come here one by one
            return super().__torch_dispatch__(func, types, args, kwargs)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        reads = {self._name(x) for x in tensors}
        words = [*map(self._word, args), *(f"{name}={self._word(x)}" for name, x in (kwargs or {}).items())]
        out = super().__torch_dispatch__(func, types, args, kwargs)
        results = [*out] if isinstance(out, tuple | list) else [] if out is None else [out]
        if func in ALIASES:
            out._tape = self, *reads
        elif func.is_view and reads <= self._fixed.keys() and {*map(memory, results)} <= {*map(memory, tensors)}:
            # The same view whenever it is played; some that may be views are copies.
            for x in results:
                self._name(x)
        else:
            names = [self._result(x) for x in results]
            call = f"{self._word(func._op)}({', '.join(words)})"
            if any(name != "_" for name in names):
                call = f"{', '.join(names)}{',' * isinstance(out, tuple | list)} = {call}"
            self._lines.append((names, call, reads, func._schema.is_mutable))
        return out

    def _result(self, x: Tensor | None) -> str:
        """A name for what an op made; `_` for what it wrote to."""
        if x is None or self._known(x):
            return "_"
        self._made.add(memory(x))
        x._tape = self, f"v{next(self._numbers)}"
        return self._name(x)

    def _known(self, x: Tensor) -> bool:
        return id(x) in self._names or getattr(x, "_tape", (None, ""))[0] is self

    def _name(self, x: Any) -> str:
        """The name of a tensor or of another value, which is from outside if no op has made it."""
        tape, name = getattr(x, "_tape", (None, ""))
        if tape is self:
            return name
        if id(x) not in self._names:
            if isinstance(x, Tensor) and x.numel() and memory(x) in self._made:
                raise RunError("a tensor of the recording comes back in a way that the recording does not see")
            self._names[id(x)] = f"k{len(self._names)}"
            self._fixed[self._names[id(x)]] = x
        return self._names[id(x)]

    def _word(self, x: Any) -> str:
        """A value as source code."""
        if isinstance(x, tuple | list):
            return f"[{', '.join(map(self._word, x))}]"
        return repr(x) if x is None or type(x) in (bool, int) else self._name(x)

    def _body(self, wanted: set[str]) -> Iterator[str]:
        """The lines from the last to the first, without those that nobody reads; a tensor goes after its last use."""
        for names, call, reads, effect in reversed(self._lines):
            if effect or not wanted.isdisjoint(names):
                if gone := [name for name in {*names, *reads} - wanted if name[0] == "v"]:
                    yield f"del {', '.join(gone)}"
                yield call
                wanted |= reads


def memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


class Taped:
    """A function of tensors that runs `WARMUP` times and is then recorded and played, for each shape of its inputs.

    The reference backend is never recorded: it is what everything else is compared with.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self._tapes: dict[tuple, int | Tape] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        if ops.backend() != "native":
            return self.function(*inputs)
        key = tuple((x.shape, x.stride(), x.dtype) for x in inputs)
        tape = self._tapes.pop(key, 0)
        if isinstance(tape, Tape):
            outputs = tape(*inputs)
        elif tape < WARMUP:
            tape, outputs = tape + 1, self.function(*inputs)
        else:
            tape = Tape(self.function, inputs)
            outputs = tape.__dict__.pop("first")
        self._tapes[key] = tape  # the newest last
        if len(self._tapes) > KEPT:
            del self._tapes[next(iter(self._tapes))]
        return outputs
