"""One DreamerV3 update of TorchRL, measured: `python torchrl_update.py PRESET THREADS [DEVICE]` where TorchRL is.

TorchRL ships the parts, not the learner: its networks, losses, target update and optimization step are put together
here at the sizes of the preset, with Adam, a dense GRU and without the replay value loss, as near to ours as its
options go. Execution is its own default: eager on a CPU; on CUDA compiled, forward and backward as a CUDA graph.
"""

import sys

import numpy as np
import torch
from tensordict import TensorDict
from tensordict.nn import InteractionType, ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential
from tensordict.nn import TensorDictModule as Module
from tensordict.nn import TensorDictSequential as Chain
from torchrl.data import Bounded, Composite, OneHot, Unbounded
from torchrl.envs.model_based import DreamerEnv
from torchrl.modules import (
    DreamerV3DiscreteActor,
    DreamerV3ImageDecoder,
    DreamerV3ImageEncoder,
    DreamerV3MLP,
    NormalParamExtractor,
    RSSMPosteriorV3,
    RSSMPriorV3,
    RSSMRolloutV3,
    SymExpTwoHot,
    TanhNormal,
    WorldModelWrapper,
)
from torchrl.objectives import (
    DreamerV3ActorLoss,
    DreamerV3Loss,
    DreamerV3ModelLoss,
    DreamerV3ValueLoss,
    SoftUpdate,
    ValueEstimators,
)
from torchrl.trainers.algorithms import DreamerV3OptimizationStepper

from hdfast.bench import serve, workload
from hdfast.bench.peers import PEERS

FEATURES = ["state", "belief"]


def ahead(keys) -> list:
    """The same keys one step later."""
    return [("next", key) for key in keys]


def normal_actor(actions: int, head: dict) -> ProbabilisticTensorDictSequential:
    """A continuous policy of TorchRL's parts, which has none of DreamerV3's own: normal, its mean and std from one
    output layer, its samples squashed by tanh."""
    return ProbabilisticTensorDictSequential(
        Module(DreamerV3MLP(out_features=2 * actions, **head), in_keys=FEATURES, out_keys=["moments"]),
        Module(NormalParamExtractor(), in_keys=["moments"], out_keys=["loc", "scale"]),
        ProbabilisticTensorDictModule(in_keys=["loc", "scale"], out_keys=["action"], distribution_class=TanhNormal,
                                      default_interaction_type=InteractionType.RANDOM, return_log_prob=True))


class Networks:
    """Every network of the learner, shared between the real sequences and imagination."""

    def __init__(self, config):
        m, side, self.continuous = config.model, config.env.size, workload.continuous(config)
        actions = workload.NUMBERS if self.continuous else workload.ACTIONS
        self.latent, self.deter = m.stoch * m.classes, m.deter
        feat, mults = self.latent + m.deter, (1, 2, 4, 8)
        sizes = dict(hidden_dim=m.units, rnn_hidden_dim=m.deter, num_categoricals=m.stoch, num_classes=m.classes,
                     unimix=m.unimix)
        self.encoder = DreamerV3ImageEncoder(depth=m.cnn_depth, mults=mults)
        self.prior = RSSMPriorV3(action_shape=(actions,), action_dim=actions, **sizes)
        self.posterior = RSSMPosteriorV3(obs_embed_dim=self.encoder.output_features((3, side, side)),
                                         use_rms_norm=True, **sizes)
        self.decoder = DreamerV3ImageDecoder(feat, (3, side, side), depth=m.cnn_depth, mults=mults, num_blocks=1)
        head = dict(in_features=feat, depth=m.mlp_layers, num_cells=m.units)
        self.reward = DreamerV3MLP(out_features=m.bins, outscale=0.0, **head)
        self.cont = DreamerV3MLP(out_features=1, **head)
        self.critic = DreamerV3MLP(out_features=m.bins, outscale=0.0, **head)
        self.actor = normal_actor(actions, head) if self.continuous else \
            DreamerV3DiscreteActor(feat, actions, depth=m.mlp_layers, num_cells=m.units)
        self.bins = SymExpTwoHot(m.bins)

    def world_model(self) -> Chain:
        feat = ahead(FEATURES)
        rollout = RSSMRolloutV3(
            Module(self.prior, in_keys=[*FEATURES, "action"], out_keys=ahead(["prior_logits", *FEATURES])),
            Module(self.posterior, in_keys=ahead(["belief", "encoded_latents"]),
                   out_keys=ahead(["posterior_logits", "state"])))
        return Chain(
            Module(self.encoder, in_keys=ahead(["pixels"]), out_keys=ahead(["encoded_latents"])), rollout,
            Module(self.decoder, in_keys=feat, out_keys=ahead(["reco_pixels"])),
            Module(self.reward, in_keys=feat, out_keys=ahead(["reward_logits"])),
            Module(self.bins, in_keys=ahead(["reward_logits"]), out_keys=ahead(["reward"])),
            Module(self.cont, in_keys=feat, out_keys=ahead(["continue_pred"])))

    def imagination(self) -> DreamerEnv:
        env = DreamerEnv(
            WorldModelWrapper(
                Module(self.prior, in_keys=[*FEATURES, "action"], out_keys=["_", *FEATURES]),
                Chain(Module(self.reward, in_keys=FEATURES, out_keys=["reward_logits"]),
                      Module(self.bins, in_keys=["reward_logits"], out_keys=["reward"]))),
            prior_shape=(self.latent,), belief_shape=(self.deter,))
        env.observation_spec = Composite(state=Unbounded(self.latent), belief=Unbounded(self.deter))
        env.state_spec = env.observation_spec.clone()
        env.action_spec = Bounded(-1, 1, (workload.NUMBERS,)) if self.continuous else OneHot(workload.ACTIONS)
        env.reward_spec = Unbounded((1,))
        return env

    def continuation(self) -> Chain:
        return Chain(Module(self.cont, in_keys=FEATURES, out_keys=["continue_logits"]),
                     Module(torch.nn.Sigmoid(), in_keys=["continue_logits"], out_keys=["continuation"]))

    def value(self) -> Chain:
        return Chain(Module(self.critic, in_keys=FEATURES, out_keys=["state_value_logits"]),
                     Module(self.bins, in_keys=["state_value_logits"], out_keys=["state_value"]))


