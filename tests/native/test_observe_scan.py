"""The posterior scan, as one native call each way and as steps: equal to RSSM.observe, with every gradient."""

import pytest
import torch
import torch.nn.functional as F
from scan_cases import HALF, OUTPUTS, STEPS, TRACED, gradients, make, native_scan, on

from hdfast import ops
from hdfast.ops.observe_scan import observe_scan
from tolerance import assert_as_accurate

# T, B, E, A, D, U, S, K
SIZES = [(1, 1, 1, 1, 1, 2, 1, 2), (2, 1, 5, 3, 7, 6, 2, 3), (7, 3, 20, 5, 16, 12, 3, 5), (5, 17, 40, 4, 33, 37, 4, 32),
         (4, 2, 9, 2, 24, 24, 2, 70)]


def reference_scan(rssm, embed, action, is_first, u):
    with ops.use("reference"):
        o = rssm.observe(embed, action, is_first, u)
    return o.state.deter, o.state.stoch, o.state.index, o.post, o.prior


def compare(sizes, device="cpu", **options):
    used = options.pop("used", ("deter", "stoch", "post", "prior"))
    rssm, batch = make(sizes, **options)
    out, grads = gradients(native_scan, *on(device, rssm, batch), used)
    out, grads = ({k: x.cpu() for k, x in named.items()} for named in (out, grads))
    rssm = rssm.cpu()
    eager_out, eager_grads = gradients(reference_scan, rssm, batch, used)
    exact = (batch[0].double(), batch[1].double(), batch[2], batch[3].double())
    exact_out, exact_grads = gradients(reference_scan, make(sizes, **options)[0].double(), exact, used)
    assert torch.equal(out["index"], eager_out["index"]) and torch.equal(out["index"], exact_out["index"])
    assert torch.equal(out["stoch"], F.one_hot(out["index"], rssm.classes).float())
    for name in ("deter", "post", "prior"):
        assert_as_accurate(out[name], eager_out[name], exact_out[name], floor=2e-6, name=name)
    for name, exact in exact_grads.items():
        assert_as_accurate(grads[name], eager_grads[name], exact, floor=2e-6, name=f"d {name}")


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_equals_the_reference(sequences, sizes):
    compare(sizes, sequences.device)


@pytest.mark.parametrize("first", [0.0, 1.0])
@pytest.mark.parametrize("mix", [0.0, 0.3])
def test_masks_and_mixes(sequences, first, mix):
    compare((6, 4, 10, 3, 8, 8, 3, 4), sequences.device, first=first, mix=mix)


@pytest.mark.parametrize("used", [("deter",), ("stoch",), ("post",), ("prior",)])
def test_each_output_alone_has_its_gradient(sequences, used):
    compare((6, 4, 10, 3, 8, 8, 3, 4), sequences.device, used=used)


@HALF
@pytest.mark.parametrize("sizes", [(7, 5, 24, 4, 16, 12, 3, 8), (3, 2, 5, 3, 7, 6, 2, 3)], ids=str)
def test_operands_in_bfloat16(sequences, sizes):
    """Every product rounds its operands to 8 bits: all results within a few of their roundings, none unrounded."""
    rssm, (embed, *rest) = on(sequences.device, *make(sizes))
    want, want_grads = gradients(native_scan, rssm, (embed, *rest))
    got, grads = gradients(native_scan, rssm, (embed.bfloat16(), *rest))
    assert torch.equal(got["index"], want["index"]) and grads["embed"].dtype is torch.bfloat16
    for name, exact in {**{k: want[k] for k in ("deter", "post", "prior")}, **want_grads}.items():
        error = ((grads if name in grads else got)[name] - exact).abs().max() / exact.abs().max()
        assert 1e-5 < error < 0.03, (name, float(error))
    assert all(x.dtype is torch.float32 for name, x in {**got, **grads}.items() if name not in ("index", "embed"))


@pytest.mark.parametrize("sequences", ["call"], indirect=True)
def test_the_call_in_bfloat16(sequences):
    """One step from the initial state, so that a flipped sample stays where it is: outputs, types of gradients."""
    rssm, (embed, *rest) = make((1, 40, 60, 3, 33, 24, 4, 5))
    half = embed.bfloat16().requires_grad_()
    got, want = (dict(zip(OUTPUTS, native_scan(rssm, x, *rest), strict=True)) for x in (half, embed))
    for name in ("deter", "post", "prior"):
        assert got[name].dtype == torch.float32
        assert 0 < (got[name] - want[name]).norm() <= 1e-2 * want[name].norm()
    grad = torch.autograd.grad((got["post"] * want["prior"].detach()).sum(), [half, rssm.obs_out.kernel])
    assert [g.dtype for g in grad] == [torch.bfloat16, torch.float32] and all(g.abs().max() > 0 for g in grad)


def test_strided_inputs(sequences):
    rssm, (embed, action, is_first, u) = on(sequences.device, *make((5, 4, 10, 3, 8, 8, 3, 4)))
    want = native_scan(rssm, embed, action, is_first, u)
    swap = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (embed, action, is_first, u)]
    assert all(torch.equal(a, b) for a, b in zip(want, native_scan(rssm, *swap), strict=True))


def test_model_uses_it_under_the_native_backend(sequences):
    rssm, batch = on(sequences.device, *make((5, 4, 10, 3, 8, 8, 3, 4)))
    out, want = rssm.observe(*batch), native_scan(rssm, *batch)
    assert torch.equal(out.state.deter, want[0]) and torch.equal(out.prior, want[4])


@TRACED
def test_compiles_without_graph_break(sequences):
    rssm, batch = on(sequences.device, *make((5, 4, 10, 3, 8, 8, 3, 4)))
    params = rssm.weights()

    def loss(embed):
        out = observe_scan(embed, *batch[1:], params, classes=4, mix=0.01)
        return out[0].square().sum() + out[3].square().sum()

    embed = batch[0].clone().requires_grad_()
    want = torch.autograd.grad(loss(embed), embed)[0]
    got = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(embed), embed)[0]
    torch.testing.assert_close(got, want)


@STEPS
def test_opcheck(sequences):
    rssm, (embed, action, is_first, u) = on(sequences.device, *make((3, 2, 6, 3, 5, 4, 2, 3)))
    torch.library.opcheck(torch.ops.hdfast.observe_launches_fwd.default, (
        embed.requires_grad_(), action, is_first, u, list(rssm.weights()), 3, 0.01, []))


@pytest.mark.parametrize("sequences", ["call", "steps"], indirect=True)
def test_errors_say_what_is_wrong(sequences):
    rssm, (embed, action, is_first, u) = make((3, 2, 6, 3, 5, 4, 2, 3))
    with pytest.raises(TypeError, match="is_first must be bool"):
        native_scan(rssm, embed, action, is_first.float(), u)
    with pytest.raises(ValueError, match="action must have shape"):
        native_scan(rssm, embed, action[..., :2], is_first, u)
