"""Convolutions of the image networks: values and gradients against float64, odd sizes, strides, threads, bad shapes."""

import pytest
import torch
import torch.nn.functional as F

from hdfast import ops
from hdfast.ops.conv import FEW, conv, deconv
from tolerance import assert_as_accurate

# Images N, sides h, w of the small image, channels C of the big one and D of the small one. Above 16 channels, in bf16
# and of the transposed convolution from 8 on, it is Winograd's algorithm, whose tiles have 2x2 pixels: odd sides leave
# half a tile. Otherwise it is the definition, with D in vectors, of which the last may be partly used.
SIZES = [(3, 4, 4, 16, 32), (1, 1, 1, 8, 1), (5, 3, 2, 9, 13), (2, 7, 5, 20, 33), (70, 2, 2, 33, 50),
         (9, 16, 16, 32, 8), (2, 1, 1, 1, 1), (3, 5, 4, 3, 7), (2, 33, 9, 7, 6), (2, 13, 13, 8, 24), (2, 6, 5, 2, 57)]


pytestmark = pytest.mark.usefixtures("one_thread_of_native_code")


def leaves(sizes, big):
    """The image, the kernel and the output's gradient of a convolution (`big`) or of a transposed one."""
    images, h, w, c, d = sizes
    torch.manual_seed(sum(sizes))
    x, y = torch.randn(images, 2 * h, 2 * w, c), torch.rand(images, h, w, d)
    kernel = torch.randn(d, c, 4, 4) / (16 * (c if big else d)) ** 0.5
    return (x, kernel, y) if big else (y, kernel, x)


def results(op, image, kernel, dout):
    image, kernel = (t.detach().clone().requires_grad_() for t in (image, kernel))
    out = op(image, kernel)
    return [out.detach(), *torch.autograd.grad(out, (image, kernel), dout)]


@pytest.mark.parametrize("op", [conv, deconv])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_as_accurate_as_torch(op, sizes):
    data = leaves(sizes, op is conv)
    got = results(op, *data)
    with ops.use("reference"):
        eager, exact = results(op, *data), results(op, *(t.double() for t in data))
    assert sizes[3] < FEW or all(t.is_contiguous() for t in got)
    for name, g, e, x in zip(("output", "image gradient", "kernel gradient"), got, eager, exact, strict=True):
        assert_as_accurate(g, e, x, name=name)


@pytest.mark.parametrize("op", [conv, deconv])
def test_strided_and_shared_inputs(op):
    image, kernel, dout = leaves((3, 4, 6, 12, 20), op is conv)
    want = results(op, image, kernel, dout)
    strided = [t.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1) for t in (image, dout)]
    got = results(op, strided[0], kernel.permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2), strided[1])
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g, w)
    assert torch.equal(results(op, image, kernel, dout[:1, :1, :1, :1].expand_as(dout))[0], want[0])


@pytest.mark.parametrize("op", [conv, deconv])
@pytest.mark.parametrize("sizes", [(0, 4, 4, 16, 8), (0, 4, 4, 3, 8), (2, 0, 4, 16, 8), (2, 4, 0, 16, 8)], ids=str)
def test_no_images(op, sizes):
    out, dimage, dkernel = results(op, *leaves(sizes, op is conv))
    assert out.numel() == 0 == dimage.numel() and not dkernel.any()


def test_threads_do_not_change_a_bit():
    data, few = leaves((37, 8, 8, 18, 24), True), leaves((37, 8, 8, 3, 22), False)

    def run():
        return [*results(conv, *data), *results(deconv, data[2], data[1], data[0]), *results(deconv, *few)]

    one = run()
    torch.set_num_threads(2)
    assert all(torch.equal(a, b) for a, b in zip(one, run(), strict=True))


def test_other_kernels_types_and_odd_sides_take_torch():
    x = torch.randn(2, 7, 6, 5)
    for image, kernel in ((x, torch.randn(3, 5, 4, 4)), (x, torch.randn(3, 5, 3, 3)),
                          (x[:, :6].bfloat16(), torch.randn(3, 5, 4, 4).bfloat16())):
        want = F.conv2d(image.permute(0, 3, 1, 2), kernel, stride=2, padding=1).permute(0, 2, 3, 1)
        assert torch.equal(conv(image, kernel), want)


