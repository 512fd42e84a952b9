"""Whole updates of peers beside ours on one device: the processes, and ours as one of them.

`python -m hdfast.bench.gpu_peers PRESET PRECISION DEVICE` is our measured process: an agent's update on a batch that
lies on the device, in CUDA graphs there. Peers are those that this very interpreter can import: their wheels may have
been carried to a machine without network.
"""

import importlib.util
import sys

import torch

from hdfast import ops
from hdfast.bench import peers, rows, serve, workload
from hdfast.bench.ours import PACKAGES, agent_and_batch
from hdfast.cuda_graph import WARMUP
from hdfast.machine import git_revision, set_precision, usable_cores

NAMES = ("sheeprl", "torchrl")  # `dreamer` is of a JAX that CUDA 13 has no version of
PRECISIONS = ("tf32", "bf16")  # ours; the peers take TF32


def programs(preset: str, device: str) -> list[rows.Program]:
    """What to start: ours in both precisions and every peer that can be imported."""
    command = sys.executable, "-m", "hdfast.bench.gpu_peers", preset
    found = [rows.Program(rows.OURS, "native", (*command, precision, device), precision) for precision in PRECISIONS]
    for name in NAMES:
        if importlib.util.find_spec(name) is None:
            print(f"peers: {name} is left out, it is not installed here", flush=True)
            continue
        script = str(peers.script(name))
        found.append(rows.Program(name, "torch", (sys.executable, script, preset, str(usable_cores()), device), "tf32"))
    return found


def build(preset: str, precision: str, device: str) -> serve.Work:
    """Our update, which returns when the device is done."""
    where = torch.device(device)
    ops.set_backend("auto", where)
    name = set_precision("fp32" if precision == "tf32" and device == "cpu" else precision, where)
    agent, batch = agent_and_batch(workload.sized(preset, device=device, precision=name), where)

    def update() -> None:
        agent.update(batch)
        if where.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(WARMUP + 2):
        update()
    return update


if __name__ == "__main__":
    chosen = sys.argv[1:]
    serve.serve({"update": lambda: build(*chosen)}, {"hdfast": git_revision() or "unknown"} | serve.versions(PACKAGES))
