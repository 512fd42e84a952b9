"""Updates and acting on a CUDA device: official figures, graphs against ordinary calls, no waiting, graph sizes, times.

Everything here skips without a device. Ops are in tests/native.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

import golden_digest
from agent_case import make_batch, make_step
from hdfast import cuda_graph, ops
from hdfast.agent import Agent
from hdfast.config import Config
from hdfast.cuda_graph import WARMUP, Graphs
from hdfast.errors import RunError
from hdfast.machine import choose_algorithms, set_precision
from hdfast.ops import library
from hdfast.presets import OFFICIAL
from hdfast.replay.ring import Batch
from hdfast.replay.sequences import Replay
from hdfast.spaces import ActSpace, Box, Discrete, ObsSpace
from kinds import KINDS
from precision_case import assert_official_losses
from replay_stream import FIELDS, record

pytestmark = pytest.mark.gpu
OFFICIAL_SPACE, ACTIONS = ObsSpace.single((64, 64, 3), "uint8"), Discrete(4)
NODES = ((ACTIONS, 1500), (Box(6), 2000))  # of an update at the official sizes
# Limits of time are those of an H100 and faster. Other tests at the same time would show in them: run these alone.
hopper = pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0),
                            reason="limits of time are for GPUs of compute capability 9.0 and newer")


@pytest.fixture(autouse=True)
def float32():
    """Products and convolutions in float32, not TF32, if a test does not choose."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    set_precision("fp32", torch.device("cuda"))
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.fixture
def native():
    if not (library.problem() is None and library.runs_on(torch.device("cuda"))):
        pytest.skip("the native library was not built for CUDA")
    with ops.use("native"):
        yield


@pytest.fixture(params=["reference", "native"])
def backend(request):
    if request.param == "native":
        request.getfixturevalue("native")
        yield "native"
    else:
        with ops.use("reference"):
            yield "reference"


