"""Recurrent state-space model: deterministic GRU state and categorical latents. Official nets.py, class RSSM."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hdfast import ops
from hdfast.model.nets import Affine, Dense, Norm, init_normal_
from hdfast.ops.dense import project
from hdfast.ops.state import Parameters, State, one_hot
from hdfast.spaces import ActSpace


@dataclass(frozen=True)
class Observed:
    """Posterior states of a sequence and both log-probabilities, each (T, B, S, K)."""

    state: State
    post: Tensor
    prior: Tensor


class RSSM(nn.Module):
    """The dynamics p(z' | h'), h' = GRU(h, z, a), and the posterior q(z' | h', x')."""

    def __init__(self, *, embed: int, actions: ActSpace, deter: int, units: int, stoch: int, classes: int,
                 unimix: float):
        super().__init__()
        self.deter, self.stoch, self.classes, self.mix = deter, stoch, classes, unimix
        latent, self.choices = stoch * classes, bool(actions.sizes)
        self.initial = nn.Parameter(torch.zeros(deter))
        self.img_in = Dense(latent + actions.width, units)
        self.gru = nn.Module()
        kernel = torch.empty(deter + units, 3 * deter)
        self.gru.kernel = nn.Parameter(init_normal_(kernel, sum(kernel.shape) / 2))
        self.gru.norm = Norm(3 * deter)
        self.img_out = Dense(deter, units)
        self.img_stats = Affine(units, latent)
        self.obs_out = Dense(deter + embed, units)
        self.obs_stats = Affine(units, latent)

    def weights(self) -> Parameters:
        """The parameters by name, as `ops.observe_scan` and `ops.imagine` take them."""
        img_in, gru, img_out, obs_out = ((layer.kernel, layer.norm.scale, layer.norm.bias) for layer in (
            self.img_in, self.gru, self.img_out, self.obs_out))
        return Parameters(self.initial, *img_in, *gru, *img_out, self.img_stats.kernel, self.img_stats.bias, *obs_out,
                          self.obs_stats.kernel, self.obs_stats.bias)

    def initial_state(self) -> State:
        """Learned start: deter = tanh(initial) (D,), stoch = mode of its prior (S, K) without gradient."""
        deter = torch.tanh(self.initial)
        with torch.no_grad():
            index = self.prior(deter[None])[0].argmax(-1)
        return State(deter, one_hot(index, self.classes, deter.dtype), index)

    def reset_where(self, state: State, is_first: Tensor, initial: State) -> State:
        """Rows where is_first (B,) become the initial state."""
        deter = torch.where(is_first[:, None], initial.deter, state.deter)
        stoch = torch.where(is_first[:, None, None], initial.stoch, state.stoch)
        return State(deter, stoch, torch.where(is_first[:, None], initial.index, state.index))

    def advance(self, state: State, action: Tensor) -> Tensor:
        """Deterministic step h' from state (B, ...) and encoded action (B, A): -> (B, D)."""
        x = self.img_in(torch.cat([state.stoch.flatten(-2), self.clipped(action)], -1))
        pre = project(torch.cat([state.deter, x], -1), self.gru.kernel)
        return ops.gru_gates(pre, state.deter, self.gru.norm.scale, self.gru.norm.bias)

    def clipped(self, action: Tensor) -> Tensor:
        """Encoded actions (..., A) as the recurrence reads them: continuous ones clipped, one-hot codes as they are."""
        return action if self.choices else ops.clip_action(action)

    def prior(self, deter: Tensor) -> Tensor:
        """Prior log-probabilities: deter (..., D) -> (..., S, K)."""
        return self.logit(self.img_stats(self.img_out(deter)))

    def logit(self, raw: Tensor) -> Tensor:
        """Unimixed log-probabilities of raw statistics: (..., S*K) -> (..., S, K)."""
        return ops.unimix(raw.unflatten(-1, (self.stoch, self.classes)), self.mix)

    def embed_part(self, embed: Tensor) -> Tensor:
        """The embedding's share of the posterior's hidden layer, for all steps at once: (..., E) -> (..., units)."""
        return project(embed, self.obs_out.kernel, rows=slice(self.deter, None))

    def posterior(self, deter: Tensor, embed_part: Tensor) -> Tensor:
        """Posterior log-probabilities: deter (B, D), embed_part (B, units) -> (B, S, K)."""
        pre = embed_part + project(deter, self.obs_out.kernel, rows=slice(self.deter))
        return self.logit(self.obs_stats(self.obs_out.activate(pre)))

    def img_step(self, state: State, action: Tensor, u: Tensor) -> tuple[State, Tensor]:
        """One step of imagination: action (B, A) encoded, uniforms u (B, S) -> next state, its prior (B, S, K)."""
        deter = self.advance(state, action)
        prior = self.prior(deter)
        return State(deter, *ops.sample_latent(prior, u)), prior

    def obs_step(self, state: State, action: Tensor, embed_part: Tensor, is_first: Tensor, u: Tensor,
                 initial: State) -> tuple[State, Tensor]:
        """One step of filtering; is_first clears the previous state and action.

        action (B, A) chosen before this observation, embed_part (B, units), is_first (B,) bool, u (B, S) ->
        posterior state, its log-probabilities (B, S, K).
        """
        state = self.reset_where(state, is_first, initial)
        deter = self.advance(state, action * ~is_first[:, None])
        post = self.posterior(deter, embed_part)
        return State(deter, *ops.sample_latent(post, u)), post

    def observe(self, embed: Tensor, action: Tensor, is_first: Tensor, u: Tensor) -> Observed:
        """Filter a batch of sequences from the initial state.

        embed (T, B, E), action (T, B, A) encoded, chosen *before* each observation, is_first (T, B) bool with
        is_first[0] all true, u (T, B, S) -> Observed. The embedding's product and the prior head run for all steps at
        once: nothing in the recurrence depends on them.
        """
        deter, stoch, index, post, prior = ops.observe_scan(
            embed, self.clipped(action), is_first, u, self.weights(), classes=self.classes, mix=self.mix)
        return Observed(State(deter, stoch, index), post, prior)
