"""Every public op with native code against its definition: odd sizes, float32 and bfloat16, on CUDA and on the CPU.

tests/native looks at each family closely; this is the whole list by one rule, with sizes that fill a GPU unevenly. The
error against float64 may be twice plain PyTorch's on the same device and in the same type (tests/support/tolerance.py).
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hdfast import ops
from hdfast.ops import library
from hdfast.ops.adam import adam_step
from hdfast.ops.products import add_mm, mm_into
from tolerance import assert_as_accurate

SIZES = ((1, 5), (37, 33), (1031, 257))  # rows, columns: none a multiple of a warp
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LOSSES = ("reward", "image", "dyn", "rep", "cont")


def n(*shape: int) -> Tensor:
    return torch.randn(shape)


def u(*shape: int) -> Tensor:
    return torch.rand(shape)


def logp(*shape: int) -> Tensor:
    return F.log_softmax(n(*shape), -1)


def harmonize(*args):
    return ops.harmony_loss(dict(zip(LOSSES, args[:5], strict=True)), args[5])[0]


def weigh(*args):
    return ops.weighted_loss(dict(zip(LOSSES, args, strict=True)), dict.fromkeys(LOSSES, 0.5) | {"rep": 0.1})


# op -> function and its tensors, by rows and columns
CASES = {
    "actor_loss": (lambda *x: ops.actor_loss(*x, entropy=3e-4), lambda r, c: (
        n(3, r, 6), torch.randint(6, (3, r)), n(3, r), u(3, r))),
    "balanced_kl": (lambda p, q: ops.balanced_kl(p, q, 1.0), lambda r, c: (logp(r, 3, c), logp(r, 3, c))),
    "cont_loss": (lambda *x: ops.cont_loss(*x), lambda r, c: (n(r), u(r).round())),
    "gru_gates": (lambda *x: ops.gru_gates(*x), lambda r, c: (n(r, 3 * c), n(r, c), n(3 * c), n(3 * c))),
    "harmony_loss": (harmonize, lambda r, c: (*(n(r) for _ in range(5)), n(3))),
    "image_loss": (lambda *x: ops.image_loss(*x), lambda r, c: (n(r, 5, 7, 3), u(r, 5, 7, 3))),
    "kl_divergence": (lambda *x: ops.kl_divergence(*x), lambda r, c: (logp(r, 3, c), logp(r, 3, c))),
    "lambda_return": (lambda *x: ops.lambda_return(*x, gamma=0.997, lam=0.95), lambda r, c: (
        n(15, r), n(16, r), u(16, r))),
    "norm_act": (lambda *x: ops.norm_act(*x), lambda r, c: (n(r, c), n(c), n(c))),
    "replay_gather": (lambda *x: ops.replay_gather(*x), lambda r, c: (
        torch.randint(256, (r, c)).to(torch.uint8), torch.randint(r, (7, 5)))),
    "return_range": (lambda *x: ops.return_range(*x), lambda r, c: (n(15, r), n(), n())),
    "return_weight": (lambda *x: ops.return_weight(*x, gamma=0.997), lambda r, c: (u(16, r),)),
    "sample_index": (lambda *x: ops.sample_index(*x), lambda r, c: (logp(r, 3, c), u(r, 3))),
    "sample_latent": (lambda *x: ops.sample_latent(*x), lambda r, c: (logp(r, 3, c), u(r, 3))),
    "symexp": (lambda *x: ops.symexp(*x), lambda r, c: (n(r, c),)),
    "symlog": (lambda *x: ops.symlog(*x), lambda r, c: (n(r, c),)),
    "twohot_loss": (lambda *x: ops.twohot_loss(*x), lambda r, c: (n(r, c), 5 * n(r))),
    "twohot_losses": (lambda *x: ops.twohot_losses(*x), lambda r, c: (n(r, c), 5 * n(r), n(r))),
    "twohot_mean": (lambda *x: ops.twohot_mean(*x), lambda r, c: (n(r, c),)),
    "unimix": (lambda x: ops.unimix(x, 0.01), lambda r, c: (n(r, 3, c),)),
    "weighted_loss": (weigh, lambda r, c: tuple(n(r) for _ in range(5))),
}
WITHOUT_GRADIENT = {"return_range"}
SAMPLES = {"sample_index": 1, "sample_latent": 2}  # outputs that a draw on the edge of a class may turn


@pytest.fixture
def native_on(request):
    """Selects the native library for a device, with products in float32."""
    def select(device: str) -> None:
        if reason := library.problem():
            pytest.skip(f"the native library is not there: {reason}")
        if not library.runs_on(torch.device(device)):
            pytest.skip(f"the native library was not built for {device}")
        torch.set_float32_matmul_precision("highest")

    before = torch.get_float32_matmul_precision()
    yield select
    torch.set_float32_matmul_precision(before)


def outputs(name: str, data: tuple[Tensor, ...]) -> list[Tensor]:
    """An op's results, and the gradients of a fixed weighting of them."""
    leaves = name not in WITHOUT_GRADIENT
    data = tuple(x.detach().requires_grad_(leaves and x.is_floating_point()) for x in data)
    out = CASES[name][0](*data)
    out = list(out) if isinstance(out, tuple) else [out]
    graded = [x for x in out if x.requires_grad]
    if not graded:
        return out
    loss = sum((x * torch.linspace(-1, 2, x.numel()).view(x.shape).to(x)).sum() for x in graded)
    grads = torch.autograd.grad(loss, [x for x in data if x.requires_grad], allow_unused=True)
    return [x.detach() for x in out] + [g for g in grads if g is not None]


