"""Arguments that every raw op accepts: one small call each, and the ways in which tests then spoil one argument."""

import torch
import torch.nn.functional as F
from torch import Tensor

LENGTH, BATCH, EMBED, ACTIONS, DETER, UNITS, STOCH, CLASSES = 2, 3, 5, 4, 8, 6, 2, 3
LATENT = STOCH * CLASSES

TYPES = {
    "another type": lambda t: t.to({torch.int64: torch.int32, torch.uint8: torch.int16}.get(t.dtype, torch.float64)),
    "half": lambda t: t.half() if t.is_floating_point() else t.float(),
    "strided": lambda t: torch.stack([t, t], -1)[..., 0] if t.numel() > 1 else None,
    "expanded": lambda t: t[:1].expand(t.shape) if t.dim() and len(t) > 1 else None,
    "overlapping": lambda t: torch.as_strided(t, t.shape, (1, *t.stride()[1:])) if t.dim() > 1 and len(t) > 1 and
    t[0].numel() > 1 else None,
    "another device": lambda t: t.cpu() if t.is_cuda else None,
    "no data": lambda t: t.to("meta"),
}
SHAPES = {
    "longer": lambda t: torch.cat([t, t[:1]]) if t.dim() else None,
    "shorter": lambda t: t[1:].clone() if t.dim() else None,
    "wider": lambda t: torch.cat([t, t[..., :1]], -1) if t.dim() > 1 else None,
    "narrower": lambda t: t[..., 1:].contiguous() if t.dim() > 1 else None,
    "a number": lambda t: t.reshape(-1)[0].clone() if t.dim() else None,
    "deeper": lambda t: t[None],
    "flat": lambda t: t.reshape(-1) if t.dim() > 1 else None,
    "empty": lambda t: t.new_empty(0),
}


def n(*shape: int) -> Tensor:
    return torch.randn(shape)


def integers(below: int, *shape: int) -> Tensor:
    return torch.randint(below, shape)


def rssm_parameters() -> list[Tensor]:
    """In the order of hdfast.ops.state.Parameters."""
    d, u, z = DETER, UNITS, LATENT
    shapes = [(d,), (z + ACTIONS, u), (u,), (u,), (d + u, 3 * d), (3 * d,), (3 * d,), (d, u), (u,), (u,), (u, z), (z,),
              (d + EMBED, u), (u,), (u,), (u, z), (z,)]
    return [0.3 * n(*shape) for shape in shapes]


def scan_arguments() -> tuple:
    return (n(LENGTH, BATCH, EMBED), n(LENGTH, BATCH, ACTIONS), torch.zeros(LENGTH, BATCH, dtype=torch.bool),
            torch.rand(LENGTH, BATCH, STOCH), rssm_parameters(), CLASSES, 0.01)


def scan_gradient_arguments() -> tuple:
    embed, action, is_first, u, params, classes, mix = scan_arguments()
    deter, stoch, index, post, prior, saved, start = torch.ops.hdfast.observe_scan_fwd(embed, action, is_first, u,
                                                                                       params, classes, mix)
    return (n(*deter.shape), n(*stoch.shape), n(*post.shape), n(*prior.shape), [embed, action, is_first], params,
            [deter, index, post, prior, saved, start], classes, mix, True)


def imagine_arguments() -> tuple:
    actor = [n(DETER + LATENT, UNITS), n(UNITS), n(UNITS), n(UNITS, ACTIONS), n(ACTIONS)]
    return (n(BATCH, DETER), integers(CLASSES, BATCH, STOCH), torch.rand(2, BATCH, STOCH), torch.rand(2, BATCH),
            rssm_parameters(), actor, CLASSES, 0.01, True)


def latents() -> Tensor:
    return F.log_softmax(n(BATCH, STOCH, CLASSES), -1)


def actor() -> tuple:
    return F.log_softmax(n(BATCH, ACTIONS), -1), integers(ACTIONS, BATCH), n(BATCH), n(BATCH)


def input_norm() -> tuple:
    """scale, bias, joint and stats of a step's input."""
    return n(UNITS), n(UNITS), n(BATCH, DETER + UNITS), n(2, BATCH)


def next_arguments() -> tuple:
    scale, bias, joint, stats = input_norm()
    state, reset = [n(BATCH, DETER), n(DETER), integers(CLASSES, STOCH)], torch.zeros(BATCH, dtype=torch.bool)
    draw, drawn = [latents(), n(LATENT), torch.rand(BATCH, STOCH)], [latents(), n(BATCH, LATENT)]
    return (n(BATCH, UNITS), state, reset, draw, 0.01, [*drawn, integers(CLASSES, BATCH, STOCH)], n(LATENT, UNITS),
            scale, bias, n(BATCH, DETER), joint, stats)


def action_draw() -> list[Tensor]:
    return [n(BATCH, 1, ACTIONS), n(ACTIONS), torch.rand(BATCH, 1)]


