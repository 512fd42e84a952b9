"""Whole updates and acting steps as a GPU would make them: the CUDA kernels, emulated, with every choice of CUDA.

Official figures are compared in float32; in bfloat16 test_precision.py compares with float32, over the same fixture.
Only a device has the rest: cuBLAS, cuDNN, streams and CUDA graphs, which a tape replaces here.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import golden_digest
import tape
from agent_case import captured, copied, make_agent, make_batch, make_step, unequal
from emulated import SCHEDULES, scheduled
from golden_case import Runner, load_case
from hdfast import cuda_graph
from hdfast.cuda_graph import WARMUP
from hdfast.ops import library, products
from kinds import KINDS
from learner_case import draw, make_data, make_learner
from parity_case import assert_official
from replay_stream import extended, filled

pytestmark = pytest.mark.usefixtures("emulated_gpu")
CPU = torch.device("cpu")
GOLDEN = os.environ.get("HDFAST_GOLDEN_DIR")
FILES = [path for path in sorted(Path(GOLDEN or ".").rglob("*.npz")) if path.with_suffix(".params.json").exists()]
WITHOUT = pytest.param(None, marks=pytest.mark.skip(reason="HDFAST_GOLDEN_DIR is not set"))
# Raw ops that neither learning nor acting calls: derivatives nobody needs, ops for reports, and the input of imagined
# steps with more rows than there are here (test_scan_steps.py).
UNUSED = {"gru_gates_bwd", "kl_divergence_fwd", "return_weight_bwd", "sample_latent_bwd",
          "scan_act", "symexp_bwd", "symexp_fwd", "symlog_bwd"}


def sized(name: str, *values):
    """A parameter set; of the larger sizes it is slow."""
    return pytest.param(*values, id="-".join([name, *map("-".join, values[1:])]),
                        marks=[pytest.mark.slow] if name.startswith("small") else [])


@pytest.mark.parametrize("name, schedule", [sized(name, name, schedule) for name in golden_digest.names()
                                            for schedule in SCHEDULES])
def test_official_digest(monkeypatch, name, schedule):
    """World model, imagination, actor and critic, three updates and acting, under every order of threads."""
    scheduled(monkeypatch, schedule)
    golden_digest.assert_digest(name)


@pytest.mark.parametrize("path", [sized(path.stem, path) for path in FILES] if GOLDEN else [WITHOUT])
def test_official_figures(path):
    case, official = load_case(path)
    assert_official(Runner(case).all(), official)


class Seen(TorchDispatchMode):
    """Names of the ops that run, also inside composed ones."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if opened := cuda_graph.inner(func):
            with self:
                return opened(*args, **(kwargs or {}))
        self.names.add(str(func).removesuffix(".default"))
        return func(*args, **(kwargs or {}))


def test_a_gpu_would_run_no_code_of_the_cpu_and_every_kernel():
    seen = Seen()
    for space, actions in KINDS.values():
        for precision in ("fp32", "bf16"):
            agent = make_agent(space, actions, precision=precision)
            with seen:
                agent.update(make_batch(space=space, actions=actions))
                agent.act(make_step(2, space, first=True), agent.init_policy(2))
    kernels = {f"hdfast_emu.{name}" for family in library.families("hdfast_emu") for name in family.OPS}
    assert {name for name in seen.names if name.startswith("hdfast.")} == set()
    assert kernels - seen.names == {f"hdfast_emu.{name}" for name in UNUSED}
    assert {"aten.mm.dtype", "aten.mm.dtype_out", "aten.addmm.dtype_out", "aten.bmm"} <= seen.names


def test_torch_that_cannot_add_to_float32_gets_the_same_numbers(monkeypatch):
    """Another place of a sum changes its last bits, and some roundings to bfloat16."""
    learners = []
    for adds in (True, False):
        monkeypatch.setattr(products, "accumulates", lambda device, adds=adds: adds)
        learner, seen = make_learner(precision="bf16"), Seen()
        with seen:
            learner.update(make_data(), draw())
        assert ("aten.addmm.dtype_out" in seen.names) == adds
        learners.append(learner)
    for name, arena in learners[0].optimizers.items():
        other = learners[1].optimizers[name].grad
        assert (arena.grad - other).norm() <= 1e-3 * arena.grad.norm(), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_graphs_that_draw_their_batches_and_a_resumed_run(monkeypatch, kind, precision):
    """Captured, drawing from a replay that fills and wraps; eager; and captured again from a state in between."""
    monkeypatch.setattr(cuda_graph, "record", tape.record)
    space, kind = KINDS[kind][0], KINDS[kind]
    replays = [filled(10, 20, 1, *kind, seed=5) for _ in range(2)]
    eager, graphs = make_agent(*kind, precision=precision), captured(make_agent(*kind, precision=precision))
    assert not eager.draw_from(replays[0], 3, 6) and graphs.draw_from(replays[1], 3, 6)
    states = [agent.init_policy(2) for agent in (eager, graphs)]
    for k in range(2 * WARMUP + 2):
        if k == WARMUP + 1:
            saved = copied(graphs)
            graphs = captured(make_agent(*kind, precision=precision, seed=1))
            graphs.load_state_dict(saved)
            assert graphs.draw_from(replays[1], 3, 6)
        batches, actions = (replays[0].sample(3, 6), None), []
        for i, (agent, batch, replay) in enumerate(zip((eager, graphs), batches, replays, strict=True)):
            agent.update(batch)
            action, states[i] = agent.act(make_step(2, space, first=k == 0, seed=k), states[i])
            actions.append(action)
            extended(replay, 10 + 2 * k, 12 + 2 * k, 1, *kind)
        assert not unequal(eager.state_dict(), graphs.state_dict())
        np.testing.assert_array_equal(*actions)
    assert eager.updates == 2 * WARMUP + 2 and eager.read_metrics_sync()["train/loss/rew"] > 0
