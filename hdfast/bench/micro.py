"""What the performance model assumes about the hardware, each as one small measurement.

Exchanges between thread blocks, reads of the L2 cache and launches inside graphs are measured by bench/micro.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hdfast.bench.serve import Work

DTYPES = {"tf32": torch.float32, "bf16": torch.bfloat16}
REPEATS = 100  # dependent runs in one measurement of something short


@dataclass(frozen=True)
class Micro:
    """A measurement: what runs, how often inside one run, how seconds become its figure, and the assumed figure."""

    run: Work
    repeats: int
    unit: str
    figure: Callable[[float], float]
    assumed: float | None


def microseconds(seconds: float) -> float:
    return 1e6 * seconds


def tera(amount: float) -> Callable[[float], float]:
    """Of FLOP or bytes per run, in 10^12 per second."""
    return lambda seconds: 1e-12 * amount / seconds


def chain(step: Work) -> Work:
    def run() -> None:
        for _ in range(REPEATS):
            step()

    return run


def matmuls(dtype: torch.dtype, name: str, large: int, many: int) -> dict[str, Micro]:
    """Products of one scan step and of a head on a trajectory of `many` states, and one as fast as the machine goes."""
    a, w = torch.randn(16, 1024, dtype=dtype), torch.randn(1024, 1536, dtype=dtype)
    out = torch.empty(16, 1536, dtype=dtype)
    big = torch.randn(large, large, dtype=dtype)
    rows, kernel = (torch.randn(*shape, dtype=dtype) for shape in ((many, 1536), (1536, 512)))
    return {
        f"product 16 x 1536 x 1024, {name}": Micro(chain(lambda: torch.mm(a, w, out=out)), REPEATS, "us",
                                                   microseconds, 4.5),
        f"product {large}^3, {name}": Micro(lambda: big @ big, 1, "TFLOP/s", tera(2 * large ** 3),
                                            {"tf32": 400.0, "bf16": 800.0}[name]),
        f"product {many} x 512 x 1536, {name}": Micro(lambda: rows @ kernel, 1, "us", microseconds,
                                                    37.0 if name == "bf16" else None)}


def convolutions(dtype: torch.dtype, name: str, images: int) -> dict[str, Micro]:
    """Each layer of encoder and decoder in channels-last: forward, input gradient, weight gradient."""
    out = {}
    for side, a, b in ((64, 3, 32), (32, 32, 64), (16, 64, 128), (8, 128, 256)):
        for transposed in (False, True):
            ins, outs, size = (b, a, side // 2) if transposed else (a, b, side)
            label = f"{'deconv' if transposed else 'conv'} {size}, {ins}->{outs}, {name}"
            x = torch.randn(images, ins, size, size, dtype=dtype).to(memory_format=torch.channels_last)
            shape = (ins, outs, 4, 4) if transposed else (outs, ins, 4, 4)
            w = torch.randn(shape, dtype=dtype).to(memory_format=torch.channels_last)
            call = F.conv_transpose2d if transposed else F.conv2d
            flop = 2 * 16 * images * (side // 2) ** 2 * a * b
            out |= {f"{label} {way}": Micro(run, 1, "TFLOP/s", tera(flop), None)
                    for way, run in convolution(call, x, w, transposed).items()}
    return out


def convolution(call: Callable, x: Tensor, w: Tensor, transposed: bool) -> dict[str, Work]:
    dy = torch.ones_like(call(x, w, stride=2, padding=1))

    def gradient(mask: list[bool]) -> Work:
        return lambda: torch.ops.aten.convolution_backward(dy, x, w, None, [2, 2], [1, 1], [1, 1], transposed, [0, 0],
                                                           1, mask)

    return {"forward": lambda: call(x, w, stride=2, padding=1), "input gradient": gradient([True, False, False]),
            "weight gradient": gradient([False, True, False])}


def all_micro(device: torch.device, *, small: bool = False) -> dict[str, Micro]:
    """Every measurement; `small` shrinks the tensors, to see that all of them run."""
    with device:  # where all tensors are made
        one = torch.zeros(1)
        memory = torch.empty((1 << 20) if small else (1 << 28))
        half = len(memory) // 2
        out = {
            "dependent graph node": Micro(chain(lambda: one.add_(1)), REPEATS, "us", microseconds, 1.2),
            "copy of 512 MiB": Micro(lambda: memory[:half].copy_(memory[half:]), 1, "TB/s", tera(8 * half), 3.0)}
        for name, dtype in DTYPES.items():
            out |= matmuls(dtype, name, *((64, 16) if small else (8192, 15360)))
            out |= convolutions(dtype, name, 2 if small else 1024)
    return out
