"""The native op library: finding it, loading it, and the raw ops of the namespace in use.

`_ops.abi3.so` is one file for every torch from 2.11 on, with or without a GPU. Loading it defines `torch.ops.hdfast.*`;
each module of this package with a list OPS is a family and adds its Python part: shapes for tracing (`register_fake`)
and derivatives (`register_pair`). The tests load a second library of the same ops under the name `hdfast_emu`: the
CUDA sources compiled for the CPU.
"""

import contextlib
import ctypes
import functools
import importlib
import itertools
import json
import os
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as transforming
from torch._C import _AutoDispatchBelowAutograd as BelowAutograd
from torch.compiler import is_compiling

from hdfast import processor

NAMESPACE = "hdfast"
FILES = {"hdfast": "_ops.abi3.so", "hdfast_emu": "_emu.abi3.so"}

_loaded: dict[str, list[ModuleType]] = {}
_raw: dict[str, dict[str, Callable]] = {}
_active = ""


def path(namespace: str = NAMESPACE) -> Path:
    """Where the library is expected: the folder HDFAST_LIBRARY_DIR names, else the installed package."""
    folder = os.environ.get("HDFAST_LIBRARY_DIR")
    if folder and (Path(folder) / FILES[namespace]).exists():
        return Path(folder) / FILES[namespace]
    return Path(__file__).resolve().parents[1] / FILES[namespace]


def problem(namespace: str = NAMESPACE) -> str | None:
    """Load the library if it is not; why it cannot be used, or None."""
    if namespace in _loaded:
        return None
    file = path(namespace)
    if not file.exists():
        return f"{file} was not built"
    try:
        load(namespace, file)
    except OSError as error:
        return f"{file} does not load: {' '.join(str(error).split())}"
    return None


def load(namespace: str, file: Path) -> None:
    """Load a library and register the families that it holds completely. ConfigError for an HDFAST_CPU_ARCH that
    cannot be followed."""
    torch.ops.load_library(str(file))
    if namespace == NAMESPACE:
        processor.check(vector_width())
    ops = getattr(torch.ops, namespace)
    found = [family for family in families_here() if all(hasattr(ops, name) for name in family.OPS)]
    _raw[namespace] = {name: getattr(ops, name).default for family in found for name in family.OPS}
    for family in found:
        family.register(namespace)
    _loaded[namespace] = found
    if not _active:
        activate(namespace)


