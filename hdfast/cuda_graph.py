"""CUDA graphs: functions of tensors that are captured once and then replayed.

A function first runs `WARMUP` times as ordinary calls on a side stream: these are real updates or acting steps. Then it
is captured, and from then on replayed: no Python, no dispatch, one launch. Its tensors must keep their memory:
parameters and buffers do, inputs are copied into static ones, outputs are static. An exchange with other processes must
not be in a graph: the function passes it to `between`, which cuts the capture there.
"""

import ctypes
import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hdfast.errors import RunError

WARMUP = 3  # calls before a capture: they load libraries and make constant tables
KEPT = 4  # shapes whose graphs a function keeps
Function = Callable[..., Any]

# Calls that read a tensor on the host, or make one of Python values, a copy from the host.
HOST_CALLS = {torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.item, torch.Tensor.tolist,
              torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.__bool__, torch.Tensor.__float__,
              torch.Tensor.__int__, torch.Tensor.__index__}
BY_MASK = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default,
           torch.ops.aten._unsafe_index.Tensor}
COMPOSITE = torch._C.DispatchKey.CompositeExplicitAutograd
SHAPE_FROM_DATA = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}


def inner(func: torch._ops.OpOverload) -> Function | None:
    """The Python body of an op of this project that calls other ops; None for any other op."""
    if func.namespace != "hdfast" or not func.has_kernel_for_dispatch_key(COMPOSITE):
        return None
    return lambda *args, **kwargs: func._op_dk(COMPOSITE, *args, **kwargs)


class Watch(TorchDispatchMode):
    """Checks the ops of a region to capture: `last` names the newest op, `ops` counts those with work to do. RunError
    names an op that no graph can hold: one with tensors of another device, a host read, or a shape that depends on
    data."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.device, self.last, self.ops = device, "its first operation", 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.last = str(func)
        masked = func in BY_MASK
        if SHAPE_FROM_DATA & set(func.tags) and not masked:
            raise RunError(f"{func} has a shape or value that depends on data")
        if masked and any(x.dtype in (torch.bool, torch.uint8) for x in args[1] if x is not None):
            raise RunError(f"{func} by a mask has a shape that depends on data")
        self.check_devices(func, (args, kwargs))
        if opened := inner(func):
            with self:
                return opened(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        self.check_devices(func, out)
        self.ops += not func.is_view and not any(word in self.last for word in ("empty", "unsafe_view"))
        return out

    def check_devices(self, func, tree: Any) -> None:
        for x in tree_leaves(tree):
            if isinstance(x, Tensor) and x.device.type != self.device.type:
                raise RunError(f"{func} meets a tensor on {x.device} in a region on {self.device}")


class _HostCalls(TorchFunctionMode):
    """Refuses Python calls that read or make tensors on the host."""

    def __init__(self, watch: Watch):
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in HOST_CALLS:
            self.watch.last = f"torch {func.__name__}"
            raise RunError(f"{func.__name__} reads or makes a tensor on the host")
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(watch: Watch) -> Iterator[Watch]:
    """Refuse inside the block what no graph can hold; RunError names the op."""
    with _HostCalls(watch), watch:
        yield watch


@functools.cache
def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream that captures graphs of a device: graphs that share memory must share it too. Torch's own belongs
    to the device that was current at its first use."""
    return torch.cuda.Stream(device)


_cut: Callable[[Callable[[], None]], None] | None = None  # of the current capture


def between(call: Callable[[], None]) -> None:
    """Run `call` here. In a capture: leave it out, and run it at this point of every replay, between two graphs.

    Its tensors must keep their memory; it holds a reference to those that only it needs.
    """
    if _cut is None:
        call()
    else:
        _cut(call)


@contextmanager
def cutting(cut: Callable[[Callable[[], None]], None]) -> Iterator[None]:
    """Pass the calls of `between` to `cut`."""
    global _cut
    before, _cut = _cut, cut
    try:
        yield
    finally:
        _cut = before


class Recording:
    """A captured function: CUDA graphs, and the calls between them. Entering it starts the capture."""

    def __init__(self, device: torch.device, pool: Any, generators: Sequence[torch.Generator]):
        self.device, self.pool, self.generators = device, pool, generators
        self.graphs: list[torch.cuda.CUDAGraph] = []
        self.calls: list[Callable[[], None]] = []

    def __enter__(self) -> "Recording":
        self.graphs.append(torch.cuda.CUDAGraph(keep_graph=True))
        for generator in self.generators:
            self.graphs[-1].register_generator_state(generator)
        # Other threads may call CUDA: NCCL's polls its events at any time.
        self._capture = torch.cuda.graph(self.graphs[-1], pool=self.pool, stream=capture_stream(self.device),
                                         capture_error_mode="thread_local")
        self._capture.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._capture.__exit__(*error)
        if error[0] is None:
            self.graphs[-1].instantiate()

    def cut(self, call: Callable[[], None]) -> None:
        """End one graph and begin the next, with `call` between them."""
        self.__exit__(None, None, None)
        self.calls.append(call)
        self.__enter__()

    def replay(self) -> None:
        self.graphs[0].replay()
        for call, graph in zip(self.calls, self.graphs[1:], strict=True):
            call()
            graph.replay()


