"""Our values for the official unit vectors: building blocks one by one."""

import numpy as np
import torch
from torch import nn

from hdfast import ops
from hdfast.adapters.official import CONV, DECONV
from hdfast.arena import Arena
from hdfast.model.encoders import ConvStage, DeconvStage
from hdfast.model.nets import Dense
from hdfast.model.policy import STD, Normal

INPUTS = ("symlog/x", "symexp/x", "twohot/target", "twohot/logit", "linear_ln_silu/x", "linear_ln_silu/kernel",
          "linear_ln_silu/norm/bias", "linear_ln_silu/norm/scale", "conv_s2/x", "conv_s2/kernel", "conv_s2/norm/bias",
          "conv_s2/norm/scale", "deconv_s2/x", "deconv_s2/bias", "deconv_s2/kernel", "kl/a", "kl/b", "moments/x",
          "opt_clip/p0", "opt_clip/grads", "opt_noclip/p0", "opt_noclip/grads", "harmonizer/s", "harmonizer/loss")


def set_norm(module, data: dict, prefix: str) -> None:
    module.norm.scale.data = data[f"{prefix}/norm/scale"]
    module.norm.bias.data = data[f"{prefix}/norm/bias"]


def adam(p0: torch.Tensor, grads: torch.Tensor, eps: float, clip: float) -> list[torch.Tensor]:
    param = nn.Parameter(p0.clone())
    optimizer, out = Arena({"p": param}, lr=1e-2, eps=eps, clip=clip), []
    for grad in grads:
        optimizer.zero_grad()
        param.grad.copy_(grad)
        optimizer.update()
        out.append(param.detach().clone())
    return out


def unit_figures(official: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every figure of a unit file, of the first kind or of continuous control, from the inputs stored in it."""
    d = {k: torch.from_numpy(np.array(v)) for k, v in official.items()}
    out = continuous_figures(d) if "normal/out" in d else block_figures(d)
    return {k: v.detach().numpy() if torch.is_tensor(v) else v for k, v in out.items()}


def continuous_figures(d: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The actor's normal distribution and the loss of vectors."""
    out = {k: d[k] for k in ("normal/out", "normal/raw_std", "normal/eps", "normal/action", "normal/w",
                             "symlog_mse/pred", "symlog_mse/target", "symlog_mse/w")}
    raw = [d[f"normal/{k}"].clone().requires_grad_() for k in ("out", "raw_std")]
    policy = Normal(*ops.normal_policy(*raw))
    logp, entropy = policy.log_prob(d["normal/action"])
    sample = policy.sample(d["normal/eps"])
    figures = {"mean": policy.mean, "std": policy.std, "logp": logp, "entropy": entropy, "sample": sample}
    for name, f in (("logp", logp), ("entropy", entropy), ("sample", sample.sum(-1))):
        grads = torch.autograd.grad((d["normal/w"] * f).sum(), raw, retain_graph=True, allow_unused=True)
        figures |= {f"{name}_grad_{k}": torch.zeros_like(x) if g is None else g
                    for k, x, g in zip(("out", "raw_std"), raw, grads, strict=True)}
    for name, std in zip(("minent", "maxent"), STD, strict=True):
        size = d["normal/out"].shape[-1]
        figures[name] = ops.normal_log_prob(torch.zeros(size), torch.full((size,), std), torch.zeros(size))[1]
    out |= {f"normal/{k}": v for k, v in figures.items()}
    pred = d["symlog_mse/pred"].clone().requires_grad_()
    loss = ops.vector_loss(pred, d["symlog_mse/target"])
    grad, = torch.autograd.grad((d["symlog_mse/w"] * loss).sum(), pred)
    return out | {"symlog_mse/loss": loss, "symlog_mse/grad": grad, "symlog_mse/mean": ops.symexp(pred)}


def block_figures(d: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Layers, losses, return range, Adam and harmonizer."""
    out = {k: d[k] for k in INPUTS}
    out["symlog/y"], out["symexp/y"] = ops.symlog(d["symlog/x"]), ops.symexp(d["symexp/x"])

    logit = d["twohot/logit"].clone().requires_grad_()
    out["twohot/bins"] = ops.twohot_bins(len(d["twohot/bins"]))
    out["twohot/nll"], out["twohot/mean"] = ops.twohot_loss(logit, d["twohot/target"]), ops.twohot_mean(logit)
    out["twohot/nll_grad_logit"], = torch.autograd.grad(out["twohot/nll"].sum(), logit)

    dense = Dense(*d["linear_ln_silu/kernel"].shape)
    dense.kernel.data = d["linear_ln_silu/kernel"]
    set_norm(dense, d, "linear_ln_silu")
    out["linear_ln_silu/y"] = dense(d["linear_ln_silu/x"])
    conv = ConvStage(*d["conv_s2/kernel"].shape[2:])
    conv.kernel.data = CONV[0](d["conv_s2/kernel"])
    set_norm(conv, d, "conv_s2")
    out["conv_s2/y"] = conv(d["conv_s2/x"])
    deconv = DeconvStage(*d["deconv_s2/kernel"].shape[:1:-1], last=True)
    deconv.kernel.data = DECONV[0](d["deconv_s2/kernel"])
    deconv.bias.data = d["deconv_s2/bias"]
    out["deconv_s2/y"] = deconv(d["deconv_s2/x"])

    a, b = (torch.log_softmax(d[f"kl/{k}"], -1) for k in "ab")
    out["kl/per_latent"] = torch.stack([ops.kl_divergence(a[:, i:i + 1], b[:, i:i + 1]) for i in range(a.shape[1])], 1)
    out["kl/entropy_a"] = -(a.exp() * a).sum(-1)

    low, high, rows = torch.tensor(0.0), torch.tensor(0.0), []
    for times in (1, 2, 3):
        low, high, scale = ops.return_range(times * d["moments/x"], low, high)
        rows.append(torch.stack([low, scale]))
    out["moments/offset_invscale_3calls_x_times_1_2_3"] = torch.stack(rows)

    for name, eps, clip in (("opt_clip", 1e-8, 1.0), ("opt_noclip", 1e-5, 100.0)):
        for i, p in enumerate(adam(d[f"{name}/p0"], d[f"{name}/grads"], eps, clip), 1):
            out[f"{name}/p{i}"] = p

    loss, zero = d["harmonizer/loss"], torch.tensor(0.0)

    def reward_term(s: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The reward's harmonized term."""
        losses = {"reward": x, "image": zero, "dyn": zero, "rep": zero, "cont": zero}
        return ops.harmony_loss(losses, torch.stack([s, zero, zero]))[1][0]

    rows = []
    for s in d["harmonizer/s"]:
        s = s.clone().requires_grad_()
        for x in loss:
            value = reward_term(s, x)
            slope, = torch.autograd.grad(value, s)
            rows.append([value.item(), (value - ops.harmony_regularizer(s, "rectified")).item(), slope.item()])
    rows = torch.tensor(rows).view(len(d["harmonizer/s"]), len(loss), 3)
    out["harmonizer/with_reg"], out["harmonizer/no_reg"], out["harmonizer/dloss_ds_with_reg"] = rows.unbind(-1)
    return out
