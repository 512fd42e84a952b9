"""Every public op with native code as a case: its tensors by a shape, and the shapes at which its kernels change.

With the rule by which results are judged. Calls of the raw ops are in raw_cases.py.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from hdfast import ops
from hdfast.ops import reference
from tolerance import assert_as_accurate

NAMES = ("reward", "image", "dyn", "rep", "cont")
SCALES = {"reward": 1.0, "image": 2.0, "dyn": 0.5, "rep": 0.1, "cont": 3.0}  # of weighted_loss


@pytest.fixture(autouse=True)
def on_device(native):
    """Tensors of a test lie where the library under test runs; import it into a module to have it there."""
    with torch.device(native.device):
        yield


def rand(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers, the same ones on every device."""
    numbers = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    return scale * numbers.to(torch.get_default_device())


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator("cpu").manual_seed(seed), device="cpu").to(
        torch.get_default_device())


def results(run: Callable, tensors: Sequence[Tensor], *, leaves: bool = True,
            weigh: Callable[[Tensor], Tensor] = torch.clone) -> list[Tensor]:
    """Outputs of run(*tensors), then the gradients, for `leaves`, of a fixed weighting that `weigh` may change."""
    given = [x.detach().requires_grad_(leaves and x.is_floating_point()) for x in tensors]
    out = run(*given)
    out = list(out) if isinstance(out, tuple) else [out]
    graded = [x for x in out if x.requires_grad]
    if not graded:
        return out
    weights = [weigh(rand(*x.shape, seed=i).bfloat16().to(x)) for i, x in enumerate(graded)]
    grads = torch.autograd.grad(graded, [x for x in given if x.requires_grad], weights, allow_unused=True)
    return [x.detach() for x in out] + [g for g in grads if g is not None]


def compare(run: Callable, *tensors: Tensor, samples: int = 0, floor: float = 1e-6, least: float = 0.0,
            weigh: Callable[[Tensor], Tensor] = torch.clone) -> list[Tensor]:
    """Results of native ops, compared with plain PyTorch's by the tolerance rule.

    Of the first `samples` outputs, which are draws, one in a thousand may fall to the other side of a class's edge.
    """
    got = results(run, tensors, weigh=weigh)
    with ops.use("reference"):
        eager, exact = (results(run, [x.to(dtype) if x.is_floating_point() else x for x in tensors], weigh=weigh)
                        for dtype in (torch.float32, torch.float64))
    for i, (g, e, x) in enumerate(zip(got, eager, exact, strict=True)):
        if i < samples:
            assert ((g == x).float().mean() > 0.999) if x.numel() else g.shape == x.shape, f"output {i}"
        else:
            # Sums over rows, the gradients of parameters, lose with their length what single elements do not.
            allowed = 4e-3 if g.dtype is torch.bfloat16 else 4e-6 if g.dim() < got[0].dim() else floor
            assert_as_accurate(g, e.to(g.dtype), x, floor=allowed, least=least, name=f"result {i}")
    return got


def n(*shape: int) -> Tensor:
    return torch.randn(shape)


def log_probabilities(*shape: int) -> Tensor:
    return reference.unimix(2 * n(*shape), 0.01)


