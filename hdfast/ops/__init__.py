"""The fused operations of HarmonyDream as functions of tensors.

Ops are pure: randomness comes in as a tensor of uniforms. Every op has a definition in plain PyTorch
(`hdfast.ops.reference`), most also native code. `backend()` says which of the two runs, `set_backend` and `use` choose;
the default is 'native' if the library was built. Ops without native code run their definition under either;
`native_families()` names those that have it. Native code is for float32 (and bfloat16 if an op says so): float64
tensors, which tests use, always take the definition.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from itertools import zip_longest

import torch
from torch import Tensor, float64, strided

from hdfast.errors import ConfigError, nearest
from hdfast.ops import library, reference

# Every public function of the specification is an op.
NAMES = tuple(sorted(name for name, op in vars(reference).items()
                     if getattr(op, "__module__", "") == reference.__name__ and not name.startswith("_")))
CONTROLS = ("backend", "native_families", "set_backend", "use")
BACKENDS = ("auto", "reference", "native")

_implementation: dict[str, Callable] = {}
_backend = ""


def _dispatching(name: str) -> Callable:
    """The public function: looks up the active implementation in every call."""
    definition = getattr(reference, name)
    signature = inspect.signature(definition)
    wanted = [parameter if of.annotation is Tensor else "" for parameter, of in signature.parameters.items()]

    @functools.wraps(definition)
    def op(*args, **kwargs):
        if not args:  # all by name
            given = signature.bind(**kwargs)
            args, kwargs = given.args, given.kwargs
        for x in args:
            if not isinstance(x, Tensor) or x.dtype is float64 or x.layout is not strided:
                break
        else:
            return _implementation[name](*args, **kwargs)
        chosen = _implementation[name]
        for x, parameter in zip_longest(args, wanted[:len(args)], fillvalue=wanted[-1]):
            if isinstance(x, Tensor) and x.layout is strided:
                if x.dtype is float64:
                    chosen = definition
            elif parameter:
                raise TypeError(f"{name}: {parameter} must be a dense torch.Tensor, got {_kind(x)}; convert it")
            elif isinstance(x, dict) and any(getattr(loss, 'dtype', None) is float64 for loss in x.values()):
                chosen = definition
        return chosen(*args, **kwargs)

    op.__module__ = __name__
    return op


def _kind(value: object) -> str:
    return f"a tensor of layout {value.layout}" if isinstance(value, Tensor) else type(value).__name__


def backend() -> str:
    """Name of the implementation behind the ops: 'native' or 'reference' (plain PyTorch)."""
    return _backend


def native_families() -> dict[str, tuple[str, ...]]:
    """Families that the loaded library holds, with the public ops of each."""
    return {family.__name__.rpartition(".")[2]: tuple(family.PUBLIC) for family in library.families()}


def set_backend(name: str, device: torch.device | str | None = None) -> str:
    """Choose the implementation of all ops; returns backend().

    'auto' is 'native' if the library was built, for `device` too if one is given, else 'reference'. 'native' raises
    ConfigError if it was not: nothing falls back silently.
    """
    global _backend
    if name not in BACKENDS:
        raise ConfigError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}{nearest(name, BACKENDS)}")
    reason = "" if name == "reference" else _refusal(device)
    if name == "native" and reason:
        raise ConfigError(f"--backend native needs the native library, but {reason}; install with pip install . where "
                          f"a C++ compiler (for CUDA: nvcc) is found, or use --backend auto")
    _backend = "reference" if name == "reference" or reason else "native"
    _implementation.update({name: getattr(reference, name) for name in NAMES})
    if _backend == "native":
        _implementation.update({name: getattr(family, name) for family in library.families()
                                for name in family.PUBLIC if name in NAMES})
    return _backend


def _refusal(device: torch.device | str | None) -> str | None:
    """Why the native library cannot serve, or None."""
    if reason := library.problem():
        return reason
    if device is not None and not library.runs_on(torch.device(device)):
        return f"it was built without code for {torch.device(device).type}"
    return None


@contextlib.contextmanager
def use(name: str) -> Iterator[None]:
    """`with ops.use("reference"):` -- another implementation inside the block."""
    before = backend()
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


# Families first: importing one binds its module's name in this package, and the op of the same name must win.
library.families_here()
globals().update({name: _dispatching(name) for name in NAMES})
__all__ = [*CONTROLS, *NAMES]
set_backend("auto")
