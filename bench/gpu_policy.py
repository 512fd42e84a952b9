"""The policy of a run in half precision: what acting needs, 14.4 MiB at the official sizes where a checkpoint has 215.

    python bench/gpu_policy.py policy.safetensors RUN     make a run folder of it that `hdfast eval --logdir RUN` plays

Encoder, RSSM and actor are rounded to float16, which has TF32's precision; everything else starts fresh, so such a run
can be evaluated and not continued.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hdfast.agent import Agent
from hdfast.config import Config
from hdfast.errors import RunError
from hdfast.run import checkpoint
from hdfast.spaces import spaces

PARTS = ("model/encoder.", "model/rssm.", "behavior/actor.")
NOTED = ("step", "updates", "obs", "action", "config")  # of a checkpoint's manifest


def pack(run: Path, file: Path) -> None:
    """Write the policy of the run's latest checkpoint; RunError where its weights do not fit float16."""
    found = checkpoint.latest(run / "ckpt")
    half = {name: x.half().contiguous() for name, x in found.tensors.items() if name.startswith(PARTS)}
    if wrong := [name for name, x in half.items() if not x.isfinite().all()]:
        raise RunError(f"{found.path}: {wrong[0]} is not finite in float16; keep the whole checkpoint")
    save_file(half, file, {"manifest": json.dumps({name: found.manifest[name] for name in NOTED})})


def unpack(file: Path, run: Path) -> None:
    """Make a run folder of a packed policy; RunError where `run` is there already."""
    if run.exists():
        raise RunError(f"{run} is there already; name a folder that is not")
    with safe_open(file, "pt") as packed:
        manifest = json.loads(packed.metadata()["manifest"])
        half = {name: packed.get_tensor(name) for name in packed.keys()}
    config = Config.from_flat(manifest["config"])
    state = Agent(*spaces(manifest), config).state_dict()
    with torch.no_grad():
        for name, x in half.items():
            state[name].copy_(x)
    run.mkdir(parents=True)
    checkpoint.save(run / "ckpt", manifest["step"], state, manifest)
    (run / "config.json").write_text(json.dumps(config.flat(), indent=2) + "\n")


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
