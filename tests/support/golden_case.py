"""Runs hdfast on an official golden case and names every result as the official figures are named.

A case is parameters, a batch and uniforms. Official arrays are batch-major (B, T, ...) and flatten n = b*T + t; ours
are time-major and flatten n = t*B + b: this file permutes, nothing else does.
"""

import json
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from hdfast import ops
from hdfast.adapters import official
from hdfast.config import Config
from hdfast.learner import Learner, Uniforms
from hdfast.model.world_model import Sequences
from hdfast.spaces import Box, Discrete, ObsSpace, Part

PREFIX = {"wm": "agent/wm/", "actor": "agent/task_behavior/ac/actor/", "critic": "agent/task_behavior/critic/net/"}


@dataclass
class Case:
    """One official run: sizes {deter, ..., A, B, T, H, harmony}, parameters by official name, inputs and noise."""

    name: str
    sizes: dict
    params: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]  # observations, action, reward, is_* (B, T, ...); policy_first (2, B)
    noise: dict[str, np.ndarray]  # uniforms 'u/post' ..., 'upd1/u/post' ...; normals 'n/act' ...

    @property
    def obs_space(self) -> ObsSpace:
        """The observations in declared order."""
        names = [name for name, _ in self.sizes.get("obs", [["image", None]])]
        return ObsSpace(tuple(Part(name, self.inputs[name].shape[2:], str(self.inputs[name].dtype)) for name in names))


def recipe_param(name: str, spec: dict, pseed: int) -> np.ndarray:
    """Value of an official test parameter by the recipe of the golden data."""
    if spec["kind"] == "const":
        return np.full(spec["shape"], spec["offset"], np.float32)
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) + 1000003 * pseed))
    return (spec["offset"] + spec["scale"] * rng.standard_normal(spec["shape"])).astype(np.float32)


def load_case(path: Path) -> tuple[Case, dict[str, np.ndarray]]:
    """A case and all figures from `<name>.npz` and `<name>.params.json`."""
    spec = json.loads(path.with_name(f"{path.stem}.params.json").read_text())
    params = {name: recipe_param(name, s, spec["config"]["pseed"]) for name, s in spec["params"].items()}
    for name, s in spec["params"].items():
        total = params[name].astype(np.float64)
        assert np.allclose([total.sum(), (total ** 2).sum()], [s["sum"], s["sumsq"]], rtol=1e-9, atol=1e-9), name
    with np.load(path) as data:
        figures = {key: data[key] for key in data.files}
    inputs = {key[3:]: value for key, value in figures.items() if key.startswith("in/")}
    inputs["policy_first"] = np.stack([figures[f"policy{i}/is_first"] for i in range(2)])
    noise = {key: value for key, value in figures.items() if "u" in key.split("/")[:-1] or "n" in key.split("/")[:-1]}
    return Case(path.stem, spec["config"], params, inputs, noise), figures


def array(x) -> np.ndarray:
    x = x.float() if torch.is_tensor(x) and x.dtype is torch.bfloat16 else x
    return x.detach().cpu().numpy() if torch.is_tensor(x) else np.asarray(x)


def stats(prefix: str, x: torch.Tensor, names=("mean", "std", "mag", "min", "max")) -> dict:
    """Official tensorstats of x."""
    x = x.detach().double()
    values = {"mean": x.mean(), "std": x.std(correction=0), "mag": x.abs().max(), "min": x.min(), "max": x.max()}
    return {f"{prefix}_{name}": values[name] for name in names}


def balance(prefix: str, loss, pred, target, threshold: float) -> dict:
    """Official balance_stats: losses and accuracies of a head on positives and negatives."""
    pos, hit = target > threshold, pred > threshold
    return {f"{prefix}_pos_loss": loss[pos].mean(), f"{prefix}_neg_loss": loss[~pos].mean(),
            f"{prefix}_pos_acc": hit[pos].float().mean(), f"{prefix}_neg_acc": (~hit)[~pos].float().mean(),
            f"{prefix}_rate": pos.float().mean(), f"{prefix}_avg": target.mean(), f"{prefix}_pred": pred.mean()}


