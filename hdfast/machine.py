"""The machine a run is on: choosing the device, keeping its memory, and the facts that go into a run's meta.json."""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from hdfast import ops, processor
from hdfast.config import Config
from hdfast.errors import ConfigError
from hdfast.ops import gemm

PACKAGES = ("hdfast", "torch", "numpy", "envpool", "ale-py", "gymnasium", "safetensors", "tensorboard", "matplotlib",
            "pillow", "rich", "imageio", "imageio-ffmpeg", "ray")


def pick_device(name: str) -> torch.device:
    """The torch device of `auto`, `cpu`, `cuda` or `cuda:N`; ConfigError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            found = f"{count} CUDA device{'s' * (count != 1)}" if count else (
                "no usable CUDA device" if torch.version.cuda else "a torch built for the CPU only")
            raise ConfigError(f"--device {name} asks for a CUDA device that is not there: found {found}; use "
                              "--device cpu or --device auto, and see `hdfast doctor`")
    return device


def prepare(config: Config, device: torch.device) -> None:
    """Set what `config` decides for the whole process: algorithms, backend, precision, threads, memory.

    `train` and the verbs of the command line call it; `load` and `evaluate` leave the caller's process alone. Raises
    ConfigError for what the device or this installation cannot do.
    """
    choose_algorithms(device, config.deterministic)
    ops.set_backend(config.backend, device)
    set_precision(config.precision, device)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    if device.type == "cpu":
        keep_memory()


def keep_memory() -> None:
    """Let the C library keep freed memory for the next allocation, for the life of this process. Linux, glibc only.

    An update on the CPU frees and allocates the same large tensors again. glibc gives each above 32 MiB back to the
    system and takes fresh zeroed pages for the next: 550,000 page faults an update at the official sizes.
    """
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def choose_algorithms(device: torch.device, deterministic: bool) -> None:
    """With `deterministic`, let torch take CUDA algorithms that always give the same bits, and raise if it has none.

    Call it before anything runs on the device: cuBLAS reads its setting once. CPU runs are deterministic anyway.
    """
    if deterministic and device.type == "cuda":
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = os.environ.get("CUBLAS_WORKSPACE_CONFIG") or ":4096:8"
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid: a launch for every empty tensor


def replay_device(name: str, learner: torch.device, size: int) -> torch.device:
    """Device of a replay of `size` bytes by the setting `name` (auto, cpu, cuda); build the learner first.

    auto is the learner's GPU if the replay takes at most half of its free memory. ConfigError for cuda with a learner
    on the CPU.
    """
    if name == "cuda" and learner.type != "cuda":
        raise ConfigError(f"--replay.device cuda keeps the replay on the learner's GPU, but the learner runs on "
                          f"{learner}; use --replay.device auto, or --device cuda")
    if name == "cpu" or learner.type != "cuda":
        return torch.device("cpu")
    fits = name == "cuda" or 2 * size <= torch.cuda.mem_get_info(learner)[0]
    return learner if fits else torch.device("cpu")


def resolve_precision(name: str, device: torch.device) -> str:
    """fp32, tf32 or bf16: what `name` means on a device; ConfigError if the device lacks it."""
    cuda = device.type == "cuda"
    if name == "auto":
        return "tf32" if cuda else "fp32"
    if name == "tf32" and not cuda:
        raise ConfigError(f"--precision tf32 is a mode of CUDA devices and this run is on {device}; use --precision "
                          "fp32, or auto, which is tf32 on CUDA and fp32 elsewhere")
    if name == "bf16" and cuda and torch.cuda.get_device_capability(device) < (8, 0):
        raise ConfigError("--precision bf16 needs a GPU of compute capability 8.0 or newer, got "
                          f"{torch.cuda.get_device_name(device)}; use --precision fp32 or auto")
    return name


def set_precision(name: str, device: torch.device) -> str:
    """Resolve a precision and allow or forbid TF32 in torch's float32 products; nothing else does that.

    tf32 allows it, and bf16 does for the products left in float32. bf16 itself is the learner's: it multiplies in
    bfloat16 if its settings say so. Warns on standard error if the processor has to emulate that.
    """
    chosen = resolve_precision(name, device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if chosen == "fp32" else "high")
        torch.backends.cudnn.allow_tf32 = chosen != "fp32"
    elif chosen == "bf16" and not multiplies_bf16():
        print(f"warning: --precision bf16 is slow here: {cpu_name()} has no bfloat16 products (AVX512_BF16, AMX), so "
              "they are emulated; --precision fp32 is faster", file=sys.stderr)
    return chosen


def multiplies_bf16() -> bool:
    """Whether this machine's processor multiplies bfloat16 natively, and may (HDFAST_CPU_ARCH)."""
    if processor.wanted() in processor.OF_TORCH:  # limited to levels without
        return False
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(_cpu_info("flags", "Features").split()))


def cpu_name() -> str:
    """Model name of the processor."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(*names: str) -> str:
    """The first entry of one of these names in Linux's description of the processor, or ''."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(names)), "")


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def package_versions() -> dict[str, str | None]:
    """Installed version of every package that a run may use; None if it is missing."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def git_revision() -> str | None:
    """Commit of the source tree this package runs from, with `-dirty` if it was changed; None outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
                              capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def facts(device: torch.device) -> dict[str, Any]:
    """Versions, commit and hardware of this process, JSON-able."""
    cuda = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if cuda else None
    return {
        "versions": {"python": platform.python_version(), **package_versions()}, "git": git_revision(),
        "platform": platform.platform(), "cpu": cpu_name(), "cores": usable_cores(),
        "torch_threads": torch.get_num_threads(), "device": str(device), "backend": ops.backend(),
        "gemm": gemm.chosen() if ops.backend() == "native" and not cuda else None,
        "gpu": properties and properties.name, "gpu_memory_bytes": properties and properties.total_memory,
        "cuda": torch.version.cuda if cuda else None,
    }