def families_here() -> list[ModuleType]:
    """The family modules of this package: those with a list OPS."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    modules = [importlib.import_module(f"{__package__}.{name}") for name in names]
    return [module for module in modules if hasattr(module, "OPS")]


def families(namespace: str = NAMESPACE) -> list[ModuleType]:
    """The families that the library holds; none if it is not loaded."""
    return _loaded.get(namespace, [])


def activate(namespace: str) -> None:
    global _active
    _active = namespace


def active() -> str:
    """The namespace that raw ops come from now; empty if no library is loaded."""
    return _active


@contextlib.contextmanager
def namespace(name: str) -> Iterator[None]:
    """Take the raw ops from another library inside the block: `hdfast` or, in tests, `hdfast_emu`."""
    if reason := problem(name):
        raise RuntimeError(f"no library for {name}: {reason}")
    before = _active
    activate(name)
    try:
        yield
    finally:
        activate(before)


def op(name: str) -> Callable:
    """A raw op of the active namespace, with its derivative: `op("norm_act_fwd")(x, scale, bias)`."""
    return _raw[_active][name]


def raw(namespace: str) -> dict[str, Callable]:
    """The raw ops of one library by name, with their derivatives as far as they are registered."""
    return _raw[namespace]


def define(name: str, schema: str, run: Callable) -> None:
    """An op hdfast::NAME in Python, which tracing keeps whole: running it without values gives its shapes. Autocast is
    off inside: the arguments decide the types, as in a native op."""
    @functools.wraps(run)
    def call(*args):
        with torch._C._DisableAutocast():
            return run(*args)

    name = f"{NAMESPACE}::{name}"
    torch.library.define(name, schema)
    torch.library.impl(name, "default", call)
    register_fake(name, run)


def register_fake(name: str, shapes: Callable) -> None:
    """Shapes of a raw op's results for tracing, from arguments on one device: with only one of them on meta, the op
    would silently compute nothing."""
    def checked(*args, **named):
        given = (*args, *named.values())
        found = {str(t.device) for arg in given for t in (arg if isinstance(arg, list) else [arg])
                 if isinstance(t, Tensor)}
        if len(found) > 1:
            raise ValueError(f"{name}: tensors must be on one device, got {', '.join(sorted(found))}; move them")
        try:
            return shapes(*args, **named)
        except IndexError as error:
            raise ValueError(f"{name}: a tensor has too few dimensions; see the schema in docs/ops.md") from error

    torch.library.register_fake(name, checked)


def register_derivative(namespace: str, name: str, backward: Callable, setup_context: Callable,
                        count: int | None = None) -> None:
    """Register the derivative of a raw op, as `torch.library.register_autograd` takes it, for tracing and for `op`.

    What torch makes of it costs 4 us a call without a gradient and 15 with one, more than a small op itself. Outside of
    traces and transforms `op` has a Function instead, and without gradients goes straight to the kernel. If only the
    first `count` results have a derivative, autograd sees no others: each would cost it 1 us.
    """
    torch.library.register_autograd(f"{namespace}::{name}", backward, setup_context=setup_context)
    plain = _raw[namespace][name]
    lists = [str(argument.type) == "List[Tensor]" for argument in plain._schema.arguments]

    def forward(ctx, *args):
        with BelowAutograd():
            output = plain(*args)
        setup_context(ctx, args, output)
        return output

    def forward_first(ctx, others, *args):
        with BelowAutograd():
            output = plain(*args)
        setup_context(ctx, args, output)
        others += output[count:]
        return output[:count]

    def backward_first(ctx, *douts):
        return None, *backward(ctx, *douts)

    function, spread = (forward, backward) if count is None else (forward_first, backward_first), None
    if any(lists):
        *function, spread = _one_by_one(forward, backward, lists)
    methods = {name: staticmethod(part) for name, part in zip(("forward", "backward"), function, strict=True)}
    node = type(name, (torch.autograd.Function,), methods)
    apply = super(torch.autograd.Function, node).apply  # without what serves transforms alone

    def call(*args):
        if is_compiling() or transforming() or len(args) < len(lists):
            return plain(*args)
        if torch.is_grad_enabled():
            values = spread(args) if spread else args
            for x in values:
                if isinstance(x, Tensor) and x.requires_grad:
                    if count is None:
                        return apply(*values)
                    others = []
                    return *apply(others, *values), *others
        with BelowAutograd():
            return plain(*args)

    _raw[namespace][name] = call


def _one_by_one(forward: Callable, backward: Callable, lists: list[bool]) -> tuple[Callable, Callable, Callable]:
    """Both for a Function, which sees no tensors in lists: arguments and gradients one by one, and at the end how many
    each list has; and what spreads arguments so."""
    def flat(values):
        return [x for value, several in zip(values, lists, strict=True) for x in (value if several else [value])]

    def spread(args):
        return [*flat(args), [len(x) if several else None for x, several in zip(args, lists, strict=True)]]

    def forward_one_by_one(ctx, *values):
        *flat_args, ctx.lengths = values
        rest = iter(flat_args)
        return forward(ctx, *(next(rest) if n is None else [*itertools.islice(rest, n)] for n in ctx.lengths))

    def backward_one_by_one(ctx, *douts):
        return *flat(backward(ctx, *douts)), None

    return forward_one_by_one, backward_one_by_one, spread


def register_pair(namespace: str, name: str, shapes: Callable, gradient_shapes: Callable | None = None) -> None:
    """Register NAME_fwd, whose results have `shapes`, and NAME_bwd as its derivative, by what their schemas say.

    NAME_bwd takes the gradients of the first results, dx of x and so on, then arguments of NAME_fwd by name and results
    in their order, tensors before options. It returns the gradients of the first arguments: of their shapes, unless
    `gradient_shapes` says otherwise. The other results have no derivative. A gradient that is missing is None, or zeros
    like another one if the schema wants a tensor.
    """
    ops = getattr(torch.ops, namespace)
    forward, backward = getattr(ops, f"{name}_fwd").default, getattr(ops, f"{name}_bwd").default
    given, taken = ([argument.name for argument in op._schema.arguments] for op in (forward, backward))
    first = next(place for place, x in enumerate(taken) if x in given)
    names = given + [x.removeprefix("d") for x in taken[:first]]
    names += [x for x in taken[first:] if x not in names]  # further results
    places = [names.index(x) for x in taken[first:]]
    count, results = len(backward._schema.returns), len(forward._schema.returns)

    def like_arguments(*args):
        known = dict(zip(taken, args, strict=True))
        grads = [torch.empty_like(known[x], memory_format=torch.contiguous_format) for x in given[:count]]
        return tuple(grads) if count > 1 else grads[0]

    kinds = [str(argument.type) for argument in backward._schema.arguments]
    tensors = sum(kind == "Tensor" for kind in kinds[first:])
    nothing, filled = (None,) * (len(given) - count), [kind == "Tensor" for kind in kinds[:first]]

    def setup_context(ctx, inputs, output):
        known = (*inputs, *output) if results > 1 else (*inputs, output)
        known = [known[place] for place in places]
        ctx.save_for_backward(*known[:tensors])
        ctx.options = known[tensors:]
        if results > first:
            ctx.mark_non_differentiable(*output[first:])
        ctx.set_materialize_grads(False)  # or autograd makes zeros for results without gradient

    def derivative(ctx, *grads):
        dense = [grad if grad is None else grad.contiguous() for grad in grads[:first]]
        some = [grad for grad in dense if grad is not None]
        if not some:
            return (None,) * len(given)
        if len(some) < first:
            dense = [torch.zeros_like(some[0]) if grad is None and fill else grad
                     for grad, fill in zip(dense, filled, strict=True)]
        result = backward(*dense, *ctx.saved_tensors, *ctx.options)
        return (*result, *nothing) if count > 1 else (result, *nothing)

    register_fake(f"{namespace}::{name}_fwd", shapes)
    register_fake(f"{namespace}::{name}_bwd", gradient_shapes or like_arguments)
    register_derivative(namespace, f"{name}_fwd", derivative, setup_context, first if first < results else None)


def build_info() -> dict[str, str] | None:
    """How the library was built: version, torch, compiler, cuda ('' without CUDA kernels), archs. None: not loaded."""
    if NAMESPACE not in _loaded:
        return None
    call = ctypes.CDLL(str(path())).hdfast_build_info
    call.restype = ctypes.c_char_p
    return json.loads(call())


def vector_width() -> int:
    """Floats in the vectors of the CPU kernels that run here: 16, 8 or 4, limited by HDFAST_CPU_ARCH."""
    return ctypes.CDLL(str(path())).hdfast_vector_width()


def runs_on(device: torch.device) -> bool:
    """Whether the library has code for a device; meta tensors only need shapes."""
    if device.type == "cuda":
        return bool((build_info() or {}).get("cuda"))
    return device.type in ("cpu", "meta")