class Runner:
    """Computes our figures for a case on a device, under the official names."""

    def __init__(self, case: Case, device: str = "cpu", precision: str = "fp32"):
        self.case, self.device, self.margins, s = case, torch.device(device), {}, case.sizes
        self.B, self.T, self.H, self.A = s["B"], s["T"], s["H"], s["A"]
        self.continuous, self.obs_space = s.get("continuous", False), case.obs_space
        self.act_space = Box(self.A) if self.continuous else Discrete(self.A)
        layers = sum(n.startswith("agent/wm/rew/h") and n.endswith("/kernel") for n in case.params)
        bins = case.params["agent/wm/rew/dist_out/out/bias"].size
        self.config = Config.preset("atari100k", **{
            "model.deter": s["deter"], "model.units": s["units"], "model.stoch": s["stoch"], "model.bins": bins,
            "model.classes": s["classes"], "model.cnn_depth": s["depth"], "model.mlp_layers": layers,
            "model.vector_layers": s.get("mlp_layers", 0), "model.vector_units": s.get("mlp_units", 0),
            "loss.cont_grad": "cont" in s.get("grad_heads", ["cont"]),
            "behavior.actor_gradient": "dynamics" if s.get("actor_grad") == "backprop" else "reinforce",
            "behavior.horizon": self.H, "harmony.mode": "rectified" if s["harmony"] else "off"}, precision=precision)
        self.start()
        t = {k: self.tensor(np.ascontiguousarray(v)).transpose(0, 1) for k, v in case.inputs.items()
             if k != "policy_first"}
        prev = torch.cat([torch.zeros_like(t["action"][:1]), t["action"][:-1]])
        obs = {part.name: t[part.name].float() / (255 if part.is_image else 1) for part in self.obs_space.parts}
        self.data = Sequences(obs, prev, t["reward"].float(), 1 - t["is_terminal"].float(), t["is_first"])

    def start(self) -> None:
        """Fresh optimizers and return range at the case's parameters."""
        self.learner = Learner(self.obs_space, self.act_space, self.config, self.device)
        official.load(self.learner, self.case.params)

    def tensor(self, x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(x).to(self.device)

    # Layouts

    def bt(self, x) -> np.ndarray:
        """(T, B, ...) -> (B, T, ...)."""
        return array(x).swapaxes(0, 1)

    def starts(self, x) -> np.ndarray:
        """(h, N, ...) with N = t*B + b -> N = b*T + t."""
        x = array(x)
        return x.reshape(len(x), self.T, self.B, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)

    def uniforms(self, prefix: str) -> tuple[Uniforms, torch.Tensor]:
        """Our uniforms, and the noise of all H+1 actions."""
        def ours(key):
            x = self.tensor(self.case.noise[f"{prefix}{key}"])
            return x.unflatten(1, (self.B, self.T)).transpose(1, 2).flatten(1, 2)
        post = self.tensor(self.case.noise[f"{prefix}u/post"])
        action = ours("n/act" if self.continuous else "u/act")
        return Uniforms(post, ours("u/prior"), action[:-1]), action

    def margin(self, phase: str, logit: torch.Tensor, u: torch.Tensor) -> None:
        """Record how near the uniforms came to an inner boundary of the sampled distribution."""
        inner = torch.softmax(logit.detach(), -1).cumsum(-1)[..., :-1]
        near = float((inner - u[..., None]).abs().min())
        self.margins[phase] = min(near, self.margins.get(phase, 1.0))

    # Phases

    def world_model(self) -> dict:
        """wm/*: forward pass, losses and gradients at the initial parameters."""
        wm, u = self.learner.world_model, self.uniforms("")[0]
        self.learner.model_opt.zero_grad()
        out = wm(self.data, u.post)
        out.total.backward()
        self.out = out
        self.margin("phaseA", out.observed.post, u.post)
        start, state = wm.rssm.initial_state(), out.observed.state
        stoch = F.one_hot(state.index, self.config.model.classes)
        deter = self.bt(state.deter)
        figures = {
            "init_deter": array(start.deter), "init_stoch": array(start.stoch),
            "embed": self.bt(wm.encoder(self.data.obs)), "post_deter": deter, "prior_deter": deter,
            "post_logit": self.bt(out.observed.post), "prior_logit": self.bt(out.observed.prior),
            "post_stoch": self.bt(stoch), "reward_logit": self.bt(out.reward_logit),
            "reward_mean": self.bt(ops.twohot_mean(out.reward_logit)), "cont_logit": self.bt(out.cont_logit),
            "kl": self.bt(out.kl), "loss": out.total, "train_loss": out.total,
            "grad_norm": torch.linalg.vector_norm(self.learner.model_opt.grad.double()),
            **{f"loss_{k}": self.bt(v) for k, v in out.losses.items()}}
        margins = {}
        for part in self.obs_space.parts:
            y = out.recon[part.name].detach()
            if part.is_image:
                figures["recon"] = self.bt(y)
            else:
                figures |= {f"symlog_{part.name}": self.bt(y), f"mean_{part.name}": self.bt(ops.symexp(y))}
                margins[f"margin/symlog_error_{part.name}"] = array(
                    (y - ops.symlog(self.data.obs[part.name])).abs().min())
        assert np.array_equal(array(state.stoch).round(), array(stoch))
        return {f"wm/{k}": array(v) for k, v in figures.items()} | self.metrics(
            "wm/metric/", self.model_metrics(out, self.harmony_scalars())) \
            | self.gradients("wm") | margins

    def harmony_scalars(self) -> torch.Tensor | None:
        """The scalars now, (3,): official metrics show those before the update."""
        return self.learner.world_model.harmonizer.s().detach().clone() if self.case.sizes["harmony"] else None

    def model_metrics(self, out, s: torch.Tensor | None) -> dict:
        """Official scalar metrics of the world model; s (3,) are the harmony scalars that the loss was taken with."""
        o, losses, data = out.observed, out.losses, self.data
        entropy = {k: -(x.exp() * x).sum((-2, -1)) for k, x in (("prior", o.prior), ("post", o.post))}
        m = stats("prior_ent", entropy["prior"]) | stats("post_ent", entropy["post"])
        for name, loss in losses.items():
            m |= stats(f"{name}_loss", loss, ("mean", "std"))
        harmonizer = self.learner.world_model.harmonizer
        if s is None:
            element = sum(harmonizer.scales[k] * v for k, v in losses.items())
        else:
            element = torch.stack([ops.harmony_loss({k: v[t, b] for k, v in losses.items()}, s,
                                                    dyn_share=harmonizer.dyn_share)[0]
                                   for t in range(self.T) for b in range(self.B)])
            for i in range(3):
                m |= {f"harmony_s{i + 1}": s[i], f"coeff{i + 1}": torch.exp(-s[i])}
                m[f"sigma{i + 1}"] = torch.exp(s[i] / 2)
        m |= stats("model_loss", element, ("mean", "std"))
        pred, cont = ops.twohot_mean(out.reward_logit), torch.sigmoid(out.cont_logit)
        m |= {"reward_max_data": data.reward.abs().max(), "reward_max_pred": pred.abs().max()}
        return m | balance("reward", losses["reward"], pred, data.reward, 0.1) \
            | balance("cont", losses["cont"], cont, data.cont, 0.5)

    def behavior(self) -> dict:
        """imag/*, actor/*, critic/*: imagination from the phase's posteriors, losses and gradients."""
        learner, (u, u_action) = self.learner, self.uniforms("")
        b = learner.imagine(self.out.observed.state.detach(), self.data.cont, u.prior, u_action, keep_prior=True)
        feat = b.trajectory.features.tensor()
        t, ac, wm = b.trajectory, learner.actor_critic, learner.world_model
        with torch.no_grad():
            prior = torch.cat([self.out.observed.post.flatten(0, 1)[None], t.prior])
            low, high = (torch.tensor(x, device=self.device) for x in (-1.3, 2.9))
            low2, _, scale2 = ops.return_range(b.ret, low, high)
            policy = ac.actor(feat)
            figures = {
                "deter": t.features.deter, "logit": prior, "stoch_index": t.features.index,
                "reward": b.reward, "cont": b.cont, "weight": b.weight, "value": b.value, "ret": b.ret,
                "slow_value": b.slow_value,
                "reward_logit": wm.reward(feat), "cont_logit": wm.cont_logit(feat),
                "critic_logit": b.critic_logit[:-1], **self.policy_figures("action_index", policy, t.action)}
        self.margin("phaseA", t.prior, u.prior)
        if not self.continuous:
            self.margin("phaseA", figures["actor_logit"], u_action)
        again = learner.imagine(self.out.observed.state.detach(), self.data.cont, u.prior, u_action)
        scaled = learner.actor_loss(replace(again, scale=scale2))
        learner.actor_opt.backward(scaled.loss)
        norm = torch.linalg.vector_norm(learner.actor_opt.grad.double())
        scaled_out = {"actor_scaled/loss": scaled.loss, "actor_scaled/grad_norm": norm}
        scaled_out |= self.gradients("actor", "actor_scaled")
        actor, critic = learner.actor_loss(b), learner.critic_loss(b)
        learner.actor_opt.backward(actor.loss)
        learner.critic_opt.backward(critic.loss)
        figures |= {"adv": actor.advantage, "logpi": actor.logp, "ent": actor.ent, "actor_loss_elem": actor.element,
                    "critic_nll": critic.nll, "critic_reg": critic.reg}
        out = scaled_out | {f"imag/{k}": self.starts(v) for k, v in figures.items()}
        out |= {"imag/offset": b.low, "imag/invscale": b.scale, "imag/retnorm2_low_high": torch.stack([low, high]),
                "imag/retnorm2_offset_invscale": torch.stack([low2, scale2]),
                "actor/loss": actor.loss, "critic/loss": critic.loss, "margin/min_phaseA": self.margins["phaseA"],
                "margin/cont_logit_abs_imag": figures["cont_logit"].abs().min(),
                "margin/kl_free": (self.out.kl - 1).abs().min()}
        for name, opt in (("actor", learner.actor_opt), ("critic", learner.critic_opt)):
            out[f"{name}/grad_norm"] = torch.linalg.vector_norm(opt.grad.double())
        metrics = self.behavior_metrics(b, actor, critic)
        for key, name in (("actor", "actor"), ("extr_critic_critic", "critic")):
            metrics[f"{key}_opt_grad_norm"], metrics[f"{key}_opt_grad_steps"] = out[f"{name}/grad_norm"], 1
        return {k: array(v) for k, v in out.items()} | self.metrics("ac/metric/", metrics) \
            | self.gradients("actor") | self.gradients("critic")

    def behavior_metrics(self, b, actor, critic) -> dict:
        """Official scalar metrics of the actor and the critic."""
        m = stats("action", b.trajectory.action) | stats("adv", actor.advantage) | stats("extr_reward", b.reward)
        m |= stats("extr_return_raw", b.ret) | stats("extr_return_normed", (b.ret - b.low) / b.scale)
        m |= stats("policy_entropy", actor.ent) | stats("policy_logprob", actor.logp)
        m |= stats("policy_randomness", b.policy.randomness(actor.ent)) | stats("extr_critic", b.value[:-1])
        return m | {"extr_return_rate": (b.ret.abs() >= 0.5).float().mean(), "actor_opt_loss": actor.loss,
                    "extr_critic_critic_opt_loss": critic.loss}

    def policy_figures(self, index: str, policy, action) -> dict:
        """What official figures show of a policy and its actions (..., N): logits and `index`, or moments and numbers.
        """
        if self.continuous:
            return {"action": action, "actor_mean": policy.mean, "actor_std": policy.std}
        return {index: action, "actor_logit": policy.logits[0]}

    def acting(self) -> dict:
        """policy{0,1}/*: two acting steps."""
        learner, rssm = self.learner, self.learner.world_model.rssm
        initial = rssm.initial_state()
        latent = initial.map(lambda x: x.expand(self.B, *x.shape))
        action, out = torch.zeros(self.B, self.A, device=self.device), {}
        u = self.tensor(self.case.noise["u/policy_post"])
        noise = self.tensor(self.case.noise["n/policy_act" if self.continuous else "u/policy_act"])
        with torch.no_grad():
            for i in range(2):
                part = rssm.embed_part(learner.world_model.encoder({k: x[i] for k, x in self.data.obs.items()}))
                first = self.tensor(self.case.inputs["policy_first"][i])
                latent, logit = rssm.obs_step(latent, action, part, first, u[i], initial)
                policy = learner.actor_critic.actor(latent.feat())
                chosen = policy.sample(noise[i])
                action = policy.encode(chosen)
                self.margin("policy", logit, u[i])
                figures = self.policy_figures("index", policy, chosen)
                if self.continuous:
                    entropy = policy.log_prob(action)[1]
                else:
                    self.margin("policy", policy.logits[0], noise[i])
                    entropy = -(policy.logits[0].exp() * policy.logits[0]).sum(-1)
                out |= {f"policy{i}/{k}": v for k, v in figures.items() if k.startswith("actor_m") or k == "actor_std"}
                out |= {f"policy{i}/is_first": first, f"policy{i}/action": action, f"policy{i}/deter": latent.deter,
                        f"policy{i}/log_entropy": entropy, f"policy{i}/logit": logit,
                        f"policy{i}/stoch_index": latent.index}
        out["margin/min_policy"] = self.margins["policy"]
        return {k: array(v) for k, v in out.items()}

    def same(self, whole: np.ndarray, parts: np.ndarray, before: np.ndarray) -> bool:
        """Whether a parameter went from `before` to one place in two ways: bit for bit on the CPU. CUDA sums the
        products of several networks at once, and some gradients of kernels, in other orders."""
        if self.device.type == "cpu":
            return np.array_equal(whole, parts)
        return bool(np.linalg.norm(whole - parts) <= 1e-2 * np.linalg.norm(parts - before))

    def updates(self, count: int) -> dict:
        """upd{k}/*: full updates from fresh optimizers.

        One learner takes `Learner.update`; a second takes its parts one by one to show what is between them, and must
        arrive at the same parameters (`same`).
        """
        self.start()
        whole = self.learner
        self.start()
        out, learner = {}, self.learner
        wm, ac, initial = learner.world_model, learner.actor_critic, official.export(learner)
        for k in range(1, count + 1):
            u, u_action = self.uniforms(f"upd{k}/")
            scalars = self.harmony_scalars()
            whole.update(self.data, u)
            model, norms = learner.update_model(self.data, u.post)
            b = learner.imagine(model.observed.state, self.data.cont, u.prior, u_action, keep_prior=True)
            actor, critic = learner.actor_loss(b), learner.critic_loss(b)
            t, feat = b.trajectory, b.trajectory.features.tensor()
            cont_logit = wm.cont_logit(feat)
            drawn = [(model.observed.post, u.post), (t.prior, u.prior)]
            for logit, uniform in drawn if self.continuous else [*drawn, (ac.actor(feat).logits[0], u_action)]:
                self.margin("updates", logit, uniform)
            metrics = self.model_metrics(model, scalars) | self.behavior_metrics(b, actor, critic)
            ac.move_range(b.low, b.high)  # the official order: the actor's step comes before the critic's gradient
            norms |= learner.actor_gradient(b) | learner.step("actor")
            norms |= learner.critic_gradient(replace(b, critic_logit=ac.critic(t.features)))
            norms |= learner.step("critic")
            figures = {"retnorm_low": ac.low.clone(), "retnorm_high": ac.high.clone(),
                       "post_index": model.observed.state.index, "stoch_index": self.starts(t.features.index[1:]),
                       "action" if self.continuous else "action_index": self.starts(t.action)}
            metrics["model_opt_loss"] = model.total
            for key, name in (("model", "model"), ("actor", "actor"), ("extr_critic_critic", "critic")):
                metrics[f"{key}_opt_grad_norm"] = figures[f"gradnorm_{name}"] = norms[f"opt/{name}_grad_norm"]
                metrics[f"{key}_opt_grad_steps"] = norms[f"opt/{name}_updates"]
            result = official.export(learner)
            for name, value in official.export(whole).items():
                assert self.same(value, result[name], initial[name]), f"{name}: update differs from its parts"
                if "/har_s" in name:
                    figures[f"harmony/{name.split('/')[2]}"] = value
                figures |= self.summary("param_delta", name, value - initial[name], entries=False)
                figures |= {f"param/{name}": value,
                            f"param_entries/{name}": value.ravel()[entry_positions(name, value.size)]}
            figures |= {f"param/{name}": v for name, v in self.case.params.items() if name.endswith("/identity")}
            out |= {f"upd{k}/{key}": array(v) for key, v in figures.items()} | self.metrics(f"upd{k}/metric/", metrics)
            near = {"kl_free": (model.kl - 1).abs().min(), "cont_logit_abs_imag": cont_logit.abs().min()}
            for key, value in near.items():
                out[f"margin/{key}_updates"] = np.append(out.get(f"margin/{key}_updates", []), array(value))
        return out | {"margin/min_updates": self.margins["updates"]}

    # Summaries

    def metrics(self, prefix: str, values: dict) -> dict:
        return {f"{prefix}{k}": array(v) for k, v in values.items()}

    def gradients(self, group: str, prefix: str = "") -> dict:
        """Gradients of a group in full and as the summaries that large cases store, under `prefix`, or its name."""
        out = {}
        for name, grad in official.export(self.learner, grad=True).items():
            if name.startswith(PREFIX[group]):
                out[f"{prefix or group}/grad/{name}"] = grad
                out |= {f"{prefix or group}/{k}": v for k, v in self.summary("grad", name, grad).items()}
        return out

    @staticmethod
    def summary(kind: str, name: str, value: np.ndarray, entries: bool = True) -> dict:
        """Norm, four random projections and sixteen entries of an array, by the recipe of the golden data."""
        flat = value.astype(np.float64).ravel()
        rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) + 2))
        out = {f"{kind}_norm/{name}": np.linalg.norm(flat),
               f"{kind}_proj/{name}": rng.standard_normal((4, flat.size)) @ flat}
        if entries:
            out[f"{kind}_entries/{name}"] = value.ravel()[entry_positions(name, value.size)]
        return out

    def all(self, updates: int = 3) -> dict[str, np.ndarray]:
        """Every figure."""
        echo = {f"in/{k}": v for k, v in self.case.inputs.items()} | self.case.noise
        echo |= {f"param/{k}": v for k, v in self.case.params.items()}
        echo.pop("in/policy_first")
        return echo | self.world_model() | self.behavior() | self.acting() | self.updates(updates)


def entry_positions(name: str, size: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) + 1)).integers(0, size, 16)
