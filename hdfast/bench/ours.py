"""The measured process of this project: `python -m hdfast.bench.ours PRESET BACKEND THREADS PRECISION`.

BACKEND is reference (plain PyTorch), compile (the reference under torch.compile, part by part) or native; PRECISION is
fp32 or bf16. Cases: `update`, the loops and the ops. An update starts from uint8 images and draws its own uniforms, as
in training.
"""

import sys
from collections.abc import Callable

import numpy as np
import torch

from hdfast import ops
from hdfast.agent import Agent
from hdfast.bench import cases, serve, workload
from hdfast.config import Config
from hdfast.envs import Step
from hdfast.errors import ConfigError
from hdfast.learner import Learner, Uniforms
from hdfast.machine import git_revision, keep_memory
from hdfast.model.world_model import Sequences
from hdfast.replay.ring import Batch
from hdfast.replay.sequences import Replay
from hdfast.spaces import ActSpace, Box, Discrete, ObsSpace

BACKENDS = ("reference", "compile", "native")
PRECISIONS = ("fp32", "bf16")
PACKAGES = ("hdfast", "torch", "numpy")
CPU = torch.device("cpu")


def native_is_there() -> bool:
    """Whether the native library can be selected in this process."""
    try:
        with ops.use("native"):
            return True
    except ConfigError:
        return False


def tensors(config: Config, device: torch.device = CPU) -> tuple[torch.Tensor, Callable[[torch.Tensor], Sequences]]:
    """The synthetic batch: images (T, B, h, w, c) uint8, and what makes Sequences of them."""
    data = {name: torch.from_numpy(value).to(device) for name, value in workload.synthetic(config).items()}
    previous = torch.cat([torch.zeros_like(data["action"][:1]), data["action"][:-1]])
    cont = 1 - data["is_terminal"]
    rows = torch.arange(data["reward"].numel(), device=device).view_as(data["reward"])
    return data["image"], lambda image: Sequences({"image": ops.replay_gather(image.flatten(0, 1), rows)}, previous,
                                                  data["reward"], cont, data["is_first"])


def build_learner(config: Config, device: torch.device = CPU) -> Learner:
    torch.manual_seed(workload.SEED)
    return Learner(*spaces(config), config, device)


def spaces(config: Config) -> tuple[ObsSpace, ActSpace]:
    """RGB images and the actions of the workload."""
    actions = Box(workload.NUMBERS) if workload.continuous(config) else Discrete(workload.ACTIONS)
    return ObsSpace.single((config.env.size, config.env.size, 3), "uint8"), actions


def agent_and_batch(config: Config, device: torch.device) -> tuple[Agent, Batch]:
    """An agent, and a batch from a replay of random steps."""
    (space, actions), rng = spaces(config), np.random.default_rng(workload.SEED)
    run, no = config.run, np.zeros(1, bool)
    replay = Replay(run.batch_length + 8, 1, space, actions, directory=None, seed=workload.SEED, learner=device)
    for i in range(run.batch_length + 8):
        obs = {"image": rng.integers(0, 256, (1, *space.parts[0].shape), dtype=np.uint8)}
        replay.add(Step(obs, np.zeros(1, np.float32), np.full(1, i == 0), no, no), actions.random(rng, 1))
    agent = Agent(space, actions, config, device=device)
    return agent, replay.sample(run.batch_size, run.batch_length)


def compile_parts(learner: Learner) -> None:
    """Compile the parts of the reference. The whole update would be unrolled over all steps: minutes to hours."""
    model, behavior = learner.world_model, learner.actor_critic
    for part in (model.encoder, model.decoder, model.reward, model.cont, behavior.actor, behavior.critic,
                 behavior.slow):
        part.compile(fullgraph=True)
    model.rssm.obs_step = torch.compile(model.rssm.obs_step)
    model.rssm.img_step = torch.compile(model.rssm.img_step)


def update(learner: Learner, config: Config) -> serve.Work:
    """One whole learner update on the synthetic batch."""
    generator = torch.Generator().manual_seed(workload.SEED)
    image, sequences = tensors(config)
    length, batch, m = config.run.batch_length, config.run.batch_size, config.model

    def run() -> None:
        u = Uniforms.draw(length, batch, config.behavior.horizon, m.stoch, learner.actor_critic.actor,
                          generator=generator)
        learner.update(sequences(image), u)

    return run


def build(case: cases.Loop, config: Config, backend: str) -> serve.Work:
    """An update or a loop with a learner of its own."""
    learner = build_learner(config)
    if backend == "compile":
        compile_parts(learner)
    return case(learner, config)


def all_cases(config: Config, backend: str) -> serve.Cases:
    """{case: builder}: `update`, every loop and every op in every mode it has."""
    out = {name: lambda case=case: build(case, config, backend)
           for name, case in ({"update": update} | cases.LOOPS).items()}
    for name, op in cases.operations(config).items():
        for mode in op.modes:
            out[f"{name}.{mode}"] = lambda op=op, mode=mode: op.build(mode, compiled=backend == "compile").run
    return out


def main(preset: str, backend: str, threads: str, precision: str) -> None:
    torch.set_num_threads(int(threads))
    keep_memory()  # as training does
    ops.set_backend("native" if backend == "native" else "reference")
    config = workload.sized(preset, precision=precision, backend="native" if backend == "native" else "reference")
    found = {"hdfast": git_revision() or "unknown"} | serve.versions(PACKAGES)
    serve.serve(all_cases(config, backend), found)


if __name__ == "__main__":
    main(*sys.argv[1:])