@pytest.fixture
def deterministic(monkeypatch, native):
    """With native operations, as training uses them."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    choose_algorithms(torch.device("cuda"), True)
    yield
    torch.use_deterministic_algorithms(False)
    cudnn.deterministic, cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory = before


def make_agent(cuda_graphs: bool, preset: str = "debug", kind: str = "image", **overrides) -> Agent:
    config = Config.preset(preset, task="dummy", cuda_graphs=cuda_graphs, **{"env.size": 16} | overrides)
    return Agent(*KINDS[kind], config, device="cuda")


def of_kind(kind: str, seed: int) -> Batch:
    space, actions = KINDS[kind]
    return make_batch(space=space, actions=actions, seed=seed)


def official(precision: str, actions: ActSpace = ACTIONS) -> tuple[Agent, Batch]:
    """An agent of the official sizes and a batch on its device."""
    set_precision(precision, torch.device("cuda"))
    config = Config.preset(OFFICIAL, precision=precision)
    agent = Agent(OFFICIAL_SPACE, actions, config, device="cuda")
    return agent, on_device(make_batch(config.run.batch_length, config.run.batch_size, OFFICIAL_SPACE, actions=actions))


def on_device(batch: Batch) -> Batch:
    frames = {name: x.cuda() for name, x in batch.frames.items()}
    return Batch(frames, *(x.cuda() for name, x in vars(batch).items() if name != "frames"))


def milliseconds(run: Callable[[], None], count: int) -> float:
    """Time of one of `count` calls in a row: the median of five rounds after a capture."""
    rounds = []
    for _ in range(WARMUP + 2):
        run()
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            run()
        torch.cuda.synchronize()
        rounds.append(1e3 * (time.perf_counter() - start) / count)
    return statistics.median(rounds)


@pytest.mark.parametrize("name", golden_digest.names())
def test_official_digest_on_cuda(name, backend):
    golden_digest.assert_digest(name, "cuda")


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("name", golden_digest.names())
def test_official_losses_on_cuda(name, backend, precision):
    set_precision(precision, torch.device("cuda"))
    assert_official_losses(name, precision, "cuda")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("preset, kind", [("small", "image"), *(("debug", kind) for kind in KINDS)])
def test_replays_equal_ordinary_calls_bit_for_bit(deterministic, preset, kind, precision):
    eager, graphs = (make_agent(on, preset, kind, precision=precision) for on in (False, True))
    for k in range(WARMUP + 3):
        for agent in (eager, graphs):
            agent.update(of_kind(kind, k))
    one, two = eager.state_dict(), graphs.state_dict()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert len(graphs.update_step.nodes()) == 1
    assert eager.read_metrics_sync() == graphs.read_metrics_sync()


@pytest.mark.parametrize("kind", KINDS)
def test_equal_runs_give_equal_bits(deterministic, kind):
    states = []
    for _ in range(2):
        agent = make_agent(True, kind=kind)
        for k in range(WARMUP + 3):
            agent.update(of_kind(kind, k))
        states.append({name: x.clone() for name, x in agent.state_dict().items()})
    assert [name for name, x in states[0].items() if not torch.equal(x, states[1][name])] == []


@pytest.mark.parametrize("kind", KINDS)
def test_acting_by_replay_equals_acting_by_calls(backend, kind):
    eager, graphs = make_agent(False, kind=kind), make_agent(True, kind=kind)
    states = {agent: {n: agent.init_policy(n) for n in (1, 5)} for agent in (eager, graphs)}
    for i in range(WARMUP + 4):
        for n in (1, 5):
            actions = []
            for agent in (eager, graphs):
                rng = torch.Generator("cuda").manual_seed(i) if n == 5 else None
                step = make_step(n, KINDS[kind][0], first=i == 0, seed=i)
                action, states[agent][n] = agent.act(step, states[agent][n], rng)
                actions.append(action)
            np.testing.assert_allclose(*actions, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(*(states[agent][n].latent.deter for agent in (eager, graphs)))
    assert len(graphs.acting_step.nodes()) == 2


def test_inputs_on_the_device_are_used_where_they_lie(native):
    """Among them the frames of a whole replay, too large to copy: also on a device named without its number."""
    agent, batch = make_agent(True), on_device(make_batch())
    for _ in range(WARMUP + 1):
        agent.update(batch)
    slot, = agent.update_step._slots.values()
    assert slot.graph is not None and slot.inputs[0] is batch.frames["image"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_update_never_waits_for_the_device(backend, kind, precision):
    eager, graphs = (make_agent(on, kind=kind, precision=precision) for on in (False, True))
    for k in range(WARMUP + 1):  # with the captures, which may
        for agent in (eager, graphs):
            agent.update(of_kind(kind, k))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for k in range(3):
            for agent in (eager, graphs):
                agent.update(of_kind(kind, k))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", KINDS)
def test_a_replay_that_fills_beside_updates_is_that_of_the_host(kind):
    """Frames that go ahead of their step, or do not, while updates draw: filling, wrapping, forgetting."""
    agent, spaces = make_agent(True, kind=kind), KINDS[kind]
    replays = [Replay(40, 2, *spaces, directory=None, seed=0, device=device) for device in ("cpu", "cuda")]
    assert agent.draw_from(replays[1], 4, 8)
    u = torch.linspace(0, 1, 9, dtype=torch.float64)[:-1]
    for i in range(70):
        step, action = record(i, 2, *spaces)
        if i % 3:
            replays[1].expect(step)
        for replay in replays:
            replay.add(step, action)
        if i >= 8:
            agent.update()
            here, there = (replay.ring.windows(u.to(replay.ring.device), 4) for replay in replays)
            for name in FIELDS:
                assert torch.equal(getattr(here, name), getattr(there, name).cpu()), (i, name)
            for name, x in here.obs.items():
                assert torch.equal(x, there.obs[name].cpu()), (i, name)
        if i == 50:
            for replay in replays:
                replay.restore(None)
            for k in range(10):
                for replay in replays:
                    replay.add(*record(k, 2, *spaces))
    assert replays[0].checksum() == replays[1].checksum()
    assert np.isfinite(list(agent.read_metrics_sync().values())).all()


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("actions, limit", NODES)
def test_nodes_of_an_official_update(native, precision, actions, limit):
    agent, batch = official(precision, actions)
    for _ in range(WARMUP + 1):
        agent.update(batch)
    nodes, = agent.update_step.nodes()
    assert nodes <= limit


@hopper
@pytest.mark.parametrize("precision, limit", [("tf32", 11.0), ("bf16", 8.0)])
def test_milliseconds_of_an_official_update(native, precision, limit):
    agent, batch = official(precision)
    assert milliseconds(lambda: agent.update(batch), 20) <= limit


@hopper
def test_milliseconds_of_an_acting_step(native):
    """From an image in host memory to an action there."""
    agent, _ = official("tf32")
    step, state = make_step(1, OFFICIAL_SPACE), [agent.init_policy(1)]

    def act() -> None:
        state[0] = agent.act(step, state[0])[1]

    assert milliseconds(act, 200) <= 0.15


@pytest.mark.parametrize("fault, named", [
    (lambda x: (x * x.sum().item(),), "item"), (lambda x: (x.nonzero(),), "aten.nonzero.default"),
    (lambda x: (x + torch.ones(3),), "aten.add.Tensor|aten.ones.default")])
def test_a_failed_capture_names_the_op_and_the_device_goes_on(fault, named):
    graph = Graphs(torch.device("cuda"), True).of(fault, "planted fault")
    x = torch.ones((), device="cuda")
    graph._slots[((x.shape, x.dtype),)] = cuda_graph._Slot(calls=WARMUP)
    with pytest.raises(RunError, match=named):
        graph(x)
    assert (torch.ones(3, device="cuda") * 2).tolist() == [2, 2, 2]
    good = Graphs(torch.device("cuda"), True).of(lambda x: (x + 1,), "sound function")
    assert [good(x)[0].item() for _ in range(WARMUP + 2)] == [2] * (WARMUP + 2)


def test_draws_in_a_graph_are_those_of_ordinary_calls():
    rng, twin = (torch.Generator("cuda").manual_seed(3) for _ in range(2))
    graph = Graphs(torch.device("cuda"), True).of(
        lambda: (torch.rand(1000, generator=rng, device="cuda"),), "draw", generators=[rng])
    for _ in range(WARMUP + 3):
        assert torch.equal(graph()[0], torch.rand(1000, generator=twin, device="cuda"))
    saved = rng.get_state()
    after = graph()[0].clone()
    rng.set_state(saved)
    assert torch.equal(graph()[0], after)
