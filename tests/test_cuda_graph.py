"""Graphs of functions: warm-up, capture, replay, inputs, errors; on the CPU with a tape in place of CUDA graphs."""

import contextlib
import gc
import weakref

import pytest
import torch

import tape
from agent_case import captured, make_agent, make_batch, make_step, unequal
from hdfast import cuda_graph
from hdfast.agent import Agent
from hdfast.cuda_graph import WARMUP, Graph, Graphs
from hdfast.errors import RunError
from kinds import KINDS
from replay_stream import extended, filled

CPU = torch.device("cpu")


@pytest.fixture
def taped(monkeypatch):
    monkeypatch.setattr(cuda_graph, "record", tape.record)


def graph_of(function, **options) -> Graph:
    return Graphs(CPU, True).of(function, "test function", **options)


# Whole agents

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replayed_updates_equal_eager_ones_bit_for_bit(taped, kind, precision):
    space, actions = KINDS[kind]
    eager, graphs = (make_agent(space, actions, precision=precision) for _ in range(2))
    captured(graphs)
    for k in range(WARMUP + 4):
        for agent in (eager, graphs):
            agent.update(make_batch(space=space, actions=actions, seed=k))
        assert not unequal(eager.state_dict(), graphs.state_dict())
        if k == 1:
            assert eager.read_metrics_sync() == graphs.read_metrics_sync()
    assert isinstance(graphs.update_step, Graph) and not isinstance(eager.update_step, Graph)
    assert eager.read_metrics_sync() == graphs.read_metrics_sync() != {}
    assert eager.updates == graphs.updates == WARMUP + 4


