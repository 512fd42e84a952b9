"""Plain-PyTorch definition of every op: the specification that all other implementations are tested against.

Shapes use the legend of docs/tensor_shapes.md; leading dimensions written `...` are free. Everything is float32 in,
float32 out, and differentiable by autograd. Equations name the HarmonyDream paper (ICML 2024), the DreamerV3 paper
(2023) or the official file they come from.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hdfast.ops import bf16
from hdfast.ops.dense import project
from hdfast.ops.state import Parameters, one_hot

NORM_EPS = 1e-3  # inside the root; official nets.py, class Norm
LEAST_STD, LARGEST_STD = 0.1, 1.0  # of the normal policy; official configs.yaml, actor.minstd and maxstd
UNSEEN = 1e-8  # squared errors of a vector below this count as none; official jaxutils.py, class SymlogDist
NORM_BLOCK = 4096  # a gradient's norm is that of block norms: 16 M squares summed in float32 would lose three digits


def _running_sum(x: Tensor) -> Tensor:
    """Sum over the last axis up to each element. Torch's own has no deterministic form on CUDA; if one is asked for,
    this adds up sums over 1, 2, 4, ... elements."""
    if not torch.are_deterministic_algorithms_enabled():
        return x.cumsum(-1)
    reach = 1
    while reach < x.shape[-1]:
        x = torch.cat([x[..., :reach], x[..., reach:] + x[..., :-reach]], -1)
        reach *= 2
    return x


def _at(x: Tensor, index: Tensor) -> Tensor:
    """x (..., K) at index (...) of the last axis. The gradient of torch's gather adds up in any order on CUDA."""
    if not torch.are_deterministic_algorithms_enabled():
        return x.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    here = index.unsqueeze(-1) == torch.arange(x.shape[-1], device=x.device)
    return torch.where(here, x, 0).sum(-1)