@contextmanager
def uncollected() -> Iterator[None]:
    """Run Python's collector now and not inside: during a capture it would destroy older graphs."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def record(function: Function, inputs: Sequence[Tensor], *, device: torch.device, pool: Any,
           generators: Sequence[torch.Generator]) -> tuple[Recording, Any]:
    """Capture function(*inputs) without running it -> the recording and the function's static outputs.

    Every replay draws new numbers from the generators, as a call would. RunError names the op that broke the capture;
    the current stream is then as before.
    """
    watch = Watch(device)
    with torch.cuda.device(device), uncollected():
        before = torch.cuda.current_stream()
        try:
            with Recording(device, pool, generators) as recording, cutting(recording.cut), _HostCalls(watch), watch:
                outputs = function(*inputs)
        except Exception as error:
            torch.cuda.set_stream(before)  # torch leaves its own current if it cannot end a broken capture
            cause = error.__context__ if isinstance(error.__context__, RunError) else error
            raise RunError(f"{watch.last} broke the capture ({' '.join(str(cause).split())})") from error
    return recording, outputs


def count_nodes(graph: torch.cuda.CUDAGraph) -> int:
    """Nodes of a captured graph, by the driver."""
    count = ctypes.c_size_t()
    status = ctypes.CDLL("libcuda.so.1").cuGraphGetNodes(ctypes.c_void_p(graph.raw_cuda_graph()), None,
                                                         ctypes.byref(count))
    if status:
        raise RunError(f"the CUDA driver cannot count the nodes of a graph: cuGraphGetNodes returned {status}")
    return count.value


@dataclass
class _Slot:
    """What a Graph knows of inputs of one shape."""

    calls: int = 0
    inputs: Sequence[Tensor] = ()
    graph: Recording | None = None
    outputs: Any = None


class Graph:
    """A function of tensors that runs `WARMUP` times and is then captured and replayed, for each shape of its inputs.

    The function returns a tuple of tensors or None. Inputs may be on the host; the graph copies them in and the outputs
    out. With `shared` it uses device inputs where they were at the capture and copies only other tensors of a later
    call there; the next call overwrites the outputs. RunError if a capture fails.
    """

    def __init__(self, function: Function, name: str, *, device: torch.device, pool: Any,
                 generators: Sequence[torch.Generator] = (), shared: bool = False):
        self.function, self.name, self.device, self.pool = function, name, device, pool
        self.generators, self.shared = generators, shared
        self._slots: dict[tuple, _Slot] = {}
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, *inputs: Tensor) -> Any:
        key = tuple((x.shape, x.dtype) for x in inputs)
        slot = self._slots.pop(key, None) or _Slot()
        self._slots[key] = slot  # the newest last
        if len(self._slots) > KEPT:
            del self._slots[next(iter(self._slots))]
        if slot.graph is None:
            slot.calls += 1
            if slot.calls <= WARMUP:
                with self._side_stream():
                    return self.function(*inputs)
            self._capture(slot, inputs)
        for static, x in zip(slot.inputs, inputs, strict=True):
            if static is not x:
                static.copy_(x, non_blocking=True)
        slot.graph.replay()
        return slot.outputs if self.shared or slot.outputs is None else tuple(x.clone() for x in slot.outputs)

    def nodes(self) -> list[int]:
        """Nodes of each captured graph, oldest use first."""
        return [count_nodes(graph) for slot in self._slots.values() if slot.graph for graph in slot.graph.graphs]

    def _capture(self, slot: _Slot, inputs: Sequence[Tensor]) -> None:
        slot.inputs = [x if self.shared and x.device == self.device
                       else torch.empty(x.shape, dtype=x.dtype, device=self.device).copy_(x) for x in inputs]
        try:
            slot.graph, slot.outputs = record(self.function, slot.inputs, device=self.device, pool=self.pool,
                                              generators=self.generators)
        except RunError as error:
            raise RunError(f"the CUDA graph of the {self.name} cannot be made: {error}; --cuda_graphs False runs it "
                           "without graphs") from error

    @contextmanager
    def _side_stream(self) -> Iterator[None]:
        """Run on a stream of our own, in order with the current one."""
        if self.device.type != "cuda":
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream(self.device).wait_stream(self._stream)


class Graphs:
    """Makes the graphs of one device that share memory: only one of them may run at a time."""

    def __init__(self, device: torch.device, enabled: bool):
        cuda = enabled and device.type == "cuda"
        # With its number, as tensors have it: a graph compares an input's device with its own.
        self.device = torch.device("cuda", torch.cuda.current_device()) if cuda and device.index is None else device
        self.enabled, self._pool = enabled, torch.cuda.graph_pool_handle() if cuda else None

    def of(self, function: Function, name: str, *, generators: Sequence[torch.Generator] = (),
           shared: bool = False) -> Function:
        """`function` as a Graph, or as it is if graphs are off; errors call it `name`."""
        if not self.enabled:
            return function
        return Graph(function, name, device=self.device, pool=self._pool, generators=generators, shared=shared)