def columns(*counts: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of rows, some of them none, with each of these numbers of columns."""
    return tuple((*rows, count) for count in counts for rows in ((7,), (1,), (0,), (3, 5), (2, 0, 3), (1031,)))


def targets(*shape: int, seed: int = 5) -> Tensor:
    """Rewards of every size: zeros, small ones, and some beyond both ends of the bins."""
    x = rand(*shape, seed=seed) * 10 ** (12 * uniform(*shape, seed=seed + 1) - 2)
    return torch.where(uniform(*shape, seed=seed + 2) < 0.2, 0.0, x)


def conts(*shape: int) -> Tensor:
    """Ones, a third zeros, and values between."""
    u = uniform(*shape, seed=7)
    return torch.where(u < 1 / 3, 0.0, torch.where(u < 2 / 3, 1.0, u))


def rows(*shape: int) -> tuple[Tensor, ...]:
    return 2 * n(*shape) + 0.5, n(shape[-1]), n(shape[-1])


def gates(*shape: int) -> tuple[Tensor, ...]:
    x, scale, bias = rows(*shape[:-1], 3 * shape[-1])
    return x, n(*shape), scale, bias


def actions(*shape: int) -> tuple[Tensor, ...]:
    *rows, count = shape
    return log_probabilities(*shape), torch.randint(count, rows), n(*rows), torch.rand(rows)


def losses(*shape: int) -> tuple[Tensor, ...]:
    return tuple(5 * torch.rand(shape) for _ in NAMES)


def trajectory(horizon: int, *shape: int) -> tuple[Tensor, ...]:
    return n(horizon, *shape), n(horizon + 1, *shape), conts(horizon + 1, *shape)


def by_name(*tensors: Tensor) -> tuple:
    return dict(zip(NAMES, tensors[:5], strict=True)), *tensors[5:]


def vectors(*shape: int) -> tuple[Tensor, ...]:
    """Predictions and targets, some of them equal up to an error that does not count."""
    raw = targets(*shape)
    near = reference.symlog(raw) + 5e-5 * n(*shape).clamp(-1, 1)
    return torch.where(torch.rand(shape) < 0.3, near, 5 * n(*shape)), raw


def normals(*shape: int) -> tuple[Tensor, ...]:
    """Mean, standard deviation and action of a policy."""
    mean, std = reference.normal_policy(n(*shape), n(*shape))
    return mean, std, mean + std * n(*shape)


OTHERS = ("position", "dyn", "kind", "cont", "rep")  # losses, of which three have harmonized names


class Case(NamedTuple):
    """What a public op takes: `make` gives its tensors by a shape, the first of `shapes` is small and has rows."""

    make: Callable[..., tuple[Tensor, ...]]
    shapes: tuple[tuple[int, ...], ...]
    options: Mapping[str, object] = MappingProxyType({})
    large: Callable[[int, int], tuple[int, ...]] = lambda rows, columns: (rows, columns)  # a shape of so many
    arguments: Callable = lambda *tensors: tensors  # what the op takes for these tensors


FLAT = ((7,), (1,), (0,), (3, 5), (2, 0, 3), (1031,))
NORM = ((3, 8), (0, 8), (4, 0, 8), (1, 1), (3, 2), (7, 33))
CLASSES = ((3, 16), (0, 8), (4, 0, 8), (1, 1), (3, 2), (7, 33), (2, 3, 32), (9, 18), (3, 128), (2, 129), (1, 1024))
LATENTS = ((3, 4, 8), (0, 2, 8), (4, 0, 2, 8), (1, 1, 1), (2, 3), (5, 1, 2), (7, 3, 33), (2, 3, 4, 32), (4, 32, 32),
           (3, 2, 129), (1, 2, 512))
HORIZONS = tuple((horizon, *shape) for horizon in (2, 1, 15, 16) for shape in (*FLAT, ()))


def of_latents(rows: int, columns: int) -> tuple[int, ...]:
    return rows, 3, columns


def over_time(rows: int, columns: int) -> tuple[int, ...]:
    return 15, rows


CASES = {
    "actor_loss": Case(actions, columns(3, 1, 18, 33), dict(entropy=3e-2)),
    "balanced_kl": Case(lambda *shape: (log_probabilities(*shape), log_probabilities(*shape)), LATENTS,
                        dict(free_nats=1.0), of_latents),
    "cont_loss": Case(lambda *shape: (n(*shape), torch.rand(shape).round()), (*FLAT, ())),
    "gru_gates": Case(gates, (*NORM, (2, 3, 4), (5, 64), (70, 12), (2, 512), (1, 2052))),
    "harmony_loss": Case(lambda *shape: (*losses(*shape), torch.tensor([0.3, -4.0, 7.0])),
                         ((7,), (1,), (64, 16), (5000,)), dict(dyn_share=0.8), arguments=by_name),
    "image_loss": Case(lambda *shape: (n(*shape), torch.rand(shape)),
                       ((4, 5, 3), (1, 1, 1), (3, 4, 4, 3), (2, 2, 64, 64, 3), (0, 4, 4, 3), (3, 0, 4, 3)),
                       large=lambda rows, columns: (rows, 5, 7, 3)),
    "kl_divergence": Case(lambda *shape: (log_probabilities(*shape), log_probabilities(*shape)), LATENTS,
                          large=of_latents),
    "lambda_return": Case(trajectory, HORIZONS, dict(gamma=1 - 1 / 333, lam=0.95), over_time),
    "normal_log_prob": Case(normals, columns(3, 1, 6, 16, 38)),
    "normal_policy": Case(lambda *shape: (3 * n(*shape), 3 * n(*shape)), (*FLAT, ())),
    "norm_act": Case(rows, (*NORM, (2, 3, 32), (5, 64), (200, 17), (4, 512), (2, 1536))),
    "replay_gather": Case(lambda *shape: (torch.randint(256, shape).to(torch.uint8), torch.randint(shape[0], (4, 3))),
                          ((9, 7), (9, 5, 3, 1))),
    "return_range": Case(lambda *shape: (n(*shape), n(), n()), ((7, 4), (1,), (3,)), large=over_time,
                         arguments=lambda *tensors: [x.detach() for x in tensors]),  # the definition has a gradient
    "return_weight": Case(lambda *shape: (conts(*shape),), HORIZONS, dict(gamma=0.997), over_time),
    "sample_index": Case(lambda *shape: (log_probabilities(*shape), torch.rand(shape[:-1])), CLASSES, large=of_latents),
    "sample_latent": Case(lambda *shape: (log_probabilities(*shape), torch.rand(shape[:-1])), CLASSES,
                          large=of_latents),
    "symexp": Case(lambda *shape: (5 * n(*shape),), FLAT),
    "symlog": Case(lambda *shape: (targets(*shape),), FLAT),
    "twohot_loss": Case(lambda *shape: (3 * n(*shape), targets(*shape[:-1])), columns(3, 2, 41, 255, 300)),
    "twohot_losses": Case(lambda *shape: (3 * n(*shape), targets(*shape[:-1]), targets(*shape[:-1], seed=11)),
                          ((7, 41), (50, 255))),
    "twohot_mean": Case(lambda *shape: (n(*shape),), columns(2, 41, 255)),
    "unimix": Case(lambda *shape: (3 * n(*shape),), CLASSES, dict(mix=0.01), of_latents),
    "vector_loss": Case(vectors, columns(5, 1, 3, 67)),
    "weighted_loss": Case(losses, ((7,), (6, 7)), dict(scales=SCALES), arguments=by_name),
}
VARIANTS = {  # by the op's name and what is special
    "actor_loss many": CASES["actor_loss"]._replace(shapes=((7, 1500), (1, 1500), (3, 5, 1500), (0, 1500))),
    "cont_loss large": CASES["cont_loss"]._replace(make=lambda *shape: (30 * n(*shape), torch.rand(shape).round())),
    "harmony_loss plain": CASES["harmony_loss"]._replace(options=dict(dyn_share=0.8, mode="plain")),
    "harmony_loss of others": CASES["harmony_loss"]._replace(
        make=lambda *shape: (*losses(*shape), torch.tensor([0.3, -4.0, 7.0, 1.0])),
        options=dict(dyn_share=0.7, harmonized=("kind", "image", "kl", "position")),
        arguments=lambda *tensors: (dict(zip(OTHERS, tensors[:5], strict=True)), *tensors[5:])),
    **{f"balanced_kl {nats}": CASES["balanced_kl"]._replace(options=dict(free_nats=nats)) for nats in (0.0, 3.0)},
    **{f"unimix {mix}": CASES["unimix"]._replace(options=dict(mix=mix)) for mix in (0.0, 0.5)},
}
SAMPLES = {"sample_index": 1, "sample_latent": 2}  # outputs that are draws
FLOAT32 = {"lambda_return", "return_range", "return_weight"}  # refuse bfloat16
# Errors of results below 1 are judged as if these were 1.
ABSOLUTE = {"balanced_kl", "gru_gates", "kl_divergence", "norm_act", "sample_latent", "unimix"}
STORED = {"norm_act", "sample_latent", "symexp", "symlog", "unimix"}  # give their input's type, all others float32


def op_of(name: str, functions: object = ops) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """The op of a case as a function of its tensors, among the public ops or another module's functions."""
    case = (CASES | VARIANTS)[name]
    function = getattr(functions, name.split()[0])
    return lambda *tensors: function(*case.arguments(*tensors), **case.options)
