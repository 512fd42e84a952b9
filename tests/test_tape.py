"""Tapes: what is played equals what is called, bit for bit; what no tape can hold is refused."""

import gc
import weakref

import pytest
import torch

from agent_case import make_agent, make_batch, make_step, unequal
from hdfast import ops
from hdfast.errors import RunError
from hdfast.ops import library
from hdfast.tape import KEPT, WARMUP, Tape, Taped
from kinds import KINDS


@pytest.fixture(autouse=True)
def native():
    if library.problem():
        pytest.skip("the native library was not built")
    with ops.use("native"):
        yield


def pair(kind: str, **overrides):
    """Two agents alike, one with tapes."""
    return tuple(make_agent(*KINDS[kind], backend="native", cuda_graphs=tapes, **overrides) for tapes in (False, True))


def played(function, *calls):
    """Results of a taped function, one call more than its warm-up with the first arguments, then each of the calls."""
    taped = Taped(function)
    for _ in range(WARMUP + 1):
        taped(*calls[0])
    return [taped(*inputs) for inputs in calls]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_played_updates_equal_called_ones(kind, precision):
    plain, taped = pair(kind, precision=precision)
    space, actions = KINDS[kind]
    for k in range(WARMUP + 4):
        for agent in (plain, taped):
            agent.update(make_batch(space=space, actions=actions, seed=k))
        assert not unequal(plain.state_dict(), taped.state_dict())
    assert plain.read_metrics_sync() == taped.read_metrics_sync() != {}
    assert [type(x) for x in taped.learner._taped._tapes.values()] == [Tape]
    assert not plain.learner._taped._tapes


