"""Checks of the native ops' inputs, before the library sees them: what was expected, what came, what to do."""

import torch
from torch import Tensor

STORAGE = (torch.float32, torch.bfloat16)


def storage(op: str, **tensors: Tensor) -> None:
    """Activations are float32 or bfloat16; the ops compute in float32."""
    for name, x in tensors.items():
        if x.dtype not in STORAGE:
            raise TypeError(f"{op}: {name} must be float32 or bfloat16, got {_short(x.dtype)}; convert it, or compute "
                            f"in other types with hdfast.ops.use('reference')")


def dtype(op: str, expected: torch.dtype, **tensors: Tensor) -> None:
    for name, x in tensors.items():
        if x.dtype != expected:
            raise TypeError(f"{op}: {name} must be {_short(expected)}, got {_short(x.dtype)}; convert it")


def shape(op: str, expected: tuple[int, ...], meaning: str, **tensors: Tensor) -> None:
    """`meaning` says where the expected shape comes from: '(C,), the last axis of x'."""
    for name, x in tensors.items():
        if x.shape != expected:
            raise ValueError(f"{op}: {name} must have shape {tuple(expected)} = {meaning}, got {tuple(x.shape)}; "
                             f"reshape or expand it")


def _short(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def devices(op: str, **tensors: Tensor) -> None:
    """All on one device, and the loaded library has code for it."""
    for x in tensors.values():
        if not x.is_cpu:
            break
    else:
        return
    (first, x), *rest = tensors.items()
    for name, other in rest:
        if other.device != x.device:
            raise ValueError(f"{op}: {name} must be on {x.device} as {first} is, got {other.device}; move it there")
    from hdfast.ops import library
    if not library.runs_on(x.device):
        raise RuntimeError(f"{op}: {first} must be on a device that the native library has code for, got {x.device}; "
                           f"reinstall where nvcc is found (HDFAST_CUDA=1 pip install .), or compute with "
                           f"hdfast.ops.use('reference')")