def test_every_public_op_with_native_code_is_here():
    if reason := library.problem():
        pytest.skip(f"the native library is not there: {reason}")
    native = {name for family in library.families() for name in family.PUBLIC if name in ops.NAMES}
    apart = {"adam_step", "conv", "deconv", "imagine", "observe_scan"}  # have tests of their own
    assert native and native <= set(CASES) | apart


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows, columns", SIZES)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_native_against_definition(native_on, device, rows, columns, name, dtype):
    """In bfloat16 only the first argument is, as activations are; an op only for float32 must say so."""
    native_on(device)
    data = CASES[name][1](rows, columns)
    if dtype is torch.bfloat16 and data[0].is_floating_point():
        data = (data[0].bfloat16(), *data[1:])
    here = tuple(x.to(device) for x in data)
    try:
        with ops.use("native"):
            got = outputs(name, here)
    except (TypeError, ValueError) as refusal:
        assert dtype is torch.bfloat16 and "float32" in str(refusal)
        return
    with ops.use("reference"):
        eager = outputs(name, here)
        exact = outputs(name, tuple(x.double() if x.is_floating_point() else x for x in data))
    for i, (a, b, c) in enumerate(zip(got, eager, exact, strict=True)):
        if i < SAMPLES.get(name, 0):
            assert (a.cpu() == c).float().mean() > 0.999, f"{name}, output {i}"
        else:
            assert_as_accurate(a, b.to(a.dtype), c.double(), floor=4e-3 if a.dtype is torch.bfloat16 else 2e-6,
                               name=f"{name}, output {i}")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sizes", [(16, 1536, 1024), (1, 7, 5), (37, 33, 257)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_products_into_buffers(native_on, device, sizes, dtype):
    """Sums stay float32, also if torch multiplies bfloat16."""
    native_on(device)
    rows, columns, inner = sizes
    a, b = (n(*shape).to(dtype).to(device) for shape in ((rows, inner), (inner, columns)))
    start = n(rows, columns).to(device)
    exact = a.double() @ b.double()
    for got, want in ((mm_into(torch.empty_like(start), a, b), exact),
                      (add_mm(start.clone(), a, b), exact + start)):
        assert got.dtype is torch.float32
        torch.testing.assert_close(got.double(), want, atol=1e-5 * inner ** 0.5, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [1, 4099])
def test_adam_against_its_equations(native_on, device, size):
    native_on(device)
    param, grad, mean = (n(size).to(device) for _ in range(3))
    var, step = u(size).to(device), torch.full((), 2, device=device)
    want, exact = [x.double() for x in (param, grad, mean, var)], torch.linalg.vector_norm(grad.double())
    norm, *_ = adam_step(param, grad, mean, var, step, lr=1e-3, eps=1e-8, clip=1.0, beta1=0.9, beta2=0.999)
    clipped = want[1] * (1 / exact).clamp(max=1)
    first, second = 0.9 * want[2] + 0.1 * clipped, 0.999 * want[3] + 0.001 * clipped ** 2
    after = want[0] - 1e-3 * (first / (1 - 0.9 ** 3)) / ((second / (1 - 0.999 ** 3)).sqrt() + 1e-8)
    for got, expected in ((norm, exact), (mean, first), (var, second), (param, after)):
        torch.testing.assert_close(got.double(), expected, atol=1e-6, rtol=1e-5)
    assert step.item() == 3
