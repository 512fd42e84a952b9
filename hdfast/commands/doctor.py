"""`hdfast doctor`: what is installed, which devices and environments there are, and whether the engine works here."""

import importlib.util
import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hdfast import ops, processor
from hdfast.agent import Agent
from hdfast.config import Config, EnvConfig
from hdfast.envs import make_envs
from hdfast.errors import RunError
from hdfast.machine import cpu_name, multiplies_bf16, package_versions, usable_cores
from hdfast.ops import library, reference
from hdfast.protocol import frames_per_step
from hdfast.replay import host
from hdfast.replay.sequences import Replay
from hdfast.run import checkpoint

DOOR_STEPS = 20
DRAWN = "dmc_walker_walk"
DISK_NEEDED = 4 * 2**30
"""Bytes of a full Atari 100K run: 1.3 GB of replay, checkpoints, records, and room to write each beside the old one."""


@dataclass(frozen=True)
class Backend:
    """One way to an environment: its import name, what installs it, and a task that goes through it."""

    name: str
    module: str
    install: str
    task: str
    setting: str = "envpool"  # of env.backend
    atari: bool = True


BACKENDS = (
    Backend("envpool", "envpool", "pip install envpool (Linux on x86-64 only)", "atari_pong", "envpool"),
    Backend("ale", "ale_py", "pip install ale-py", "atari_pong", "ale"),
    Backend("gymnasium", "gymnasium", "pip install gymnasium", "gym_CartPole-v1", atari=False),
)


@dataclass(frozen=True)
class Outcome:
    """Result of one check: PASS, FAIL or MISSING, and one line of detail."""

    name: str
    status: str
    detail: str

    def __str__(self) -> str:
        return f"{self.name:<22} {self.status:<8} {self.detail}"


def doctor() -> int:
    """Print the report; 0 if every required check passes, otherwise 1."""
    failed = []
    for title, lines in (("Versions", versions()), ("Devices", devices()), ("Build", build()),
                         ("Environments", backends()), ("Self-checks", self_checks())):
        print(f"\n{title}")
        for line in lines:  # printed as they come: a check that hangs or crashes has its predecessors above it
            print(f"  {line}", flush=True)
            if isinstance(line, Outcome) and line.status == "FAIL":
                failed.append(line.name)
    print(f"\nFAILED: {', '.join(failed)}" if failed else "\nAll required checks passed.")
    return 1 if failed else 0


def attempt(name: str, check: Callable[..., str], *args: Any) -> Outcome:
    """Run one check; whatever it raises becomes its FAIL line."""
    try:
        return Outcome(name, "PASS", check(*args))
    except Exception as error:  # a diagnosis reports every fault and goes on
        text = " ".join(str(error).split()) or "no message"
        return Outcome(name, "FAIL", f"{type(error).__name__}: {text[:300]}")


def versions() -> Iterator[str]:
    yield f"{'python':<22} {platform.python_version()} on {platform.platform()}"
    for name, version in package_versions().items():
        yield f"{name:<22} {version or 'not installed'}"


def devices() -> Iterator[str]:
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield (f"{'cpu':<22} {cpu_name()}, {usable_cores()} usable cores, {torch.get_num_threads()} torch threads, "
           f"{gigabytes(ram)} memory")
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        yield f"{f'cuda:{i}':<22} {p.name}, {gigabytes(p.total_memory)}, compute capability {p.major}.{p.minor}"
    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is a CPU build"
        yield f"{'cuda':<22} no usable device; {built}"
    bf16 = "bf16 by its own instructions" if multiplies_bf16() else "bf16 only emulated, which is slow"
    yield f"{'precision':<22} cpu: fp32 (auto), {bf16}; cuda: tf32 (auto), fp32, bf16"


def build() -> Iterator[str]:
    """Which operations run, and the native library: where it is, for what it was built, what it holds."""
    on_gpu = "CUDA kernels" if library.runs_on(torch.device("cuda")) else "plain PyTorch"
    kind = f"native: C++ on a CPU, {on_gpu} on a GPU" if ops.backend() == "native" else "reference: plain PyTorch"
    yield f"{'operations':<22} {kind}"
    if reason := library.problem():
        yield (f"{'native library':<22} none: {reason}; pip install . builds it where a C++ compiler is found, and a "
               "wheel has it")
        return
    info = library.build_info()
    yield f"{'native library':<22} {library.path()}"
    yield f"{'':<22} version {info['version']}, built with torch {info['torch']} and {info['compiler']}"
    limit = f", limited by {processor.VARIABLE}" if processor.wanted() else ", the widest that this processor has"
    yield f"{'CPU kernels':<22} {processor.kind(library.vector_width())}{limit}"
    cuda = f"CUDA {info['cuda']}: {info['archs']}" if info["cuda"] else "none: built without nvcc"
    yield f"{'CUDA kernels':<22} {cuda}"
    families = ops.native_families()
    native = {name for names in families.values() for name in names}
    yield f"{'native families':<22} {', '.join(sorted(families))}"
    if rest := sorted(set(ops.NAMES) - native):
        yield f"{'plain PyTorch in both':<22} {', '.join(rest)}"
    yield f"{'host library':<22} {'built' if host.path().exists() else 'not built'}"


def backends() -> Iterator[Outcome]:
    """One outcome per environment backend, then whether Atari can be played at all."""
    playable = False
    for backend in BACKENDS:
        if importlib.util.find_spec(backend.module) is None:
            yield Outcome(backend.name, "MISSING", backend.install)
            continue
        outcome = attempt(backend.name, open_backend, backend)
        playable |= backend.atari and outcome.status == "PASS"
        yield outcome
    if any(map(importlib.util.find_spec, ("envpool", "dm_control"))):
        yield rendering()
    if not playable:
        yield Outcome("atari", "FAIL", "no Atari backend works: install envpool or ale-py")