def norm_act(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm over the last axis, then SiLU: y * sigmoid(y), y = (x - mean) / sqrt(var + 1e-3) * scale + bias.

    x (..., C), scale (C,), bias (C,) -> (..., C) of x's dtype, computed in that of scale. Biased variance. Official
    nets.py, class Linear with norm and act.
    """
    return F.silu(F.layer_norm(x.to(scale.dtype), x.shape[-1:], scale, bias, NORM_EPS)).to(x.dtype)


def gru_gates(x: Tensor, deter: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Next deterministic state from the GRU's pre-activations.

    x (..., 3D) = [reset, cand, update], deter (..., D), scale (3D,), bias (3D,) -> (..., D).
    y = LN(x) jointly over 3D; u = sigmoid(update - 1); u * tanh(sigmoid(reset) * cand) + (1 - u) * deter.
    Official nets.py, RSSM._gru.
    """
    reset, cand, update = F.layer_norm(x, x.shape[-1:], scale, bias, NORM_EPS).chunk(3, -1)
    u = torch.sigmoid(update - 1)
    return u * torch.tanh(torch.sigmoid(reset) * cand) + (1 - u) * deter


def unimix(logit: Tensor, mix: float) -> Tensor:
    """Log-probabilities of (1 - mix) * softmax(logit) + mix / K.

    logit (..., K) -> (..., K), normalized. DreamerV3, section "World model learning"; official nets.py, get_dist.
    """
    return torch.log((1 - mix) * torch.softmax(logit, -1) + mix / logit.shape[-1])


def sample_index(logit: Tensor, u: Tensor) -> Tensor:
    """Inverse-CDF sample of a categorical: min(#{k: cdf_k <= u}, K - 1).

    logit (..., K) log-probabilities, u (...) uniforms in [0, 1) -> index (...) int64.
    """
    cdf = _running_sum(logit.exp())
    return (cdf <= u.unsqueeze(-1)).sum(-1).clamp_(max=logit.shape[-1] - 1)


def sample_latent(logit: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """One-hot sample whose gradient is that of the probabilities (straight-through), and its index.

    logit (..., S, K) log-probabilities, u (..., S) -> one-hot (..., S, K), index (..., S) int64.
    onehot + p - sg(p), p = exp(logit). Official jaxutils.py, OneHotDist.sample (whose softmax of log-probabilities is
    the same p, with the same gradient, because these stay normalized).
    """
    index = sample_index(logit, u)
    probs = logit.exp()
    onehot = (index.unsqueeze(-1) == torch.arange(logit.shape[-1], device=index.device)).to(probs.dtype)
    return onehot + (probs - probs.detach()), index


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities, summed over the S latents: (..., S, K) twice -> (...)."""
    return (p.exp() * (p - q)).sum((-2, -1))


def balanced_kl(post: Tensor, prior: Tensor, free_nats: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Dynamics and representation losses with free nats, and the KL itself.

    post, prior (..., S, K) log-probabilities -> dyn, rep, kl, each (...), in nats.
    dyn = max(KL(sg(post) || prior), free), rep = max(KL(post || sg(prior)), free): the threshold applies to the KL
    summed over latents, below it the gradient is zero. DreamerV3, Eq. 5; official nets.py, dyn_loss and rep_loss.
    """
    dyn = kl_divergence(post.detach(), prior)
    rep = kl_divergence(post, prior.detach())
    return dyn.clamp(min=free_nats), rep.clamp(min=free_nats), dyn.detach()


def symlog(x: Tensor) -> Tensor:
    """sign(x) * log(1 + |x|), any shape. DreamerV3, Eq. 1."""
    return torch.sign(x) * torch.log1p(x.abs())


def symexp(x: Tensor) -> Tensor:
    """sign(x) * (exp(|x|) - 1), the inverse of symlog, any shape. DreamerV3, Eq. 1."""
    return torch.sign(x) * torch.expm1(x.abs())


@functools.lru_cache(maxsize=16)
def twohot_bins(bins: int, device: torch.device | None = None) -> Tensor:
    """The symlog-space bin centers: `bins` points from -20 to 20, (bins,) float32, the middle one exactly 0.

    Rounded as the official run rounded them: linspace as start * (1 - t) + stop * t in float32, with fused
    multiply-adds (done here in float64), so that all 255 equal the official ones bit for bit.
    """
    i = torch.arange(bins, dtype=torch.float64)
    inverse = torch.tensor(1 / (bins - 1), dtype=torch.float32)
    rest = (1 - i * inverse.double()).float()
    up = i.float() * (20 * inverse)
    return (up.double() - 20 * rest.double()).float().to(device)


def twohot(x: Tensor, bins: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two bins beside symlog(x) and the weight of the upper one.

    x (...), bins (K,) ascending -> below (...), above (...) int64, weight_above (...). At or beyond an end both
    indices coincide and the weights are one half each; that of a NaN is NaN. Official jaxutils.py, DiscDist.log_prob.
    """
    y = symlog(x).detach().contiguous()
    last = len(bins) - 1
    above = torch.searchsorted(bins, y, right=True)
    below, above = (above - 1).clamp(0, last), above.clamp(0, last)
    to_below, to_above = (bins[below] - y).abs(), (bins[above] - y).abs()
    same = below == above
    weight = torch.where(same, 0.5, to_below / torch.where(same, 1.0, to_below + to_above))
    return below, above, torch.where(y.isnan(), y, weight)


def twohot_loss(logit: Tensor, x: Tensor) -> Tensor:
    """Cross-entropy between softmax(logit) and the two-hot encoding of symlog(x).

    logit (..., bins), x (...) in reward units, no gradient -> (...) nats. DreamerV3, Eq. 9-10.
    """
    below, above, weight = twohot(x, twohot_bins(logit.shape[-1], logit.device))
    logp = torch.log_softmax(logit, -1)
    return -((1 - weight) * _at(logp, below) + weight * _at(logp, above))


def twohot_losses(logit: Tensor, *targets: Tensor) -> tuple[Tensor, ...]:
    """twohot_loss of several targets (...) against the same logits (..., bins): one (...) each."""
    return tuple(twohot_loss(logit, x) for x in targets)


def twohot_mean(logit: Tensor) -> Tensor:
    """symexp of the expected bin: logit (..., bins) -> (...) in reward units. Official jaxutils.py, DiscDist.mean."""
    return symexp((torch.softmax(logit, -1) * twohot_bins(logit.shape[-1], logit.device)).sum(-1))


def cont_loss(logit: Tensor, cont: Tensor) -> Tensor:
    """Bernoulli negative log-likelihood: logit (...), cont (...) in {0, 1} -> (...) nats."""
    return F.softplus(torch.where(cont > 0.5, -logit, logit))


def image_loss(recon: Tensor, image: Tensor) -> Tensor:
    """Squared error summed over pixels: recon, image (..., h, w, c) in [0, 1] units -> (...). No 1/2, no mean."""
    return (recon - image).square().sum((-3, -2, -1))


def vector_loss(recon: Tensor, vector: Tensor) -> Tensor:
    """Squared symlog error summed over features, those below 1e-8 left out, with their gradient.

    recon (..., n) in symlog units, vector (..., n) raw and without gradient -> (...). No 1/2, no mean. Official
    jaxutils.py, SymlogDist.
    """
    error = (recon - symlog(vector.detach())).square()
    return torch.where(error < UNSEEN, 0, error).sum(-1)


def harmony_regularizer(s: Tensor, mode: str) -> Tensor:
    """log(1 + e^s) in mode 'rectified' (paper Eq. 6), s = log sigma in mode 'plain' (paper Eq. 4); any shape."""
    return F.softplus(s) if mode == "rectified" else s


def _harmonized(losses: dict[str, Tensor], s: Tensor, harmonized: tuple[str, ...],
                dyn_share: float) -> tuple[Tensor, list[float], list[Tensor]]:
    """Of each harmonized name the mean of its losses, (n,), and the weight of its regularizer; and the other means.
    Both are 0 without a loss."""
    mean = {name: value.mean() for name, value in losses.items()}
    means, weights = [], []
    for name in harmonized:
        shares = {"dyn": dyn_share, "rep": 1 - dyn_share} if name == "kl" else {name: 1.0}
        found = {loss: share for loss, share in shares.items() if loss in mean}
        means.append(sum((share * mean.pop(loss) for loss, share in found.items()), s.new_zeros(())))
        weights.append(next(iter(shares.values())) if found else 0.0)
    return torch.stack(means), weights, list(mean.values())


def harmony_loss(losses: dict[str, Tensor], s: Tensor, *, harmonized: tuple[str, ...] = ("reward", "image", "kl"),
                 mode: str = "rectified", dyn_share: float = 5 / 6) -> tuple[Tensor, Tensor]:
    """Harmonized sum of the world-model losses, averaged over all elements, and its harmonized terms.

    losses by name, each (...) of one shape; s (n,), one for each name in `harmonized` -> total (), terms (n,) = mean of
    each harmonized term with its regularizer.
      a name: e^-s L + reg(s);  'kl', which has the losses 'dyn' and 'rep', with a = dyn_share:
      a (e^-s L_dyn + reg(s)) + (1 - a) e^-s L_rep.  reg is `harmony_regularizer`.
    A name without a loss adds nothing and its s has gradient 0; the other losses are added as they are. Paper Eq. 4 and
    6; official agent.py, WorldModel.loss (the KL's regularizer comes once, with weight 5/6).
    """
    mean, weights, others = _harmonized(losses, s, harmonized, dyn_share)
    regularizers = harmony_regularizer(s, mode).unbind()
    terms = torch.exp(-s) * mean + torch.stack([w * reg for w, reg in zip(weights, regularizers, strict=True)])
    return terms.sum() + sum(others), terms


def weighted_loss(losses: dict[str, Tensor], scales: dict[str, float]) -> tuple[Tensor, Tensor]:
    """The losses' means with fixed weights by name, DreamerV3's own sum: n losses as in harmony_loss -> total (), terms
    (n,), the weighted means in the order of `losses`."""
    terms = torch.stack([scales[name] * value.mean() for name, value in losses.items()])
    return terms.sum(), terms


def harmony_grad(losses: dict[str, Tensor], s: Tensor, *, harmonized: tuple[str, ...] = ("reward", "image", "kl"),
                 mode: str = "rectified", dyn_share: float = 5 / 6) -> Tensor:
    """d harmony_loss / d s in closed form, (n,): weight * reg'(s) - e^-s * mean(L)."""
    mean, weights, _ = _harmonized(losses, s, harmonized, dyn_share)
    slope = torch.sigmoid(s) if mode == "rectified" else torch.ones_like(s)
    return slope * torch.tensor(weights, dtype=s.dtype, device=s.device) - torch.exp(-s) * mean


def lambda_return(reward: Tensor, value: Tensor, cont: Tensor, *, gamma: float, lam: float) -> Tensor:
    """Lambda returns by the reverse recursion R_h = r_{h+1} + gamma c_{h+1} ((1 - lam) v_{h+1} + lam R_{h+1}).

    reward (H, N) = r_1..r_H, value (H+1, N) = v_0..v_H, cont (H+1, N) -> (H, N); R_H = v_H. DreamerV3, Eq. 7.
    """
    discount = gamma * cont[1:]
    base = reward + (1 - lam) * discount * value[1:]
    out, last = [], value[-1]
    for step in range(len(reward) - 1, -1, -1):
        last = base[step] + lam * discount[step] * last
        out.append(last)
    return torch.stack(out[::-1])


def return_weight(cont: Tensor, *, gamma: float) -> Tensor:
    """Probability weight of each imagined state, prod_{j <= h} (gamma c_j) / gamma: cont (H+1, N) -> (H+1, N)."""
    return torch.cumprod(gamma * cont, 0) / gamma


def return_range(ret: Tensor, low: Tensor, high: Tensor, *, decay: float = 0.99, percentiles=(5.0, 95.0),
                 floor: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Moving average of two return percentiles and the scale they give.

    ret any shape, low (), high () -> new low (), new high (), scale () = max(floor, high - low). Percentiles by linear
    interpolation; no bias correction. DreamerV3, Eq. 12; official jaxutils.py, Moments. A return that is not finite
    leaves the range as it is.
    """
    at = torch.cat([ret.new_full((1,), p / 100) for p in percentiles])
    new_low, new_high = torch.quantile(ret.flatten(), at).unbind()
    fine = ret.isfinite().all()
    low = torch.where(fine, decay * low + (1 - decay) * new_low, low)
    high = torch.where(fine, decay * high + (1 - decay) * new_high, high)
    return low, high, (high - low).clamp(min=floor)


def actor_loss(logit: Tensor, action: Tensor, advantage: Tensor, weight: Tensor, *,
               entropy: float) -> tuple[Tensor, Tensor, Tensor]:
    """REINFORCE with an entropy bonus, per element, and the policy's log-probability and entropy.

    logit (..., A) log-probabilities, action (...) int64, advantage (...), weight (...) -> loss, logp, ent, each (...).
    weight * (-log pi(a) * sg(advantage) - entropy * H(pi)); the optimized loss is its plain mean. DreamerV3, Eq. 11.
    """
    logp = _at(logit, action)
    ent = -(logit.exp() * logit).sum(-1)
    return weight.detach() * (-logp * advantage.detach() - entropy * ent), logp, ent


def normal_policy(mean_raw: Tensor, std_raw: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a policy over continuous actions, from the outputs of its two heads.

    mean_raw, std_raw (..., A) -> tanh(mean_raw), 0.9 sigmoid(std_raw + 2) + 0.1, each (..., A). The sample is not
    squashed: actions lie outside [-1, 1], too. Official nets.py, class MLP with dist 'normal'.
    """
    return torch.tanh(mean_raw), (LARGEST_STD - LEAST_STD) * torch.sigmoid(std_raw + 2) + LEAST_STD


def normal_log_prob(mean: Tensor, std: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of an action, without gradient to it, and entropy of a diagonal normal distribution.

    mean, std, action (..., A) -> logp, ent, each (...), sums over A. The entropy is differential: it may be negative.
    """
    z, scale = (action.detach() - mean) / std, torch.log(std)
    constant = math.log(2 * math.pi) / 2
    return (-z.square() / 2 - scale - constant).sum(-1), (scale + (constant + 0.5)).sum(-1)


def clip_action(action: Tensor) -> Tensor:
    """A continuous action (..., A) as the dynamics read it: a / max(1, |a|) by component.

    The factor is a constant, so the gradient outside [-1, 1] is 1 / |a|, not 0. Official nets.py, RSSM.img_step.
    """
    return action * (1 / action.detach().abs().clamp(min=1))


def replay_gather(ring: Tensor, index: Tensor) -> Tensor:
    """Rows of a ring of frames, normalized: ring (R, h, w, c) uint8, index (...) int64 -> (..., h, w, c) in [0, 1].

    ring[index] / 255. Official agent.py, WorldModel.preprocess.
    """
    return ring[index].float() / 255


def conv(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolution of stride 2, padding 1: x (N, 2h, 2w, C), kernel (D, C, 4, 4) -> (N, h, w, D), in bfloat16 if the
    kernel has a bfloat16 shadow. Official nets.py, class Conv2D."""
    operand = bf16.operand(kernel)
    return F.conv2d(x.to(operand.dtype).permute(0, 3, 1, 2), operand, stride=2, padding=1).permute(0, 2, 3, 1)


def deconv(y: Tensor, kernel: Tensor, *, last: bool = False) -> Tensor:
    """Transposed convolution of stride 2, padding 1: y (N, h, w, D), kernel (D, C, 4, 4) -> (N, 2h, 2w, C), in bfloat16
    if the kernel has a bfloat16 shadow, but float32 from the `last` layer. Official nets.py, class Conv2D."""
    operand = bf16.operand(kernel)
    x = F.conv_transpose2d(y.to(operand.dtype).permute(0, 3, 1, 2), operand, stride=2, padding=1)
    return (x.to(kernel.dtype) if last else x).permute(0, 2, 3, 1)


def _dense(x: Tensor, kernel: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return norm_act(project(x, kernel, narrow=True), scale, bias)


def _known(value: Tensor, x: Tensor) -> Tensor:
    """A constant value with the gradient of x."""
    return value + (x - x.detach())


def _advance(p: Parameters, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
    """The next deter (B, D) from the state before and the action (B, A), one-hot or clipped."""
    x = _dense(torch.cat([stoch.flatten(-2), action], -1), p.img_in, p.img_in_scale, p.img_in_bias)
    return gru_gates(project(torch.cat([deter, x], -1), p.gru), deter, p.gru_scale, p.gru_bias)


def _prior(p: Parameters, deter: Tensor, classes: int, mix: float) -> Tensor:
    """Log-probabilities of the latent: deter (..., D) -> (..., S, K)."""
    hidden = _dense(deter, p.img_out, p.img_out_scale, p.img_out_bias)
    return unimix(project(hidden, p.img_stats, p.img_stats_bias).unflatten(-1, (-1, classes)), mix)


def observe_scan(embed: Tensor, action: Tensor, is_first: Tensor, u: Tensor, params: Parameters, *, classes: int,
                 mix: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Filter a batch of sequences, all from the learned initial state.

    embed (T, B, E), action (T, B, A) one-hot chosen before each observation, is_first (T, B) bool, u (T, B, S) uniforms
    -> deter (T, B, D), stoch (T, B, S, K) one-hot with straight-through gradient, index (T, B, S), posterior and prior
    log-probabilities (T, B, S, K). Gradients reach embed and every parameter; actions have none. Official nets.py,
    RSSM.observe.
    """
    p, size = params, params.deter
    part = project(embed, p.obs_out, rows=slice(size, None))
    begin = torch.tanh(p.initial)
    with torch.no_grad():
        mode = one_hot(_prior(p, begin[None], classes, mix)[0].argmax(-1), classes, begin.dtype)
    deter, stoch = begin.expand(is_first.shape[1], -1), mode.expand(is_first.shape[1], -1, -1)
    steps = []
    for t, first in enumerate(is_first):
        deter = torch.where(first[:, None], begin, deter)
        stoch = torch.where(first[:, None, None], mode, stoch)
        deter = _advance(p, deter, stoch, action[t] * ~first[:, None])
        pre = part[t] + project(deter, p.obs_out, rows=slice(size))
        hidden = norm_act(pre, p.obs_out_scale, p.obs_out_bias)
        post = unimix(project(hidden, p.obs_stats, p.obs_stats_bias).unflatten(-1, (-1, classes)), mix)
        stoch, index = sample_latent(post, u[t])
        steps.append((deter, stoch, index, post))
    deter, stoch, index, post = map(torch.stack, zip(*steps, strict=True))
    return deter, stoch, index, post, _prior(p, deter, classes, mix)


def _act(x: Tensor, noise: Tensor, heads: list[Tensor], mix: float,
         groups: tuple[int, ...] | None) -> tuple[Tensor, Tensor]:
    """The action of features x (N, U) of the policy's last hidden layer, and the same as the dynamics read it, (N, A).
    heads: kernel and bias, of the normal policy also those of std."""
    out = project(x, heads[0], heads[1])
    if groups == ():
        mean, std = normal_policy(out, project(x, heads[2], heads[3]))
        action = mean + std * noise
        return action, clip_action(action)
    parts = out.split(out.shape[-1] if groups is None else groups, -1)
    uniforms = [noise] if groups is None else noise.unbind(-1)
    index = [sample_index(unimix(part, mix), u) for part, u in zip(parts, uniforms, strict=True)]
    taken = torch.cat([one_hot(i, part.shape[-1], part.dtype) for i, part in zip(index, parts, strict=True)], -1)
    return index[0] if groups is None else torch.stack(index, -1), taken


@torch.no_grad()
def imagine(deter: Tensor, index: Tensor, u: Tensor, noise: Tensor, params: Parameters, actor: list[Tensor], *,
            classes: int, mix: float, groups: tuple[int, ...] | None = None,
            keep_prior: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Roll the dynamics forward under a policy, without gradients.

    Starts deter (N, D) and index (N, S); u (H, N, S) uniforms; actor: kernel, scale, bias of each hidden layer, then
    kernel and bias. With C = H or H + 1 choices and the actor's output x, the policy is by `groups`
      None: unimix(x), one categorical: noise (C, N) uniforms, action (C, N) int64;
      (n1, n2, ...), one for each of G parts of x: noise (C, N, G) uniforms, action (C, N, G) int64;
      (): normal_policy(x, std_x), its kernel and bias last in actor: noise (C, N, A) normal, action (C, N, A) as it is
      drawn; the dynamics read clip_action(action).
    -> deter (H+1, N, D), index (H+1, N, S), prior log-probabilities (H, N, S, K) with keep_prior, else empty, action,
    the inputs of the actor's LayerNorms (layers, C, N, U), and the features (H+1, N, D + S*K). Official agent.py,
    WorldModel.imagine.
    """
    last = 4 if groups == () else 2
    hidden, heads = actor[:-last], actor[-last:]
    stoch, priors, actions, pres, feats = one_hot(index, classes, deter.dtype), [], [], [], []
    states = [(deter, index)]
    for t, given in enumerate(noise):
        feats.append(x := torch.cat([deter, stoch.flatten(-2)], -1))
        pre = []
        for kernel, scale, bias in zip(hidden[::3], hidden[1::3], hidden[2::3], strict=True):
            pre.append(project(x, kernel, narrow=True))
            x = norm_act(pre[-1], scale, bias)
        action, taken = _act(x, given, heads, mix, groups)
        pres.append(torch.stack(pre))
        actions.append(action)
        if t == len(u):
            break
        deter = _advance(params, deter, stoch, taken)
        priors.append(_prior(params, deter, classes, mix))
        stoch, index = sample_latent(priors[-1], u[t])
        states.append((deter, index))
    else:
        feats.append(torch.cat([deter, stoch.flatten(-2)], -1))
    deters, indices = map(torch.stack, zip(*states, strict=True))
    prior = torch.stack(priors) if keep_prior else deter.new_empty(0)
    return deters, indices, prior, torch.stack(actions), torch.stack(pres, 1), torch.stack(feats)


def imagine_states(action: Tensor, deter: Tensor, index: Tensor, params: Parameters, *, classes: int,
                   mix: float) -> tuple[Tensor, Tensor]:
    """The states of a rollout as a differentiable function of its continuous actions.

    action (H, N, A) unclipped, deter (H+1, N, D) and index (H+1, N, S) as `imagine` returned them -> deter (H+1, N, D),
    stoch (H+1, N, S, K): the same states, one-hot. Gradients go back through the H steps: through clip_action, deter
    and, straight-through, the latents' prior probabilities. Parameters and the start are constants. Official agent.py,
    WorldModel.imagine under the gradient 'backprop'.
    """
    p, deter, known = params.constant(), deter.detach(), one_hot(index, classes, deter.dtype)
    h, z = deter[0], known[0]
    deters, stochs = [h], [z]
    for t, taken in enumerate(clip_action(action)):
        h = _known(deter[t + 1], _advance(p, h, z, taken))
        z = _known(known[t + 1], _prior(p, h, classes, mix).exp())
        deters.append(h), stochs.append(z)
    return torch.stack(deters), torch.stack(stochs)


def adam_step(param: Tensor, grad: Tensor, mean: Tensor, var: Tensor, step: Tensor, *, lr: float, eps: float,
              clip: float, beta1: float, beta2: float, slow: Tensor | None = None,
              slow_fraction: float = 1.0) -> Tensor:
    """Clip by the global norm and one Adam step, in place: param, grad, mean, var (size,), step () int64 -> the norm
    before clipping, f and the new step, (3,).

    f = min(1, clip / norm); mean, var follow f grad and its square; param -= lr mean' / (sqrt(var') + eps) with the
    bias-corrected moments. `slow` (size,) becomes param at the first step and mix param + (1 - mix) slow, mix =
    slow_fraction, at later ones. grad becomes f grad. A norm that is not finite changes nothing. Nothing is read back
    to the host. Official jaxutils.py, class Optimizer; optax's scale_by_adam.
    """
    whole = grad.numel() // NORM_BLOCK * NORM_BLOCK
    blocks = torch.linalg.vector_norm(grad[:whole].view(-1, NORM_BLOCK), dim=1)
    norm = torch.linalg.vector_norm(torch.cat([blocks, torch.linalg.vector_norm(grad[whole:]).view(1)]))
    fine = norm.isfinite()
    grad.mul_(torch.where(fine & (norm >= clip), clip / norm, 1.0))
    used = torch.where(fine, grad, 0)
    step += fine
    mean.lerp_(used, torch.where(fine, 1 - beta1, 0.0))
    var.mul_(torch.where(fine, beta2, 1.0)).addcmul_(used, used, value=1 - beta2)
    count = step.clamp(min=1).double()
    mean_scale, var_scale = (lr / (1 - beta1 ** count)).float(), (1 / (1 - beta2 ** count)).float()
    param -= torch.where(fine, mean_scale * mean / ((var * var_scale).sqrt() + eps), 0)
    if slow is not None:
        mix = torch.where(fine, torch.where(step == 1, 1.0, slow_fraction), 0.0)
        slow.copy_(mix * param + (1 - mix) * slow)
    return torch.stack([norm, (clip / norm).clamp(max=1.0), step.float()])