def test_updates_of_changing_shape_and_restored_states_stay_equal(taped):
    eager, graphs = make_agent(), captured(make_agent())
    for k in range(3 * (WARMUP + 2)):
        for agent in (eager, graphs):
            agent.update(make_batch(batch=2 + k % 2, seed=k))
    saved = {name: x.clone() for name, x in eager.state_dict().items()}
    for agent in (eager, graphs):
        agent.update(make_batch(seed=99))
        agent.load_state_dict(saved)
        agent.update(make_batch(batch=2, seed=100))
    assert not unequal(eager.state_dict(), graphs.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_replayed_acting_equals_eager_acting(taped, kind):
    """Training's and an evaluation's environments take turns, and parameters change in between."""
    space, actions = KINDS[kind]
    eager, graphs = make_agent(space, actions), captured(make_agent(space, actions))
    states = {agent: {n: agent.init_policy(n) for n in (1, 5)} for agent in (eager, graphs)}
    for i in range(2 * WARMUP + 4):
        for n in (1, 5):
            both = []
            for agent in (eager, graphs):
                rng = torch.Generator().manual_seed(i) if n == 5 else None
                step = make_step(n, space, first=i == 0, seed=i)
                action, states[agent][n] = agent.act(step, states[agent][n], rng)
                both.append(action)
            assert (both[0] == both[1]).all()
            assert torch.equal(states[eager][n].latent.feat(), states[graphs][n].latent.feat())
        for agent in (eager, graphs):
            agent.update(make_batch(space=space, actions=actions, seed=i))


def test_a_policy_state_outlives_later_steps(taped):
    agent = captured(make_agent())
    state = agent.init_policy(2)
    for i in range(WARMUP + 2):
        _, state = agent.act(make_step(2, first=i == 0, seed=i), state)
    before = state.latent.feat().clone()
    agent.act(make_step(2, seed=99), state)
    assert torch.equal(state.latent.feat(), before)


def test_without_a_gpu_or_with_graphs_off_everything_is_eager():
    assert not isinstance(make_agent().update_step, Graph)
    assert not isinstance(make_agent(cuda_graphs=False).acting_step, Graph)
    eager = Graphs(CPU, False).of(lambda x: (x + 1,), "test function")
    assert eager(torch.ones(2))[0].tolist() == [2, 2]


def test_a_device_gets_its_number(monkeypatch):
    """Tensors say cuda:1, never cuda: else every replay would copy an input of the device."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    devices = [Graphs(torch.device(name), True).of(lambda: None, "test").device for name in ("cuda", "cuda:3", "cpu")]
    assert devices == [torch.device("cuda:1"), torch.device("cuda:3"), CPU]


# The graph of a function

def test_the_tape_finds_state_that_python_keeps(taped):
    """The tape must show what a replay cannot repeat, or the tests above would prove nothing."""
    calls = []

    def counts(x):
        calls.append(1)
        return (x * len(calls),)

    graph = graph_of(counts)
    got = [graph(torch.ones(()))[0].item() for _ in range(WARMUP + 3)]
    assert got == [1, 2, 3, 4, 4, 4]


def test_static_inputs_are_copied_once_unless_shared(taped):
    total = torch.zeros(2)
    own, shared = graph_of(lambda x: (total.add_(x),)), graph_of(lambda x: (x * 2,), shared=True)
    x = torch.ones(2)
    for _ in range(WARMUP + 2):
        own(x), shared(x)
    x.fill_(5)
    assert shared(x)[0].tolist() == [10, 10] and shared(x)[0] is shared(x)[0]
    assert shared(torch.full((2,), 7.0))[0].tolist() == [14, 14] and x.tolist() == [7, 7]
    before, first = total.clone(), own(torch.ones(2))[0]
    assert torch.equal(first, before + 1) and own(torch.ones(2))[0] is not first


def test_a_new_shape_or_type_is_captured_anew_and_old_ones_are_dropped(taped, monkeypatch):
    records = []
    monkeypatch.setattr(cuda_graph, "record", lambda *a, **k: records.append(1) or tape.record(*a, **k))
    graph = graph_of(lambda x: (x + 1,))
    for size in range(1, cuda_graph.KEPT + 2):
        for _ in range(WARMUP + 2):
            assert graph(torch.zeros(size))[0].tolist() == [1] * size
    assert len(records) == cuda_graph.KEPT + 1
    for _ in range(WARMUP + 1):
        graph(torch.zeros(1))  # the oldest was dropped
        graph(torch.zeros(2, dtype=torch.int64))
    assert len(records) == cuda_graph.KEPT + 3


def test_draws_are_new_in_every_replay_and_the_generator_goes_on(taped):
    rng, twin = (torch.Generator().manual_seed(3) for _ in range(2))
    graph = graph_of(lambda: (torch.rand(4, generator=rng),), generators=[rng])
    for _ in range(WARMUP + 3):
        assert torch.equal(graph()[0], torch.rand(4, generator=twin))
    assert torch.equal(rng.get_state(), twin.get_state())


def test_a_failed_capture_names_the_op_and_never_runs_eagerly(taped):
    ran = []

    def branches(x):
        ran.append(1)
        return (x * 2 if x.sum() > 0 else x,)

    graph = graph_of(branches)
    for _ in range(WARMUP):
        graph(torch.ones(2))
    for _ in range(2):  # nor does a second call
        with pytest.raises(RunError, match=r"the CUDA graph of the test function cannot be made: __bool__ reads.*"
                                           r"--cuda_graphs False"):
            graph(torch.ones(2))
    assert len(ran) == WARMUP + 2


def stand_ins(monkeypatch, capture, graph) -> list:
    """These for torch.cuda.graph and CUDAGraph; returns the streams that are set."""
    restored = []
    for name, fake in (("graph", capture), ("CUDAGraph", graph), ("Stream", lambda device: f"of {device}"),
                       ("device", contextlib.nullcontext), ("current_stream", lambda: "before"),
                       ("set_stream", restored.append)):
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(cuda_graph, "capture_stream", cuda_graph.capture_stream.__wrapped__)
    return restored


def test_the_error_of_a_real_capture_names_the_op(monkeypatch):
    """A stand-in replaces torch.cuda.graph, which cannot run here. The code around it is that of CUDA."""
    class Capture:
        def __init__(self, graph, pool, stream, capture_error_mode):
            assert stream == f"of {CPU}"

        def __enter__(self):
            pass

        def __exit__(self, *exc):
            if exc[0]:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    class FakeGraph:
        def __init__(self, keep_graph):
            assert keep_graph  # or nobody could count its nodes

        def instantiate(self):
            pass

    restored = stand_ins(monkeypatch, Capture, FakeGraph)
    where = dict(device=CPU, pool=None, generators=())
    with pytest.raises(RunError, match=r"aten.nonzero.default broke the capture \(aten.nonzero.default has a shape"):
        cuda_graph.record(lambda x: (x.nonzero(),), [torch.ones(2)], **where)
    with pytest.raises(RunError, match=r"aten.add.Tensor broke the capture"):
        cuda_graph.record(lambda x: (x + torch.ones(3),), [torch.ones(2)], **where)
    assert restored == ["before", "before"]  # after a broken capture torch may leave its own stream current
    recording, out = cuda_graph.record(lambda x: (x + 1,), [torch.ones(2)], **where)
    assert isinstance(recording.graphs[0], FakeGraph) and out[0].tolist() == [2, 2] and len(restored) == 2


# What is left out of graphs

def exchanging(agent: Agent, log: list[str]) -> Agent:
    """The agent as in a team of two equal ranks; its exchanges log themselves."""
    def mean(name: str, flat: torch.Tensor) -> None:
        log.append(name)
        flat.mul_(2).div_(2.5)  # a mean would hide an exchange that came before its gradients

    def gather(x: torch.Tensor) -> torch.Tensor:
        both = x.new_empty(2, *x.shape)
        cuda_graph.between(lambda: (log.append("returns"), both.copy_(x.expand_as(both))))
        return both.flatten(0, 1)

    for name, arena in agent.learner.optimizers.items():
        arena.reduce = lambda flat, name=name: cuda_graph.between(lambda: mean(name, flat))
    agent.learner.actor_critic.gather = gather
    return agent


def test_exchanges_stand_between_graphs_in_the_order_of_calls(taped):
    logs = [], []
    eager, graphs = exchanging(make_agent(), logs[0]), exchanging(captured(make_agent()), logs[1])
    for k in range(WARMUP + 3):
        for agent, log in zip((eager, graphs), logs, strict=True):
            agent.update(make_batch(seed=k))
            assert log == ["model", "returns", "actor", "critic"] * (k + 1)
        assert not unequal(eager.state_dict(), graphs.state_dict())
    assert eager.read_metrics_sync() == graphs.read_metrics_sync()


def test_a_capture_is_cut_where_a_call_is_left_out(monkeypatch):
    log = []

    class FakeGraph:
        def __init__(self, keep_graph):
            self.number = sum(line.startswith("begin") for line in log)

        def instantiate(self):
            log.append(f"instantiate {self.number}")

        def replay(self):
            log.append(f"replay {self.number}")

    class Capture:
        def __init__(self, graph, pool, stream, capture_error_mode):
            self.graph = graph

        def __enter__(self):
            log.append(f"begin {self.graph.number}")

        def __exit__(self, *exc):
            log.append(f"end {self.graph.number}")

    stand_ins(monkeypatch, Capture, FakeGraph)

    def function(x):
        cuda_graph.between(lambda: log.append("call 0"))
        y = x + 1
        cuda_graph.between(lambda: log.append("call 1"))
        return (y,)

    recording, out = cuda_graph.record(function, [torch.ones(2)], device=CPU, pool=None, generators=())
    assert log == [f"{what} {i}" for i in range(3) for what in ("begin", "end", "instantiate")]
    log.clear()
    recording.replay()
    assert log == ["replay 0", "call 0", "replay 1", "call 1", "replay 2"] and out[0].tolist() == [2, 2]
    log.clear()
    function(torch.ones(2))
    assert log == ["call 0", "call 1"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_drawn_inside_the_update(taped, kind):
    """Windows come from the replay's own counters: a replay that grows and wraps gives what a draw outside gives."""
    eager, graphs = make_agent(*KINDS[kind]), captured(make_agent(*KINDS[kind]))
    replays = [filled(12, 40, 1, *KINDS[kind], seed=5) for _ in range(2)]
    assert not eager.draw_from(replays[0], 3, 6) and graphs.draw_from(replays[1], 3, 6)
    for k in range(WARMUP + 8):
        batches = replays[0].sample(3, 6), None
        for agent, replay, batch in zip((eager, graphs), replays, batches, strict=True):
            agent.update(batch)
            extended(replay, 12 + 4 * k, 16 + 4 * k, 1, *KINDS[kind])
        assert not unequal(eager.state_dict(), graphs.state_dict())
    assert torch.equal(replays[0].rng.get_state(), replays[1].rng.get_state())


def test_a_replay_that_changes_devices_is_drawn_from_outside(taped):
    agent = captured(make_agent())
    replay = filled(12, 100, 1, *KINDS["image"], learner=torch.device("meta"))
    assert not replay.capturable and not agent.draw_from(replay, 3, 6)


def test_the_collector_runs_before_a_capture_and_not_in_it():
    class Node:
        pass

    alive, node = [], Node()
    node.own = node
    weakref.finalize(node, alive.append, "collected")
    del node
    with pytest.raises(ZeroDivisionError), cuda_graph.uncollected():
        assert alive == ["collected"] and not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()