def open_backend(backend: Backend) -> str:
    """Play a few random steps; the rate in emulator frames per second, the start-up left out."""
    config = Config.preset(task=backend.task, **{"env.backend": backend.setting})
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    envs = make_envs(backend.task, config.env, num_envs=1, seed=0)
    try:
        envs.reset()
        ready = time.perf_counter()
        for _ in range(DOOR_STEPS):
            envs.step(envs.act_space.random(rng, 1))
        seconds = time.perf_counter() - ready
    finally:
        envs.close()
    frames = DOOR_STEPS * frames_per_step(config)
    return f"{backend.task}: {frames / seconds:,.0f} frames/s in one environment, start {ready - start:.1f} s"


def rendering() -> Outcome:
    """One image of a MuJoCo task; MISSING where nothing can draw it, which only such tasks need."""
    start = time.perf_counter()
    try:
        envs = make_envs(DRAWN, EnvConfig())
        try:
            shape = envs.reset().image.shape
        finally:
            envs.close()
    except RunError as error:
        return Outcome("rendering", "MISSING", str(error))
    return Outcome("rendering", "PASS", f"{DRAWN}: image {shape[1]} x {shape[2]}, {time.perf_counter() - start:.1f} s")


def self_checks() -> Iterator[Outcome]:
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    for name in devices:
        device = torch.device(name)
        yield attempt(f"operation on {name}", check_operation, device)
        yield attempt(f"update on {name}", check_update, device)
    yield attempt("checkpoint", check_checkpoint)
    yield attempt("disk", check_disk)


def check_operation(device: torch.device) -> str:
    """The GRU gates against their definition in float64."""
    generator, deter = torch.Generator().manual_seed(0), 33
    shapes = (7, 3 * deter), (7, deter), (3 * deter,), (3 * deter,)
    given = [torch.randn(shape, generator=generator) for shape in shapes]
    expected = reference.gru_gates(*(tensor.double() for tensor in given))
    got = ops.gru_gates(*(tensor.to(device) for tensor in given))
    error = float((got.cpu() - expected).abs().max())
    if not error < 1e-5:
        raise ArithmeticError(f"gru_gates is off by {error:.1e}, more than 1e-5; reinstall torch")
    return f"gru_gates equals its equation within {error:.0e}"


def check_update(device: torch.device) -> str:
    """One update of a tiny agent on the dummy task, twice from the same seed: finite, on the CPU bit-equal too.

    On CUDA the order of additions may change from run to run, so a difference is told and not a fault.
    """
    start = time.perf_counter()
    first, metrics = tiny_update(device)
    second, _ = tiny_update(device)
    seconds = (time.perf_counter() - start) / 2
    broken = sorted([name for name, value in metrics.items() if not math.isfinite(value)]
                    + [name for name, tensor in first.items() if not torch.isfinite(tensor).all()])
    if broken:
        raise ArithmeticError(f"not finite after one update: {', '.join(broken)}")
    unequal = sorted(name for name in first if not torch.equal(first[name], second[name]))
    if unequal and device.type == "cpu":
        raise ArithmeticError(f"two updates from one seed differ in: {', '.join(unequal)}")
    repeat = f"{len(unequal)} of {len(first)} tensors differ" if unequal else "bit-equal"
    return f"finite, {repeat} when repeated ({seconds:.1f} s each)"


def tiny_update(device: torch.device) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Agent state on the CPU after one update on a few dummy episodes, and the metrics of that update."""
    config = Config.preset("debug", task="dummy", device=str(device))
    num_envs, length = 2, config.run.batch_length
    envs = make_envs(config.task, config.env, num_envs=num_envs, seed=0)
    agent = Agent(envs.obs_space, envs.act_space, config, device=device)
    replay = Replay(config.replay.capacity, num_envs, envs.obs_space, envs.act_space, directory=None, seed=0)
    step, state = envs.reset(), agent.init_policy(num_envs)
    for _ in range(2 * length):
        action, state = agent.act(step, state)
        replay.add(step, action)
        step = envs.step(action)
    envs.close()
    agent.update(replay.sample(config.run.batch_size, length))
    return {name: tensor.cpu() for name, tensor in agent.state_dict().items()}, agent.read_metrics_sync()


def check_checkpoint() -> str:
    """A tiny checkpoint written to a temporary directory and read back."""
    tensors = {"a": torch.linspace(0, 1, 15).view(5, 3), "b": torch.arange(4), "empty": torch.zeros(0)}
    manifest = {"agent_step": 7, "text": "é"}
    with tempfile.TemporaryDirectory(prefix="hdfast-doctor-") as directory:
        checkpoint.save(Path(directory), 7, tensors, manifest)
        read = checkpoint.latest(Path(directory))
        same = read is not None and read.step == 7 and all(torch.equal(read.tensors[k], tensors[k]) for k in tensors)
        if not same or manifest.items() - read.manifest.items():
            raise OSError(f"what was read back from {directory} differs from what was written")
    return "written and read back"


def check_disk() -> str:
    """The working directory takes files and has room for a full run."""
    here = Path.cwd()
    with tempfile.TemporaryFile(dir=here) as file:
        file.write(b"hdfast")
    free = shutil.disk_usage(here).free
    if free < DISK_NEEDED:
        raise OSError(f"{gigabytes(free)} free in {here}, an Atari 100K run may need {gigabytes(DISK_NEEDED)}; point "
                      "--logdir at a larger disk")
    return f"{here} is writable, {gigabytes(free)} free"


def gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