CASES = {
    "actor_loss_fwd": lambda: (*actor(), 0.1),
    "actor_loss_bwd": lambda: (n(BATCH), n(BATCH), n(BATCH), *actor(), 0.1),
    "adam_step": lambda: (n(9), n(9), n(9), torch.rand(9), torch.zeros((), dtype=torch.int64), n(9), 1e-3, 1e-8,
                          1.0, 0.9, 0.999, 0.02),
    "cont_loss_fwd": lambda: (n(4), torch.ones(4)),
    "cont_loss_bwd": lambda: (n(4), n(4), torch.ones(4)),
    "conv_down": lambda: (n(BATCH, 4, 4, 2), n(5, 2, 4, 4)),
    "conv_up": lambda: (n(BATCH, 2, 2, 5), n(5, 2, 4, 4)),
    "conv_kernel": lambda: (n(BATCH, 4, 4, 2), n(BATCH, 2, 2, 5)),
    "gru_gates_fwd": lambda: (n(BATCH, 3 * DETER), n(BATCH, DETER), n(3 * DETER), n(3 * DETER)),
    "gru_gates_bwd": lambda: (n(BATCH, DETER), n(BATCH, 3 * DETER), n(BATCH, DETER), n(BATCH), torch.rand(BATCH),
                              n(3 * DETER), n(3 * DETER)),
    "harmony_fwd": lambda: ([n(4), n(4), n(4)], n(2), [1, -1, 1], [0.8, 1.0, 0.2], [0.0, 0.8], False),
    "harmony_bwd": lambda: (n(), n(2), n(3), n(2), 4, [1, -1, 1], [0.8, 1.0, 0.2], [0.0, 0.8], False),
    "image_loss_fwd": lambda: (n(BATCH, 2, 2, 3), n(BATCH, 2, 2, 3)),
    "image_loss_bwd": lambda: (n(BATCH), n(BATCH, 2, 2, 3), n(BATCH, 2, 2, 3)),
    "imagine": imagine_arguments,
    "state_mm_fwd": lambda: (n(BATCH, DETER), n(BATCH, LATENT), integers(CLASSES, BATCH, STOCH),
                             n(DETER + LATENT, 7), CLASSES),
    "state_mm_bwd": lambda: (n(BATCH, 7), n(BATCH, DETER), integers(CLASSES, BATCH, STOCH), n(DETER + LATENT, 7),
                             CLASSES, True, True, True),
    "mm": lambda: (n(3, 4), n(4, 5)),
    "mm_bf16": lambda: (n(3, 4), n(4, 5), False),
    "state_mm_bf16_fwd": lambda: (*CASES["state_mm_fwd"](), False),
    "state_mm_bf16_bwd": lambda: CASES["state_mm_bwd"](),
    "balanced_kl_fwd": lambda: (latents(), latents(), 1.0),
    "balanced_kl_bwd": lambda: (n(BATCH), n(BATCH), latents(), latents(), 1.0),
    "kl_divergence_fwd": lambda: (latents(), latents()),
    "unimix_fwd": lambda: (latents(), 0.01),
    "unimix_bwd": lambda: (latents(), latents(), 0.01),
    "sample_index": lambda: (latents(), torch.rand(BATCH, STOCH)),
    "sample_latent_fwd": lambda: (latents(), torch.rand(BATCH, STOCH)),
    "sample_latent_bwd": lambda: (latents(), latents()),
    "normal_log_prob_fwd": lambda: (n(BATCH, ACTIONS), 0.1 + torch.rand(BATCH, ACTIONS), n(BATCH, ACTIONS)),
    "normal_log_prob_bwd": lambda: (n(BATCH), n(BATCH), n(BATCH, ACTIONS), 0.1 + torch.rand(BATCH, ACTIONS),
                                    n(BATCH, ACTIONS)),
    "normal_policy_fwd": lambda: (n(BATCH, ACTIONS), n(BATCH, ACTIONS)),
    "normal_policy_bwd": lambda: (n(BATCH, ACTIONS), n(BATCH, ACTIONS), n(BATCH, ACTIONS), n(BATCH, ACTIONS)),
    "normal_sample": lambda: (n(BATCH, ACTIONS), n(ACTIONS), n(BATCH, ACTIONS), n(ACTIONS), n(BATCH, ACTIONS),
                              n(BATCH, ACTIONS), n(BATCH, ACTIONS)),
    "norm_act_fwd": lambda: (n(BATCH, DETER), n(DETER), n(DETER)),
    "norm_act_bwd": lambda: (n(BATCH, DETER), n(BATCH, DETER), n(BATCH), torch.rand(BATCH), n(DETER), n(DETER)),
    "observe_scan_fwd": scan_arguments,
    "observe_scan_bwd": scan_gradient_arguments,
    "replay_gather": lambda: (integers(256, 4, 12).to(torch.uint8), integers(4, 3)),
    "return_range": lambda: (n(9), n(), n(), 0.99, 5.0, 95.0, 1.0),
    "lambda_return_fwd": lambda: (n(2, BATCH), n(3, BATCH), torch.ones(3, BATCH), 0.99, 0.95),
    "lambda_return_bwd": lambda: (n(2, BATCH), n(3, BATCH), torch.ones(3, BATCH), n(2, BATCH), 0.99, 0.95),
    "return_weight_fwd": lambda: (torch.ones(3, BATCH), 0.99),
    "return_weight_bwd": lambda: (n(3, BATCH), torch.ones(3, BATCH), torch.ones(3, BATCH), 0.99),
    "scan_norm_fwd": lambda: (n(BATCH, UNITS), n(UNITS), n(UNITS), n(BATCH, UNITS), n(2, BATCH)),
    "scan_norm_bwd": lambda: (n(BATCH, UNITS), n(BATCH, UNITS), torch.rand(2, BATCH), n(UNITS), n(UNITS),
                              n(BATCH, UNITS), n(BATCH, 2, UNITS)),
    "scan_start_fwd": lambda: (n(BATCH, UNITS), n(DETER), integers(CLASSES, STOCH), n(LATENT, UNITS), n(UNITS),
                               n(UNITS), n(BATCH, DETER), n(BATCH, DETER + UNITS), n(2, BATCH)),
    "scan_start_bwd": lambda: (n(BATCH, DETER + UNITS), n(BATCH, DETER), n(BATCH, UNITS), torch.rand(2, BATCH),
                               n(UNITS), n(UNITS), n(BATCH, UNITS), n(BATCH, DETER), n(BATCH, 2, UNITS)),
    "scan_next_fwd": next_arguments,
    "scan_next_bwd": lambda: (n(BATCH, DETER + UNITS), n(BATCH, DETER), torch.zeros(BATCH, dtype=torch.bool),
                              n(BATCH, UNITS), torch.rand(2, BATCH), n(UNITS), n(UNITS), n(BATCH, UNITS),
                              n(BATCH, UNITS), n(BATCH, DETER), n(BATCH, DETER), n(BATCH, 2, UNITS)),
    "scan_gather": lambda: (n(BATCH, UNITS), n(BATCH, DETER), integers(CLASSES, BATCH, STOCH), action_draw(), 0.01,
                            integers(ACTIONS, BATCH, 1), n(LATENT, UNITS), n(ACTIONS, UNITS), *input_norm()),
    "scan_act": lambda: (n(BATCH, UNITS), n(BATCH, DETER), action_draw(), 0.01, integers(ACTIONS, BATCH, 1),
                         n(ACTIONS, UNITS), *input_norm()),
    "scan_gates_fwd": lambda: (n(BATCH, 3 * DETER), n(BATCH, DETER), n(3 * DETER), n(3 * DETER), n(BATCH, DETER),
                               n(BATCH, DETER), n(2, BATCH)),
    "scan_gates_bwd": lambda: (n(BATCH, DETER), n(BATCH, 3 * DETER), n(BATCH, DETER), torch.rand(2, BATCH),
                               n(3 * DETER), n(3 * DETER), n(BATCH, 3 * DETER), n(BATCH, DETER),
                               n(BATCH, 2, 3 * DETER)),
    "scan_joint_fwd": lambda: (n(BATCH, UNITS), n(BATCH, DETER), *input_norm()),
    "scan_joint_bwd": lambda: (n(BATCH, DETER + UNITS), n(BATCH, DETER), n(BATCH, UNITS), torch.rand(2, BATCH),
                               n(UNITS), n(UNITS), n(BATCH, UNITS), n(BATCH, DETER), n(BATCH, 2, UNITS)),
    "scan_logp_fwd": lambda: (latents(), n(LATENT), 0.01, latents()),
    "scan_sample_fwd": lambda: ([latents(), n(LATENT), torch.rand(BATCH, STOCH)], 0.01, latents(), n(BATCH, LATENT),
                                integers(CLASSES, BATCH, STOCH)),
    "scan_sample_bwd": lambda: (latents(), n(LATENT), latents(), latents(), 0.01, latents()),
    "symlog_fwd": lambda: (n(4),),
    "symlog_bwd": lambda: (n(4), n(4)),
    "symexp_fwd": lambda: (n(4),),
    "symexp_bwd": lambda: (n(4), n(4)),
    "twohot_loss_fwd": lambda: (n(BATCH, 7), n(2, BATCH), torch.linspace(-3, 3, 7)),
    "twohot_loss_bwd": lambda: (n(2, BATCH), n(BATCH, 7), n(2, BATCH), torch.linspace(-3, 3, 7), n(BATCH, 2)),
    "twohot_mean_fwd": lambda: (n(BATCH, 7), torch.linspace(-3, 3, 7)),
    "vector_loss_fwd": lambda: (n(BATCH, 12), n(BATCH, 12)),
    "vector_loss_bwd": lambda: (n(BATCH), n(BATCH, 12), n(BATCH, 12)),
    "twohot_mean_bwd": lambda: (n(BATCH), n(BATCH, 7), torch.linspace(-3, 3, 7), n(BATCH), n(BATCH, 2)),
}
