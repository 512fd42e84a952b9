"""image_loss, cont_loss, harmony and replay_gather against the reference."""

import pytest
import torch
from loss_cases import compare, on_device, rand, uniform  # noqa: F401

from hdfast.ops import library, reference
from hdfast.ops.cont_loss import cont_loss
from hdfast.ops.harmony import NAMES, harmony_loss, weighted_loss
from hdfast.ops.image_loss import image_loss
from hdfast.ops.replay_gather import replay_gather


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 5, 3), (3, 4, 4, 3), (2, 2, 64, 64, 3), (0, 4, 4, 3), (3, 0, 4, 3)])
def test_image_loss(native, shape):
    compare(image_loss, reference.image_loss, rand(*shape).requires_grad_(), uniform(*shape).requires_grad_())


def test_image_loss_of_strided_and_half_images(native):
    recon, image = rand(2, 3, 8, 8).permute(0, 2, 3, 1), uniform(2, 8, 8, 3)
    torch.testing.assert_close(image_loss(recon, image), reference.image_loss(recon, image))
    half = recon.bfloat16().requires_grad_()
    image_loss(half, image).sum().backward()
    assert half.grad.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="image must have shape"):
        image_loss(recon, image[:, :4])


@pytest.mark.parametrize("shape", [(), (1,), (7,), (0,), (3, 5), (1031,)])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_cont_loss(native, shape, scale):
    cont = (uniform(*shape, seed=4) < 0.5).float()
    compare(cont_loss, reference.cont_loss, rand(*shape, scale=scale).requires_grad_(), cont)


def test_cont_loss_of_certain_logits(native):
    logit, cont = torch.tensor([1e4, -1e4, 1e4, -1e4, torch.nan]), torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    torch.testing.assert_close(cont_loss(logit, cont), reference.cont_loss(logit, cont), equal_nan=True)


def split(stacked):
    return dict(zip(NAMES, stacked, strict=True))


@pytest.mark.parametrize("shape", [(1,), (7,), (64, 16), (5000,)])
@pytest.mark.parametrize("mode", ["rectified", "plain"])
def test_harmony(native, mode, shape):
    s = torch.tensor([0.3, -4.0, 7.0]).requires_grad_()
    losses = [(5 * uniform(*shape, seed=i)).requires_grad_() for i in range(5)]
    compare(lambda s, *x: harmony_loss(split(x), s, mode=mode, dyn_share=0.8),
            lambda s, *x: reference.harmony_loss(split(x), s, mode=mode, dyn_share=0.8), s, *losses)


def test_harmony_gradient_is_the_closed_form(native):
    s, losses = rand(3).requires_grad_(), split([uniform(4, 3, seed=i) for i in range(5)])
    for mode in ("rectified", "plain"):
        grad, = torch.autograd.grad(harmony_loss(losses, s, mode=mode)[0], s)
        torch.testing.assert_close(grad, reference.harmony_grad(losses, s.detach(), mode=mode))


def test_harmony_off_is_the_weighted_sum_of_means(native):
    scales = {"reward": 1.0, "image": 2.0, "dyn": 0.5, "rep": 0.1, "cont": 3.0}
    losses = [(5 * uniform(6, 7, seed=i)).requires_grad_() for i in range(5)]
    compare(lambda *x: weighted_loss(split(x), scales)[0],
            lambda *x: reference.weighted_loss(split(x), scales)[0], *losses)
    total, terms = weighted_loss(split(losses), scales)
    torch.testing.assert_close(terms.sum() + 3 * losses[4].mean(), total)


def test_harmony_errors(native):
    s, losses = torch.zeros(3), split([uniform(4) for _ in range(5)])
    with pytest.raises(ValueError, match="mode must be"):
        harmony_loss(losses, s, mode="off")
    with pytest.raises(ValueError, match="losses must be"):
        harmony_loss({"reward": losses["reward"]}, s)
    with pytest.raises(ValueError, match="not be empty"):
        harmony_loss(split([torch.zeros(0)] * 5), s)


@pytest.mark.parametrize("shape", [(64, 64, 3), (5, 3, 1), (7,)])
@pytest.mark.parametrize("rows", [(0,), (1,), (4, 3)])
def test_replay_gather(native, shape, rows):
    ring = (uniform(9, *shape) * 256).to(torch.uint8)
    index = (uniform(*rows, seed=1) * 9).long()
    want = ring[index].cpu().float() / 255  # on CUDA torch multiplies by 1 / 255, which differs in the last bit
    assert torch.equal(replay_gather(ring, index).cpu(), want)


def test_replay_gather_outside_the_ring(native):
    ring = torch.arange(12, dtype=torch.uint8).view(3, 4)
    got = replay_gather(ring, torch.tensor([0, 3, -1, 2]))
    assert got.isnan().any(1).tolist() == [False, True, True, False] and got[1:3].isnan().all()
    with pytest.raises(ValueError, match="ring must be contiguous"):
        replay_gather(ring.t(), torch.tensor([0]))


def test_opcheck(native):
    x = rand(3, 8).requires_grad_()
    torch.library.opcheck(library.op("image_loss_fwd"), (x, uniform(3, 8).requires_grad_()))
    torch.library.opcheck(library.op("cont_loss_fwd"), (x, (uniform(3, 8) < 0.5).float()))
    torch.library.opcheck(library.op("replay_gather"), (torch.zeros(3, 8, dtype=torch.uint8), torch.tensor([2, 0])))
    losses = [uniform(6, seed=i).requires_grad_() for i in range(5)]
    torch.library.opcheck(library.op("harmony_fwd"), (*losses, rand(3).requires_grad_(), 0, 0.8, []))
    torch.library.opcheck(library.op("harmony_fwd"), (*losses, None, 2, 0.8, [1.0, 2.0, 3.0, 4.0, 5.0]))


def test_compiles_as_a_whole(native):
    def f(recon, image, logit, cont, s):
        losses = dict.fromkeys(NAMES, cont_loss(logit, cont)) | {"image": image_loss(recon, image)}
        return harmony_loss(losses, s)[0]

    args = rand(5, 4, 4, 3), uniform(5, 4, 4, 3), rand(5), (uniform(5) < 0.5).float(), rand(3)
    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="aot_eager")(*args), f(*args))
