"""returns: lambda returns and state weights with their gradients against the reference."""

import pytest
import torch
from loss_cases import compare, on_device, rand, uniform  # noqa: F401

from hdfast.ops import library, reference
from hdfast.ops.returns import lambda_return, return_weight

OPTIONS = dict(gamma=1 - 1 / 333, lam=0.95)


def conts(*shape: int):
    """Ones, a third zeros, and values between."""
    u = uniform(*shape, seed=7)
    return torch.where(u < 1 / 3, 0.0, torch.where(u < 2 / 3, 1.0, u))


@pytest.mark.parametrize("horizon", [1, 2, 15])
@pytest.mark.parametrize("shape", [(1,), (7,), (0,), (3, 5), (1031,), ()])
def test_lambda_return(native, horizon, shape):
    compare(lambda *x: lambda_return(*x, **OPTIONS), lambda *x: reference.lambda_return(*x, **OPTIONS),
            rand(horizon, *shape).requires_grad_(), rand(horizon + 1, *shape, seed=1).requires_grad_(),
            conts(horizon + 1, *shape).requires_grad_())


@pytest.mark.parametrize("time", [1, 2, 16])
@pytest.mark.parametrize("shape", [(1,), (7,), (0,), (3, 5), (1031,)])
def test_return_weight(native, time, shape):
    compare(lambda x: return_weight(x, gamma=0.997), lambda x: reference.return_weight(x, gamma=0.997),
            conts(time, *shape).requires_grad_())


def test_columns_of_no_step_take_no_time(native):
    nothing = torch.empty(0, 1 << 40, device=native.device)
    weight = native.ops.return_weight_fwd(nothing, 0.9)
    assert weight.shape == native.ops.return_weight_bwd(nothing, nothing, weight, 0.9).shape == nothing.shape


def test_strided_inputs_and_errors(native):
    reward, value, cont = rand(7, 4).t(), rand(7, 5, seed=1).t(), conts(7, 5).t()
    torch.testing.assert_close(lambda_return(reward, value, cont, **OPTIONS),
                               reference.lambda_return(reward, value, cont, **OPTIONS))
    with pytest.raises(ValueError, match="value must have shape"):
        lambda_return(reward, value[1:], cont, **OPTIONS)
    with pytest.raises(ValueError, match="H at least 1"):
        lambda_return(reward[:0], value[:1], cont[:1], **OPTIONS)
    with pytest.raises(TypeError, match="cont must be float32"):
        return_weight(cont.double(), gamma=0.9)


def test_opcheck_and_compile(native):
    reward, value, cont = rand(4, 3).requires_grad_(), rand(5, 3).requires_grad_(), conts(5, 3).requires_grad_()
    torch.library.opcheck(library.op("lambda_return_fwd"), (reward, value, cont, 0.99, 0.95))
    torch.library.opcheck(library.op("return_weight_fwd"), (cont, 0.99))
    f = lambda r, v, c: lambda_return(r, v, c, **OPTIONS).sum() + return_weight(c, gamma=0.9).sum()  # noqa: E731
    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="aot_eager")(reward, value, cont),
                               f(reward, value, cont))
