"""World model: encoder, RSSM, decoder, reward and continue heads, and their harmonized loss."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hdfast import ops
from hdfast.config import HarmonyConfig, LossConfig, ModelConfig
from hdfast.model.encoders import Decoder, Encoder
from hdfast.model.harmonizer import Harmonizer
from hdfast.model.nets import MLP
from hdfast.model.rssm import RSSM, Observed
from hdfast.ops.dense import Features, Stack
from hdfast.spaces import ActSpace, ObsSpace


@dataclass(frozen=True)
class Sequences:
    """A training batch, time-major: obs by part, images (T, B, h, w, c) in [0, 1] and vectors (T, B, n), prev_action
    (T, B, A), the encoded action that led here, reward, cont (T, B) float, is_first (T, B) bool with is_first[0] all
    true."""

    obs: dict[str, Tensor]
    prev_action: Tensor
    reward: Tensor
    cont: Tensor
    is_first: Tensor


@dataclass(frozen=True)
class WorldModelOutput:
    """Forward pass of a batch: states, head outputs, the losses per element (T, B) and the optimized total ()."""

    observed: Observed
    recon: dict[str, Tensor]
    reward_logit: Tensor
    cont_logit: Tensor
    losses: dict[str, Tensor]
    kl: Tensor
    total: Tensor
    metrics: dict[str, Tensor]


class WorldModel(nn.Module):
    """The part of the agent that the model optimizer trains. Official agent.py, class WorldModel."""

    def __init__(self, obs_space: ObsSpace, act_space: ActSpace, model: ModelConfig, harmony: HarmonyConfig,
                 loss: LossConfig):
        super().__init__()
        self.obs_space, self.free_nats = obs_space, loss.free_nats
        self.reward_grad, self.cont_grad = loss.reward_grad, loss.cont_grad
        feat = model.deter + model.stoch * model.classes
        self.encoder = Encoder(obs_space, model)
        self.decoder = Decoder(feat, obs_space, model)
        self.rssm = RSSM(embed=self.encoder.size, actions=act_space, deter=model.deter, units=model.units,
                         stoch=model.stoch, classes=model.classes, unimix=model.unimix)
        self.reward = MLP(feat, model.units, model.mlp_layers, model.bins, scale=0.0)
        self.cont = MLP(feat, model.units, model.mlp_layers, 1)
        self.first_layers: Stack | None = None  # of reward and cont: one product for both
        scales = {"reward": loss.reward_scale, "dyn": loss.dyn_scale, "rep": loss.rep_scale, "cont": loss.cont_scale}
        scales |= {part.name: loss.image_scale if part.is_image else loss.vector_scale for part in obs_space.parts}
        more = [part.name for part in obs_space.parts if part.name != "image" and harmony.parts == "all"]
        self.harmonizer = Harmonizer(harmony.mode, scales, harmony.speed, more)

    def cont_logit(self, feat: Features | Tensor) -> Tensor:
        """Logit of continuing: feat (..., F) -> (...)."""
        return self.cont(feat).squeeze(-1)

    def ahead(self, feat: Features) -> tuple[Tensor, Tensor]:
        """Expected rewards and logits of continuing: feat (..., F) -> (...), (...)."""
        feat = feat.multiplied(self.first_layers)
        return ops.twohot_mean(self.reward(feat)), self.cont_logit(feat)

    def forward(self, data: Sequences, u: Tensor) -> WorldModelOutput:
        """Losses of one batch with posterior uniforms u (T, B, S). Official agent.py, WorldModel.loss."""
        observed = self.rssm.observe(self.encoder(data.obs), data.prev_action, data.is_first, u)
        feat = Features.of(observed.state).multiplied(self.first_layers)
        recon = self.decoder(feat)
        reward_logit = self.reward(feat if self.reward_grad else feat.detach())
        cont_logit = self.cont_logit(feat if self.cont_grad else feat.detach())
        dyn, rep, kl = ops.balanced_kl(observed.post, observed.prior, self.free_nats)
        losses = {"reward": ops.twohot_loss(reward_logit, data.reward), "dyn": dyn, "rep": rep,
                  "cont": ops.cont_loss(cont_logit, data.cont)}
        losses |= {part.name: (ops.image_loss if part.is_image else ops.vector_loss)(recon[part.name],
                                                                                    data.obs[part.name])
                   for part in self.obs_space.parts}
        assert all(x.shape == data.reward.shape for x in losses.values())
        total, metrics = self.harmonizer(losses)
        short = {"reward": "rew", "cont": "con"}
        post, prior = entropy(torch.stack([observed.post, observed.prior]))
        metrics |= means({f"loss/{short.get(name, name)}": x.detach() for name, x in losses.items()}
                         | {"kl": kl, "ent/post": post, "ent/prior": prior})
        metrics["loss/model"] = total.detach()
        return WorldModelOutput(observed, recon, reward_logit, cont_logit, losses, kl, total, metrics)

    @torch.no_grad()
    def predict(self, feat: Tensor) -> dict[str, Tensor]:
        """Observation means of features, in observation units: feat (..., F) -> (..., *shape) of each part."""
        out = self.decoder(feat)
        return out | {part.name: ops.symexp(out[part.name]) for part in self.obs_space.vectors}


def entropy(logit: Tensor) -> Tensor:
    """Entropy of latent states in nats, summed over latents, without gradient: (..., S, K) -> (...)."""
    return torch.special.entr(logit.detach().exp()).sum((-2, -1))


def means(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean () of each tensor by name, all of one shape (A, B), in two launches."""
    return dict(zip(values, torch.stack(list(values.values())).mean((1, 2)).unbind(), strict=True))
