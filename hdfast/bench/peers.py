"""The other Dreamers: where their environments are, and what of their update is not the same as ours.

The programs that measure them live in bench/peers of the source tree; `bench/peers/install.py` makes the environments.
Standard library only: peers read this file too.
"""

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "bench" / "peers"


@dataclass(frozen=True)
class Peer:
    """One peer: its framework, whose versions are reported, and how it differs."""

    framework: str
    packages: tuple[str, ...]
    differs: str


PEERS: dict[str, Peer] = {
    "sheeprl": Peer(
        "torch", ("sheeprl", "torch", "lightning", "numpy"),
        "same network, sizes and optimizers; no harmony; its metrics are computed, not aggregated"),
    "torchrl": Peer(
        "torch", ("torchrl", "torch", "tensordict", "numpy"),
        "the later DreamerV3: RMS norms, biases, a GRU cell without norm, no learned initial state, 5 x 5 kernels "
        "(it takes odd sizes only); one fused Adam for all, without gradient clip; no harmony; without its replay "
        "value loss; it has no learner of its own, bench/peers puts its parts together"),
    "dreamer": Peer(
        "jax", ("dreamer", "jax", "jaxlib", "ninjax", "numpy"),
        "the later DreamerV3: RMS norms, biases, a GRU in 8 blocks behind three input layers, a decoder input in 8 "
        "blocks; one optimizer for all with adaptive clipping; no harmony; without its replay value loss; one XLA "
        "program, compiled before the measurement; threads by CPU affinity"),
}


def folder() -> Path:
    """Where the environments are: HDFAST_PEERS, or hdfast/peers in the user's cache."""
    chosen = os.environ.get("HDFAST_PEERS")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen).expanduser() if chosen else Path(cache) / "hdfast" / "peers"


def python(name: str) -> Path:
    """Interpreter of a peer's environment."""
    return folder() / name / "bin" / "python"


def script(name: str) -> Path:
    """The program that measures a peer."""
    return SCRIPTS / f"{name}_update.py"


def lock(name: str) -> Path:
    """The requirements of a peer's environment: every package in it, in one version each."""
    return SCRIPTS / f"{name}.txt"