@pytest.mark.parametrize("overrides", [{"harmony.mode": "off"}, {"loss.reward_grad": False}, {"harmony.mode": "plain"}])
def test_played_updates_of_other_losses_and_shapes(overrides):
    plain, taped = pair("image", **overrides)
    for k in range(3 * (WARMUP + 2)):
        for agent in (plain, taped):
            agent.update(make_batch(batch=2 + k % 2, seed=k))
    saved = {name: x.clone() for name, x in plain.state_dict().items()}
    for agent in (plain, taped):
        agent.update(make_batch(seed=99))
        agent.load_state_dict(saved)
        agent.update(make_batch(batch=2, seed=100))
    assert not unequal(plain.state_dict(), taped.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_played_acting_equals_called_acting(kind):
    """Training's and an evaluation's environments take turns, and parameters change in between."""
    agents = pair(kind)
    space, actions = KINDS[kind]
    states = {agent: {n: agent.init_policy(n) for n in (1, 5)} for agent in agents}
    for i in range(2 * WARMUP + 2):
        for n in (1, 5):
            taken = []
            for agent in agents:
                rng = torch.Generator().manual_seed(i) if n == 5 else None
                action, states[agent][n] = agent.act(make_step(n, space, first=i == 0, seed=i), states[agent][n], rng)
                taken.append(action)
            assert (taken[0] == taken[1]).all()
            assert torch.equal(*(states[agent][n].latent.feat() for agent in agents))
        for agent in agents:
            agent.update(make_batch(space=space, actions=actions, seed=i))


def test_ranks_that_train_together_are_not_taped():
    _, taped = pair("image")
    calls = []
    for optimizer in taped.learner.optimizers.values():
        optimizer.reduce = lambda grad: calls.append(grad)
    for k in range(WARMUP + 2):
        taped.update(make_batch(seed=k))
    assert len(calls) == 3 * (WARMUP + 2)


def test_the_reference_is_not_taped():
    calls = []
    taped = Taped(lambda x: calls.append(1) or x + 1)
    with ops.use("reference"):
        for _ in range(WARMUP + 3):
            taped(torch.ones(2))
    assert len(calls) == WARMUP + 3


def test_python_runs_no_more():
    """The tapes must show what playing cannot repeat, or the tests above would prove nothing."""
    calls = []

    def counts(x):
        calls.append(1)
        return {"sum": x * len(calls)}

    taped = Taped(counts)
    assert [taped(torch.ones(()))["sum"].item() for _ in range(WARMUP + 3)] == [1, 2, 3, 4, 4, 4]


def test_gradients_views_and_memory_from_outside():
    weight, total = torch.tensor([1.0, 2.0]).requires_grad_(), torch.zeros(4)

    def function(x):
        y = (weight * x).sigmoid()
        grad, = torch.autograd.grad(y.sum(), weight)
        total[1:3].add_(grad)  # a view of memory from outside, at the same place in every run
        return grad, total.view(2, 2)[0] + weight.detach()

    want, got = [], []
    for found, call in ((want, function), (got, Taped(function))):
        with torch.no_grad():
            weight.copy_(torch.tensor([1.0, 2.0]))
        total.zero_()
        for k in range(WARMUP + 4):
            found += [y.clone() for y in call(torch.full((2,), k / 10))]
            with torch.no_grad():
                weight.mul_(1.1)
    assert all(map(torch.equal, got, want))


def test_copies_of_outside_memory_are_made_anew():
    """`contiguous` counts as a view and is a copy here."""
    matrix = torch.arange(6.0).view(2, 3)
    taped = Taped(lambda x: (matrix.t().contiguous() + x,))
    for k in range(WARMUP + 3):
        matrix.fill_(k)
        assert taped(torch.ones(()))[0].unique().tolist() == [k + 1]


def test_one_tensor_in_two_places():
    a, b = torch.ones(2), torch.zeros(2)
    assert [y.tolist() for y in played(lambda x, y: x - 2 * y, (a, a), (a, b), (b, a))] == [[-1, -1], [1, 1], [-2, -2]]


def test_other_shapes_strides_and_types_are_recorded_anew_and_old_ones_dropped():
    runs = []
    taped = Taped(lambda x: runs.append(1) or x.contiguous() + 1)
    square = torch.arange(9.0).view(3, 3)
    for x in (square, square.t(), square.double(), square[:2], square[:, :2], square[:1]):
        for _ in range(WARMUP + 2):
            assert torch.equal(taped(x), x + 1)
    assert len(taped._tapes) == KEPT
    before = len(runs)
    taped(square[:1]), taped(square)
    assert len(runs) == before + 1  # only the dropped one runs Python


def test_what_a_run_makes_goes_when_it_is_read_for_the_last_time():
    """Memory is that of one tensor at a time, as in a call."""
    sizes = []

    def chain(x):
        for _ in range(20):
            x = x * 2
        return x.sum()

    taped = Taped(chain)
    for _ in range(WARMUP + 2):
        taped(torch.ones(1000))
    tape, = taped._tapes.values()
    fixed = {name: value for name, value in tape._fixed.items() if isinstance(value, torch.Tensor)}
    assert not fixed and not hasattr(tape, "first")
    x = torch.ones(1000)
    gone = weakref.ref(x)
    sizes.append(float(taped(x)))
    del x
    gc.collect()
    assert gone() is None and sizes == [1000 * 2 ** 20]


def test_unread_ops_are_left_out_and_writes_stay():
    log = torch.zeros(3)

    def function(x):
        x.exp().sum()  # nobody reads it
        log.add_(1)
        return x + 1

    tape = Tape(function, (torch.ones(2),))
    assert sum("exp" in str(value) for value in tape._fixed.values()) == 1
    assert not any(name in tape._play.__code__.co_names for name, value in tape._fixed.items() if "exp" in str(value))
    tape(torch.ones(2))
    assert log.tolist() == [2, 2, 2]


@pytest.mark.parametrize("function, named", [
    (lambda x: x if x.sum() > 0 else -x, "__bool__"), (lambda x: x * x.sum().item(), "item"),
    (lambda x: x + torch.tensor([1.0, 2.0]), "tensor"), (lambda x: x[x > 0], "depends on data"),
    (lambda x: x.nonzero(), "depends on data")])
def test_what_depends_on_data_is_refused(function, named):
    with pytest.raises(RunError, match=named):
        played(function, (torch.ones(2),))


def test_a_tensor_that_comes_back_unseen_is_refused():
    kept = []

    def function(x):
        y = x + 1
        with torch._C._DisableTorchDispatch():
            kept.append(y.view(1, 2))
        return kept[-1] * 2

    with pytest.raises(RunError, match="does not see"):
        Tape(function, (torch.ones(2),))
