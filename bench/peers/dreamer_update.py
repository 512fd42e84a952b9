"""One update of the JAX `dreamer` package, measured: `python dreamer_update.py PRESET THREADS`, in its environment.

Its own agent, compiled whole by XLA, in float32. The wheel lacks the package's settings, so they stand here, with the
sizes of the preset and without the replay value loss and the replay context.
"""

# ruff: noqa: E402  what is set here counts only before jax and the package are imported
import os
import sys
import types

os.environ["JAX_PLATFORMS"] = "cpu"
if hasattr(os, "sched_setaffinity"):  # XLA knows no number of threads: it takes the cores it sees
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[2])])
sys.modules["embodied.envs"] = types.ModuleType("embodied.envs")  # the wheel lacks it, and imports it

import elements
import jax
import numpy as np
from dreamerv3.agent import Agent
from embodied.jax import internal

from hdfast.bench import serve, workload
from hdfast.bench.peers import PEERS


def configuration(config) -> elements.Config:
    """The package's settings at the sizes of a preset of ours."""
    m, run, behavior = config.model, config.run, config.behavior
    net = dict(act="silu", norm="rms", winit="trunc_normal_in")
    conv = dict(net, depth=m.cnn_depth, mults=(1, 2, 4, 8), layers=m.mlp_layers, units=m.units, kernel=4)
    head = dict(net, layers=m.mlp_layers, units=m.units)
    twohot = dict(head, output="symexp_twohot", outscale=0.0, bins=m.bins)
    off = dict(impl="none", rate=0.01, limit=1e-8)
    return elements.Config(
        seed=workload.SEED, logdir=".", batch_size=run.batch_size, batch_length=run.batch_length,
        report_length=run.batch_length, replay_context=0, replica=0, replicas=1,
        jax=dict(platform="cpu", compute_dtype="float32", prealloc=False, transfer_guard=False, enable_policy=False,
                 precompile=False, profiler=False),
        loss_scales=dict(rec=1.0, rew=1.0, con=1.0, dyn=config.loss.dyn_scale, rep=config.loss.rep_scale, policy=1.0,
                         value=1.0),
        opt=dict(lr=4e-5), ac_grads=False,
        dyn=dict(typ="rssm", rssm=dict(net, deter=m.deter, hidden=m.units, stoch=m.stoch, classes=m.classes,
                                       unimix=m.unimix, imglayers=1, obslayers=1, dynlayers=1, blocks=8,
                                       free_nats=config.loss.free_nats)),
        enc=dict(typ="simple", simple=dict(conv, strided=True)),
        dec=dict(typ="simple", simple=dict(conv, strided=True, bspace=8)),
        rewhead=twohot, value=twohot, conhead=dict(head, output="binary"),
        policy=dict(head, minstd=0.1, maxstd=1.0, outscale=0.01, unimix=m.unimix),
        policy_dist_disc="categorical", policy_dist_cont="bounded_normal",
        imag_last=0, imag_length=behavior.horizon, horizon=behavior.discount_horizon, contdisc=False,
        imag_loss=dict(slowtar=False, lam=behavior.lam, actent=behavior.entropy, slowreg=behavior.slow_reg),
        repl_loss=dict(slowtar=False), slowvalue=dict(rate=behavior.slow_fraction, every=1),
        retnorm=dict(impl="perc", rate=0.01, limit=1.0, perclo=5.0, perchi=95.0, debias=False),
        valnorm=off, advnorm=off,
        reward_grad=True, repval_loss=False, repval_grad=False, report=False, report_gradnorms=False)


def batch(config) -> dict[str, np.ndarray]:
    """The synthetic batch under the package's names: (B, T, ...)."""
    data = {name: value.swapaxes(0, 1) for name, value in workload.synthetic(config).items()}
    ended, action = data["is_terminal"].astype(bool), data["action"]
    shape = action.shape[:2]
    return {"image": data["image"], "reward": data["reward"], "is_first": data["is_first"], "is_last": ended,
            "is_terminal": ended, "action": action if workload.continuous(config) else
            action.argmax(-1).astype(np.int32),
            "consec": np.zeros(shape, np.int32), "stepid": np.zeros((*shape, 20), np.uint8)}


def build(preset: str):
    config = workload.sized(preset)
    side = config.env.size
    flag = elements.Space(bool)
    obs_space = {"image": elements.Space(np.uint8, (side, side, 3)), "reward": elements.Space(np.float32),
                 "is_first": flag, "is_last": flag, "is_terminal": flag}
    act_space = {"action": elements.Space(np.float32, (workload.NUMBERS,), -1.0, 1.0) if workload.continuous(config)
                 else elements.Space(np.int32, (), 0, workload.ACTIONS)}
    agent = Agent(obs_space, act_space, configuration(config))
    carry, data, count = agent.init_train(config.run.batch_size), batch(config), 0

    def update() -> None:
        nonlocal carry, count
        count += 1
        placed = internal.device_put(data, agent.train_sharded)
        carry, _, _ = agent.train(carry, {**placed, "seed": agent._seeds(count, agent.train_mirrored)})
        jax.block_until_ready(agent.params)

    return update


if __name__ == "__main__":
    serve.serve({"update": lambda: build(sys.argv[1])}, serve.versions(PEERS["dreamer"].packages))