def test_second_derivatives():
    x, kernel, _ = leaves((2, 2, 2, 8, 4), True)
    x.requires_grad_(), kernel.requires_grad_()

    def penalty(op):
        grads = torch.autograd.grad(op(x, kernel).square().sum(), (x, kernel), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), (x, kernel))

    got = penalty(conv)
    with ops.use("reference"):
        want = penalty(conv)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-4 * float(w.abs().max()))


def test_opcheck():
    x, kernel, y = leaves((2, 3, 4, 9, 5), True)
    for op, args in ((torch.ops.hdfast.conv_down, (x, kernel)), (torch.ops.hdfast.conv_up, (y, kernel)),
                     (torch.ops.hdfast.conv_kernel, (x, y))):
        torch.library.opcheck(op.default, [t.clone().requires_grad_() for t in args])


def test_compiles_without_graph_breaks():
    x, kernel, y = leaves((2, 3, 4, 9, 5), True)
    both = torch.compile(lambda x, y, k: (conv(x, k), deconv(y, k)), fullgraph=True, backend="aot_eager")
    for got, want in zip(both(x, y, kernel), (conv(x, kernel), deconv(y, kernel)), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("op, shapes", [
    ("conv_down", ((2, 8, 8, 9), (5, 8, 4, 4))), ("conv_down", ((2, 7, 8, 9), (5, 9, 4, 4))),
    ("conv_down", ((8, 8, 9), (5, 9, 4, 4))), ("conv_down", ((2, 8, 8, 9), (5, 9, 3, 4))),
    ("conv_up", ((2, 4, 4, 6), (5, 9, 4, 4))), ("conv_up", ((2, 4, 4, 5), (5, 9))), ("conv_up", ((4, 5), (5, 9, 4, 4))),
    ("conv_kernel", ((2, 8, 8, 9), (2, 4, 3, 5))), ("conv_kernel", ((2, 8, 8, 9), (3, 4, 4, 5))),
    ("conv_kernel", ((2, 8, 8, 9), (5,)))], ids=str)
def test_raw_ops_refuse_shapes_that_do_not_fit(op, shapes):
    with pytest.raises(RuntimeError, match=op):
        getattr(torch.ops.hdfast, op)(*(torch.zeros(s) for s in shapes))


def test_public_functions_say_what_was_expected():
    with pytest.raises(ValueError, match=r"conv: kernel must have shape \(5, 9, 4, 4\)"):
        conv(torch.zeros(2, 8, 8, 9), torch.zeros(5, 8, 4, 4))
    with pytest.raises(ValueError, match=r"deconv: kernel must have shape \(6, 9, 4, 4\)"):
        deconv(torch.zeros(2, 4, 4, 6), torch.zeros(5, 9, 4, 4))
    with pytest.raises(RuntimeError, match="contiguous"):
        torch.ops.hdfast.conv_down(torch.zeros(2, 8, 9, 8).transpose(2, 3), torch.zeros(5, 9, 4, 4))


@pytest.mark.parametrize("op", [conv, deconv])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_bf16_operands(op, sizes):
    """A kernel with a shadow: as accurate as torch in bfloat16 up to what Winograd costs. Its operands are sums of
    up to four pixels, which round anew and cancel in the result; gradients with a mean are the worst case, 3 times."""
    image, kernel, dout = leaves(sizes, op is conv)

    def run(cast, half):
        x, w = cast(image).requires_grad_(), cast(kernel).requires_grad_()
        if half:
            x, w.shadow = x.detach().bfloat16().requires_grad_(), w.detach().bfloat16()
        out = op(x, w)
        return out, *torch.autograd.grad(out, (x, w), dout.to(out.dtype))

    got = run(torch.clone, True)
    assert [t.dtype for t in got] == [torch.bfloat16, torch.bfloat16, torch.float32]
    with ops.use("reference"):
        eager, exact = run(torch.clone, True), run(torch.Tensor.double, False)
    for g, e, x in zip(got, eager, exact, strict=True):
        error, plain = ((t.double() - x).norm() / x.norm().clamp(min=1e-9) for t in (g, e))
        assert error <= 4 * plain + 1e-3


def test_the_last_layer_gives_float32():
    y, kernel, _ = leaves((2, 4, 4, 3, 16), False)
    kernel.shadow = kernel.bfloat16()
    last, inner = deconv(y.bfloat16(), kernel, last=True), deconv(y.bfloat16(), kernel)
    assert (last.dtype, inner.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(last.bfloat16(), inner)
