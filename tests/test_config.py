"""Settings: the official values, presets, checks, JSON, and what a resumed run may change."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch

from hdfast.config import (
    MACHINE_SETTINGS,
    RESUME_MAY_CHANGE,
    Config,
    EnvConfig,
    RunConfig,
    checked,
    differences,
    settings,
)
from hdfast.errors import ConfigError, RunError
from hdfast.model.harmonizer import Harmonizer
from hdfast.ops import reference
from hdfast.presets import FIXED, PRESETS
from hdfast.protocol import method_name
from hdfast.tasks import TASK_EXCEPTIONS

# Every constant of the official atari100k run, from its configuration file and its sources at commit 0a22e33.
OFFICIAL = {
    "env.num_envs": 1, "env.size": 64, "env.frame_skip": 4, "env.noop_max": 30, "env.max_episode_frames": 108_000,
    "env.sticky": 0.0, "env.full_action_space": False, "env.grayscale": False, "env.terminal_on_limit": True,
    "env.background": "none",
    "replay.capacity": 1_000_000,
    "model.deter": 512, "model.units": 512, "model.stoch": 32, "model.classes": 32, "model.cnn_depth": 32,
    "model.mlp_layers": 2, "model.vector_layers": 0, "model.vector_units": 0, "model.bins": 255, "model.unimix": 0.01,
    "model.actor_outscale": 1.0,
    "harmony.mode": "rectified", "harmony.speed": 1.0, "harmony.parts": "image",
    "loss.free_nats": 1.0, "loss.dyn_scale": 0.5, "loss.rep_scale": 0.1, "loss.image_scale": 1.0,
    "loss.vector_scale": 1.0, "loss.reward_scale": 1.0, "loss.cont_scale": 1.0, "loss.reward_grad": True,
    "loss.cont_grad": True, "behavior.actor_gradient": "auto",
    "behavior.horizon": 15, "behavior.discount_horizon": 333.0, "behavior.lam": 0.95, "behavior.entropy": 3e-4,
    "behavior.slow_fraction": 0.02, "behavior.slow_reg": 1.0, "behavior.return_decay": 0.99,
    "behavior.return_low": 5.0, "behavior.return_high": 95.0, "behavior.return_floor": 1.0,
    "optim.model_lr": 1e-4, "optim.model_eps": 1e-8, "optim.model_clip": 1000.0,
    "optim.actor_lr": 3e-5, "optim.actor_eps": 1e-5, "optim.actor_clip": 100.0,
    "optim.critic_lr": 3e-5, "optim.critic_eps": 1e-5, "optim.critic_clip": 100.0,
    "optim.beta1": 0.9, "optim.beta2": 0.999,
    "run.steps": 101_000, "run.prefill": 1100, "run.batch_size": 16, "run.batch_length": 64, "run.train_ratio": 1024.0,
    "run.eval_every": 5000, "run.eval_episodes": 100, "run.eval_envs": 100,
}
# How often a run reports and saves is ours to choose: it changes no number of the protocol.
OWN_CADENCE = {"run.eval_random", "run.log_every", "run.save_every", "run.video_every"}


def test_atari100k_is_the_official_run():
    flat = Config.preset("atari100k").flat()
    assert set(OFFICIAL) | MACHINE_SETTINGS | OWN_CADENCE == set(flat), "a setting without an official value to check"
    assert {name: flat[name] for name in OFFICIAL} == OFFICIAL
    assert Config() == Config.preset() == Config.preset("atari100k") == Config.preset("atari100k", "small")


def test_atari100k_schedule():
    config = Config.preset("atari100k")
    run = config.run
    per_step = run.train_ratio / (run.batch_size * run.batch_length)
    assert per_step == 1 and (run.steps - run.prefill) * per_step == 99_900
    blocks = itertools.count(FIXED["prefill_block"][0], FIXED["prefill_block"][0])
    windows = run.batch_size * run.batch_length
    assert run.prefill == next(steps for steps in blocks if steps - run.batch_length + 1 >= windows)
    assert len(range(run.eval_every, run.steps, run.eval_every)) == 20
    assert 1 - 1 / config.behavior.discount_horizon == 1 - 1 / 333
    assert config.env.max_episode_frames / config.env.frame_skip == 27_000


def test_fixed_constants_are_those_of_the_code():
    fixed = {name: value for name, (value, _) in FIXED.items()}
    assert fixed["norm_eps"] == reference.NORM_EPS == 1e-3
    bins = reference.twohot_bins(255)
    assert (fixed["bins_low"], fixed["bins_high"]) == (bins[0].item(), bins[-1].item()) == (-20, 20)
    kept = reference.gru_gates(torch.zeros(1, 3), torch.ones(1, 1), torch.ones(3), torch.zeros(3)).item()
    assert kept == pytest.approx(1 / (1 + math.exp(fixed["gru_update_bias"]))) and fixed["gru_update_bias"] == -1
    harmonizer = Harmonizer("rectified", {"dyn": 0.5, "rep": 0.1, "image": 1.0, "reward": 1.0, "cont": 1.0})
    assert harmonizer.s().tolist() == [fixed["harmony_init"]] * 3 == [0, 0, 0]


@pytest.mark.parametrize(("name", "deter", "units", "cnn_depth", "layers"), [
    ("small", 512, 512, 32, 2), ("medium", 1024, 640, 48, 3), ("large", 2048, 768, 64, 4),
    ("xlarge", 4096, 1024, 96, 5)])
def test_sizes(name, deter, units, cnn_depth, layers):
    model = Config.preset("cpu", name).model
    assert (model.deter, model.units, model.cnn_depth, model.mlp_layers) == (deter, units, cnn_depth, layers)
    assert (model.stoch, model.classes) == (32, 32)
    changed = differences(Config(), Config.preset("atari100k", name))
    assert all(key.startswith("model.") for key in changed)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_stack(name):
    alone = Config.preset(name)
    assert Config.preset("atari100k", name) == alone
    assert Config.preset(name, name) == alone
    back = Config.preset(name, "atari100k")
    assert set(differences(Config(), back)) <= MACHINE_SETTINGS
    assert PRESETS[name].about
    batch = alone.run.batch_size * alone.run.batch_length
    assert alone.run.prefill - alone.env.num_envs * (alone.run.batch_length - 1) >= batch, "a batch of distinct windows"
    assert alone.run.eval_envs <= alone.run.eval_episodes


@pytest.mark.parametrize(("presets", "overrides", "name"), [
    (["atari100k"], {}, "HarmonyDream"), (["plain"], {}, "HarmonyDream (plain)"), (["baseline"], {}, "DreamerV3"),
    (["reward10"], {}, "DreamerV3 (reward x10)"), (["debug", "reward100"], {}, "DreamerV3 (reward x100)"),
    (["observation_only"], {}, "DreamerV3 (observation only)"), (["reward_only"], {}, "DreamerV3 (reward only)"),
    (["reward10", "reward_only"], {}, "DreamerV3 (reward only)"),
    (["reward100", "baseline", "plain"], {}, "HarmonyDream (plain)"),
    (["reward10"], {"loss.image_scale": 0.5}, "DreamerV3 (reward x10, image x0.5)"),
    ([], {"loss.reward_grad": False}, "HarmonyDream (observation only)")])
def test_method_names(presets, overrides, name):
    assert method_name(Config.preset(*presets, **overrides)) == name


def test_what_presets_are_for():
    def updates(config):
        run = config.run
        return (run.steps - run.prefill) * run.train_ratio / (run.batch_size * run.batch_length)

    assert differences(Config(), Config.preset("baseline")) == {"harmony.mode": ("rectified", "off")}
    cpu, catch, debug = (Config.preset(name) for name in ("cpu", "catch", "debug"))
    assert updates(cpu) >= 10_000 and cpu.run.steps <= Config().run.steps and cpu.task == "atari_pong"
    assert catch.task == "catch_5x5"
    assert catch.run.train_ratio / (catch.run.batch_size * catch.run.batch_length) == 1 / 8
    assert 10 <= updates(debug) <= 200 and debug.run.steps < 1000
    for task in ("dummy", "dummy_vector", "catch", "pong", "gym_CartPole-v1"):
        assert Config.preset("debug", task=task).model == debug.model


def test_task_exception_and_what_overrides_it():
    limit = TASK_EXCEPTIONS["atari_chopper_command"]["env.max_episode_frames"]
    assert limit == 5400

    def frames(*presets, task="ChopperCommand-v5", **overrides):
        return Config.preset(*presets, task=task, **overrides).env.max_episode_frames

    assert frames("atari100k") == frames() == frames("atari100k", "baseline") == frames("debug", "atari100k") == limit
    assert frames("atari100k", task="pong") == 108_000
    assert frames("atari100k", "debug") == Config.preset("debug").env.max_episode_frames < limit
    assert frames("atari100k", **{"env.max_episode_frames": 108_000}) == 108_000


def test_every_setting_holds_its_own_bounds():
    for name, rule in settings().items():
        low, high, choices = (rule.metadata[key] for key in ("low", "high", "choices"))
        assert rule.metadata["help"] and rule.type in (bool, int, float, str), name
        assert checked(name, rule.default) == rule.default
        for value in (low, high, *(choices or ())):
            assert value is None or checked(name, value) == value
        step = 1 if rule.type is int else 1e-6
        for beyond in ([] if low is None else [low - step]) + ([] if high is None else [high + step]):
            with pytest.raises(ConfigError, match=name):
                checked(name, beyond)


@pytest.mark.parametrize(("name", "value", "says"), [
    ("run.steps", -5, "integer"), ("run.steps", 0, "integer"), ("run.steps", 2.5, "2.5"), ("run.steps", "12", "'12'"),
    ("run.steps", True, "True"), ("run.steps", None, "None"), ("run.steps", float("inf"), "inf"),
    ("run.steps", 10**400, "integer"), ("run.steps", float("nan"), "nan"), ("run.steps", 1 + 2j, "integer"),
    ("optim.model_lr", float("nan"), "number"), ("optim.model_lr", -1e-9, ">= 0"), ("optim.model_lr", "1e-4", "number"),
    ("optim.model_lr", 10**400, "number"), ("env.grayscale", 1, "True or False"), ("env.grayscale", "yes", "True or"),
    ("env.size", 60, "8, 16, 32, 64, 128"), ("env.backend", "envpol", "mean 'envpool'"), ("env.backend", 3, "one of"),
    ("harmony.mode", True, "rectified, plain, off"), ("device", "gpu", "cuda"), ("device", "cuda:x", "cuda:N"),
    ("task", "pongg", "did you mean 'pong'"), ("task", 5, "string|text"), ("task", "gym_\x1b[31m", "printable"),
    ("logdir", " ", "path"), ("logdir", "runs/{tsk}", "'tsk'"), ("logdir", "runs/{task", "'task'"),
    ("logdir", "a\nb", "printable"), ("logdir", "\udcff", "printable"),
    ("run.stps", 5, "did you mean 'run.steps'"), ("run", 5, "unknown setting"), ("", 5, "unknown setting")])
def test_bad_values(name, value, says):
    with pytest.raises(ConfigError, match=says):
        Config.preset("atari100k", **{name: value})


@pytest.mark.parametrize(("name", "value", "stored"), [
    ("run.steps", 2e5, 200_000), ("run.steps", np.int64(5000), 5000), ("run.train_ratio", 32, 32.0),
    ("behavior.lam", np.float32(0.5), 0.5), ("task", "ALE/Pong-v5", "atari_pong"), ("task", "catch", "catch_5x5")])
def test_values_take_the_type_of_their_setting(name, value, stored):
    found = Config.preset(**{name: value}).flat()[name]
    assert found == stored and type(found) is type(stored)


@pytest.mark.parametrize(("values", "says"), [
    ({"model.bins": 254}, "odd"), ({"behavior.return_low": 95, "behavior.return_high": 95}, "return_high"),
    ({"loss.dyn_scale": 0, "loss.rep_scale": 0}, "harmony"),
    ({"env.frame_skip": 8, "env.max_episode_frames": 7}, "frame_skip"),
    ({"replay.capacity": 64, "env.num_envs": 2}, "at least 128"), ({"run.prefill": 63}, "at least 64"),
    ({"run.prefill": 1100, "env.num_envs": 20}, "at least 1280"), ({"run.steps": 1000}, "run.prefill")])
def test_clashing_values(values, says):
    with pytest.raises(ConfigError, match=says):
        Config.preset("atari100k", **values)


def test_harmony_off_needs_no_kl_weight():
    assert Config.preset("baseline", **{"loss.dyn_scale": 0, "loss.rep_scale": 0}).loss.dyn_scale == 0


def test_unknown_preset():
    with pytest.raises(ConfigError, match="did you mean 'atari100k'"):
        Config.preset("atari10k")


def test_every_way_to_a_config_is_checked():
    with pytest.raises(ConfigError, match=r"run\.steps"):
        Config(run=RunConfig(steps=-1))
    with pytest.raises(ConfigError, match=r"env\.size"):
        dataclasses.replace(Config(), env=EnvConfig(size=7))
    with pytest.raises(ConfigError, match="unknown setting 'env'"):
        Config(env=None)
    assert dataclasses.replace(Config(), task="breakout").task == "atari_breakout"
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 1


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name):
    config = Config.preset(name, task=Config.preset(name).task, seed=3, logdir="runs/é {task}")
    text = config.to_json()
    assert Config.from_json(text) == config
    assert json.loads(text)["run"]["steps"] == config.run.steps
    assert hash(Config.from_json(text)) == hash(config)


def test_json_of_another_version():
    data = json.loads(Config.preset("catch").to_json())
    del data["replay"]["device"], data["harmony"]
    assert Config.from_json(json.dumps(data)) == Config.preset("catch")
    data["run"]["stepps"] = 5
    with pytest.raises(ConfigError, match=r"did you mean 'run\.steps'"):
        Config.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', Config().to_json()[:200]])
def test_json_that_is_no_config(text):
    with pytest.raises(RunError, match=r"config\.json"):
        Config.from_json(text)


@pytest.mark.parametrize("text", ['{"run": 5}', '{"run": {"steps": {}}}', '{"run": [1]}', '{"run": {"steps": "5"}}'])
def test_json_with_bad_values(text):
    with pytest.raises(ConfigError):
        Config.from_json(text)


def test_differences():
    old = Config.preset("atari100k", seed=1)
    new = Config.preset("atari100k", seed=1, device="cpu", **{"run.steps": 200_000, "model.deter": 128})
    assert differences(old, old) == {}
    assert differences(old, new) == {
        "device": ("auto", "cpu"), "model.deter": (512, 128), "run.steps": (101_000, 200_000)}
    assert differences(old, new, ignore=RESUME_MAY_CHANGE) == {"model.deter": (512, 128)}
    assert set(settings()) >= RESUME_MAY_CHANGE == {
        "logdir", "device", "backend", "cuda_graphs", "logger", "deterministic", "env.num_threads", "env.timeout",
        "env.retries", "env.workers", "replay.device", "run.threads", "run.steps", "run.log_every", "run.save_every",
        "run.eval_every", "run.eval_random", "run.video_every", "run.max_seconds", "run.max_skipped"}


def test_run_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(Config(task="pong", seed=7).run_dir()) == "runs/atari_pong/7"
    assert Config(logdir="~/{seed}-{seed}").run_dir() == tmp_path / "0-0"
    assert str(Config(task="gym_ALE/Pong-v5", logdir="{task}").run_dir()) == "gym_ALE_Pong-v5"
    first = str(Config(logdir="a/{timestamp}/b}").run_dir())
    assert first.startswith("a/2") and first.endswith("/b}") and len(first) == len("a/20240101T000000/b}")


@pytest.mark.parametrize("text", ['{"seed": 1, "seed": 2}', '{"run": {"steps": 100000, "prefill": 1100, "steps": 5}}'])
def test_json_that_names_a_setting_twice(text):
    with pytest.raises(RunError, match="the name '(seed|steps)' occurs twice"):
        Config.from_json(text)
