"""Convolutions of the image networks: values and gradients against float64, odd sizes, strides, threads, bad shapes."""

import pytest
import torch
import torch.nn.functional as F
from op_cases import compare, results

from hdfast import ops
from hdfast.ops.conv import conv, deconv

# Images N, sides h, w of the small image, channels C of the big one and D of the small one. From 16 channels on it is
# Winograd's algorithm, whose tiles have 2x2 pixels: odd sides leave half a tile. Otherwise it is the definition, with D
# or 2C in vectors, of which the last may be partly used.
SIZES = [(3, 4, 4, 16, 32), (1, 1, 1, 8, 1), (5, 3, 2, 9, 13), (2, 7, 5, 20, 33), (70, 2, 2, 33, 50),
         (9, 16, 16, 32, 8), (2, 1, 1, 1, 1), (3, 5, 4, 3, 7), (2, 33, 9, 7, 6), (2, 13, 13, 8, 24), (2, 6, 5, 2, 57)]


pytestmark = pytest.mark.usefixtures("one_thread_of_native_code")


def leaves(sizes, op):
    """The image and the kernel of a convolution or of a transposed one."""
    images, h, w, c, d = sizes
    torch.manual_seed(sum(sizes))
    x, y = torch.randn(images, 2 * h, 2 * w, c), torch.rand(images, h, w, d)
    kernel = torch.randn(d, c, 4, 4) / (16 * (c if op is conv else d)) ** 0.5
    return x if op is conv else y, kernel


@pytest.mark.parametrize("op", [conv, deconv])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_as_accurate_as_torch(op, sizes):
    got = compare(op, *leaves(sizes, op), least=1.0, weigh=torch.abs)  # gradients with a mean: the worst case
    assert all(t.is_contiguous() for t in got)


@pytest.mark.parametrize("op", [conv, deconv])
def test_strided_and_shared_inputs(op):
    def channels_first(t):
        return t.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)

    image, kernel = leaves((3, 4, 6, 12, 20), op)
    strided = channels_first(image), kernel.permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2)
    for g, w in zip(results(op, strided, weigh=channels_first), results(op, (image, kernel)), strict=True):
        assert torch.equal(g, w)

    def shared(t):
        return t[:1, :1, :1, :1].expand_as(t)

    for g, w in zip(results(op, (image, kernel), weigh=shared),
                    results(op, (image, kernel), weigh=lambda t: shared(t).contiguous()), strict=True):
        assert torch.equal(g, w)


@pytest.mark.parametrize("op", [conv, deconv])
@pytest.mark.parametrize("sizes", [(0, 4, 4, 16, 8), (0, 4, 4, 3, 8), (2, 0, 4, 16, 8), (2, 4, 0, 16, 8)], ids=str)
def test_no_images(op, sizes):
    out, dimage, dkernel = results(op, leaves(sizes, op))
    assert out.numel() == 0 == dimage.numel() and not dkernel.any()


def test_threads_do_not_change_a_bit():
    sizes, few = (37, 8, 8, 18, 24), (37, 8, 8, 3, 22)

    def run():
        return [x for op, size in ((conv, sizes), (deconv, sizes), (deconv, few))
                for x in results(op, leaves(size, op))]

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
    x, kernel = leaves((2, 2, 2, 8, 4), conv)
    x.requires_grad_(), kernel.requires_grad_()

    def penalty(op):
        grads = torch.autograd.grad(op(x, kernel).square().sum(), (x, kernel), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), (x, kernel))

    got = penalty(conv)
    with ops.use("reference"):
        want = penalty(conv)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-4 * float(w.abs().max()))


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
    image, kernel = leaves(sizes, op)

    def rounded(image, kernel):
        kernel.shadow = kernel.detach().bfloat16()
        return op(image, kernel)

    half = image.bfloat16(), kernel
    got = results(rounded, half, weigh=torch.abs)
    assert [t.dtype for t in got] == [torch.bfloat16, torch.bfloat16, torch.float32]
    with ops.use("reference"):
        eager = results(rounded, half, weigh=torch.abs)
        exact = results(op, (image.double(), kernel.double()), weigh=torch.abs)
    for g, e, x in zip(got, eager, exact, strict=True):
        error, plain = ((t.double() - x).norm() / x.norm().clamp(min=1e-9) for t in (g, e))
        assert error <= 4 * plain + 1e-3


def test_the_last_layer_gives_float32():
    y, kernel = leaves((2, 4, 4, 3, 16), deconv)
    kernel.shadow = kernel.bfloat16()
    last, inner = deconv(y.bfloat16(), kernel, last=True), deconv(y.bfloat16(), kernel)
    assert (last.dtype, inner.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(last.bfloat16(), inner)
