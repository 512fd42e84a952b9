"""Exchange of parameters with the official JAX code: its names and layouts, and ours.

Official kernels: dense [in, out] (ours alike); convolution HWIO (ours OIHW); transposed convolution HWOI, applied
without a flip (ours IOHW, flipped, as torch's conv_transpose2d needs it).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hdfast.learner import Learner
from hdfast.model.nets import MLP
from hdfast.spaces import ObsSpace

Layout = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]

SAME: Layout = (lambda x: x, lambda x: x)
CONV: Layout = (lambda x: x.permute(3, 2, 0, 1), lambda x: x.permute(2, 3, 1, 0))
DECONV: Layout = (lambda x: x.permute(3, 2, 0, 1).flip(2, 3), lambda x: x.flip(2, 3).permute(2, 3, 1, 0))


def mlp_names(ours: str, theirs: str, mlp: MLP) -> dict[str, str]:
    names = {f"{ours}.hidden.{i}.{part.replace('/', '.')}": f"{theirs}/h{i}/{part}"
             for i in range(len(mlp.hidden)) for part in ("kernel", "norm/scale", "norm/bias")}
    return names | {f"{ours}.{layer}.{part}": f"{theirs}/dist_out/{layer}/{part}"
                    for layer in ("out", "std") if hasattr(mlp, layer) for part in ("kernel", "bias")}


def part_name(name: str, space: ObsSpace) -> str:
    """The official name of a parameter of the encoder or the decoder, after `enc/` or `dec/`."""
    layer, *rest = name.split(".")
    if layer == "stages":
        return f"cnn/s{rest[0]}res/{'/'.join(rest[1:])}"
    if layer == "hidden":
        return f"mlp/h{rest[0]}/{'/'.join(rest[1:])}"
    return f"cnn/in/{rest[0]}" if layer == "inp" else f"mlp/dist_{space.vectors[int(rest[0])].name}/out/{rest[1]}"


def name_table(learner: Learner) -> dict[str, tuple[Tensor, Layout]]:
    """{official name: (our parameter, layout)} of every parameter, slow critic included."""
    wm, ac = learner.world_model, learner.actor_critic
    model = {f"rssm.{part.replace('/', '.')}": f"rssm/{part}" for part in [
        "initial", *(f"{layer}/{p}" for layer in ("img_in", "gru", "img_out", "obs_out")
                     for p in ("kernel", "norm/scale", "norm/bias")),
        *(f"{layer}/{p}" for layer in ("img_stats", "obs_stats") for p in ("kernel", "bias"))]}
    model |= mlp_names("reward", "rew", wm.reward) | mlp_names("cont", "cont", wm.cont)
    for side, short, net in (("encoder", "enc", wm.encoder), ("decoder", "dec", wm.decoder)):
        for name, _ in net.named_parameters():
            model[f"{side}.{name}"] = f"{short}/{part_name(name, wm.obs_space)}"
    if wm.harmonizer.mode != "off":
        model |= {f"harmonizer.{name}": f"har_s{i}/harmony_s" for i, name in enumerate(("reward", "image", "kl"), 1)}
    behavior = mlp_names("actor", "ac/actor", ac.actor) | mlp_names("critic", "critic/net", ac.critic)
    behavior |= mlp_names("slow", "critic/slow", ac.slow)

    def layout(name: str) -> Layout:
        conv = ".stages." in name and name.endswith("kernel")
        return (CONV if name.startswith("encoder") else DECONV) if conv else SAME

    params, behaviors = dict(wm.named_parameters()), dict(ac.named_parameters())
    table = {f"agent/wm/{theirs}": (params.pop(ours), layout(ours)) for ours, theirs in model.items()}
    table |= {f"agent/task_behavior/{theirs}": (behaviors.pop(ours), SAME) for ours, theirs in behavior.items()}
    assert not params and not behaviors, f"without an official name: {[*params, *behaviors]}"
    return table


@torch.no_grad()
def load(learner: Learner, params: dict[str, np.ndarray]) -> None:
    """Copy official parameters, by official name and in official layout, into the learner.

    Raises ValueError naming missing, unknown or misshapen parameters. The constants `identity` of the official
    harmony-off mode have no counterpart here and are ignored.
    """
    table = name_table(learner)
    given = {k: v for k, v in params.items() if not k.endswith("/identity")}
    if missing := sorted(set(table) - set(given)):
        raise ValueError(f"official parameters missing: {missing}; expected all {len(table)} names of this model")
    if unknown := sorted(set(given) - set(table)):
        raise ValueError(f"official parameters not of this model: {unknown}; check sizes, layers and harmony.mode")
    for name, (param, (ours, _)) in table.items():
        value = ours(torch.from_numpy(np.array(given[name], np.float32)))
        if value.shape != param.shape:
            raise ValueError(f"{name}: expected {tuple(param.shape)} in our layout, got {tuple(value.shape)}")
        param.copy_(value)
    learner.refresh()


def export(learner: Learner, *, grad: bool = False) -> dict[str, np.ndarray]:
    """{official name: value in official layout} of every parameter, or of every gradient (slow critic left out)."""
    out = {}
    for name, (param, (_, theirs)) in name_table(learner).items():
        value = param.grad if grad else param.detach()
        if value is not None:
            out[name] = theirs(value).cpu().numpy().copy()
    return out