def losses(nets: Networks, config) -> DreamerV3Loss:
    model = DreamerV3ModelLoss(
        nets.world_model(), kl_mode="separate", lambda_dynamic=config.loss.dyn_scale, unimix=config.model.unimix,
        lambda_representation=config.loss.rep_scale, lambda_continue=1.0, reco_symlog=False)
    value = nets.value()
    actor = DreamerV3ActorLoss(
        nets.actor, value, nets.imagination(), continuation_model=nets.continuation(),
        use_reinforce=not nets.continuous, imagination_horizon=config.behavior.horizon,
        entropy_bonus=config.behavior.entropy)
    actor.make_value_estimator(ValueEstimators.TDLambda, gamma=1 - 1 / config.behavior.discount_horizon,
                               lmbda=config.behavior.lam)
    critic = DreamerV3ValueLoss(value, actor_loss=actor, slow_critic_regularization=1.0,
                                num_value_bins=config.model.bins)
    return DreamerV3Loss(model, actor, critic, replay_value_loss_weight=0.0)


def batch(config, nets: Networks) -> TensorDict:
    """The synthetic batch under TorchRL's names: [B, T], images uint8 and channels first."""
    data = {name: torch.from_numpy(np.ascontiguousarray(value.swapaxes(0, 1)))
            for name, value in workload.synthetic(config).items()}
    shape = data["action"].shape[:2]
    action = data["action"]
    ended = data["is_terminal"].bool()[..., None]
    return TensorDict({
        "state": torch.zeros(*shape, nets.latent), "belief": torch.zeros(*shape, nets.deter),
        "action": torch.cat([torch.zeros_like(action[:, :1]), action[:, :-1]], 1),
        "is_init": data["is_first"][..., None],
        "next": {"pixels": data["image"].movedim(-1, -3).contiguous(), "reward": data["reward"][..., None],
                 "done": ended, "terminated": ended}}, shape)


def build(preset: str, device: str):
    config = workload.sized(preset)
    torch.manual_seed(workload.SEED)
    nets = Networks(config)
    loss, data = losses(nets, config).to(device), batch(config, nets).to(device)
    optimizer = torch.optim.Adam(loss.parameters(), lr=config.optim.model_lr, fused=True)
    stepper = DreamerV3OptimizationStepper(loss, optimizer, SoftUpdate(loss.value_loss, tau=0.02))
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as sheeprl's own setting and ours
        stepper.warmup(data.clone(recurse=False))

    def update() -> None:
        stepper.step(None, data.clone(recurse=False))
        if device == "cuda":
            torch.cuda.synchronize()

    return update


if __name__ == "__main__":
    preset, threads, device = [*sys.argv[1:], "cpu"][:3]
    torch.set_num_threads(int(threads))
    serve.serve({"update": lambda: build(preset, device)}, serve.versions(PEERS["torchrl"].packages))
