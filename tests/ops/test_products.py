"""Products into float32 buffers: what each torch can do with bfloat16 on CUDA, and what replaces the rest."""

from types import SimpleNamespace

import pytest
import torch

from hdfast.ops import products

CPU, META = torch.device("cpu"), torch.device("meta")


def right(out, a, b, dtype, *, out_):
    return out_.copy_(out + a.float() @ b.float())


def wrong(out, a, b, dtype, *, out_):
    return out_.copy_(a.float() @ b.float())  # forgets what was there


def refused(out, a, b, dtype, *, out_):
    raise RuntimeError("self and mat2 must have the same dtype, but got Float and BFloat16")


@pytest.mark.parametrize("device, product, found", [
    (CPU, right, True), (CPU, wrong, False), (CPU, refused, False), (CPU, None, False),
    (META, right, True), (META, refused, False)])
def test_adding_to_float32_is_tried_before_it_is_relied_on(monkeypatch, device, product, found):
    op = SimpleNamespace() if product is None else SimpleNamespace(
        dtype_out=lambda x, a, b, dtype, *, out: product(x, a, b, dtype, out_=out))
    monkeypatch.setattr(products, "aten", SimpleNamespace(addmm=op))
    assert products.accumulates.__wrapped__(device) is found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_into_buffers(dtype):
    torch.manual_seed(0)
    a, b = torch.randn(5, 7).to(dtype), torch.randn(7, 3).to(dtype)
    want, start = a.double() @ b.double(), torch.randn(5, 3)
    for got, exact in ((products.mm_into(torch.empty(5, 3), a, b), want), (products.new_mm(a, b), want),
                       (products.add_mm(start.clone(), a, b), want + start)):
        assert got.dtype is torch.float32
        torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=1e-6)
    into = start.clone()
    assert products.add_mm(into, a, b) is into
