"""Learning beside sheeprl: its environment is hdfast's record by record, its settings are hdfast's, and the record."""

import ast
import json
import subprocess
import sys

import export
import figures
import gym_atari
import learning_records
import numpy as np
import peer_sheeprl
import pytest
import results_table
import sheeprl_settings
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from checkout import ENV, ROOT
from hdfast.bench import peers
from hdfast.config import Config, EnvConfig, settings
from hdfast.envs import make_envs
from hdfast.errors import ConfigError
from hdfast.evaluation import Running
from hdfast.machine import cpu_name, git_revision
from hdfast.report import score_files
from hdfast.run.jsonl import read_rows

LEARNING = ROOT / "bench" / "learning"
STACK = ["--configs", "atari100k", "cpu", "baseline", "--task", "krull", "--run.steps", "900", "--run.prefill", "200",
         "--device", "cpu"]


# The environment


def peer_records(env: SyncVectorEnv, actions: np.ndarray):
    """(obs, reward, is_first, is_last, is_terminal) as sheeprl stores them: the last record, and in the same step the
    first of the next episode."""
    yield env.reset(seed=3)[0][0], 0.0, True, False, False
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(np.array([action]))
        over = bool(terminated[0] or truncated[0])
        yield info["final_obs"][0] if over else obs[0], float(reward[0]), False, over, bool(terminated[0])
        if over:
            yield obs[0], 0.0, True, False, False


@pytest.mark.parametrize(("game", "backend", "terminal"), [
    ("breakout", "ale", True), ("krull", "ale", False), ("breakout", "envpool", False), ("krull", "envpool", True)])
def test_records_are_those_of_make_envs(game, backend, terminal, tmp_path):
    """Everything is equal, the random no-ops too: seed and stream are the same, and episodes follow without a break."""
    settings = dict(backend=backend, max_episode_frames=4 * 180, terminal_on_limit=terminal, timeout=60.0)
    file = tmp_path / "episodes.jsonl"
    peer = SyncVectorEnv([lambda: gym_atari.ProtocolAtari(f"atari_{game}", settings, 7, 2, 1, str(file))],
                         autoreset_mode=AutoresetMode.SAME_STEP)
    ours = make_envs(game, EnvConfig(**settings), num_envs=1, seed=9)
    assert peer.single_action_space.n == ours.act_space.n
    actions = np.random.default_rng(1).integers(0, ours.act_space.n, 600)
    left, record, running, ended, ends = iter(actions), None, Running(1), [], set()
    for obs, reward, is_first, is_last, is_terminal in peer_records(peer, actions):
        if record is None:
            record = ours.reset()
        else:
            record = ours.step(np.array([0 if is_first else next(left)]))
        assert np.array_equal(obs, record.image[0])
        assert (reward, is_first, is_last, is_terminal) == (
            record.reward[0], record.is_first[0], record.is_last[0], record.is_terminal[0])
        ended += running.add(record)
        ends |= {bool(is_terminal)} if is_last else set()
    rows = read_rows(file)
    assert [(row["score"], row["length"]) for row in rows] == ended and len(ended) >= 3
    assert [row["step"] for row in rows] == np.cumsum([length for _, length in ended]).tolist()
    assert ends == ({True} if terminal else {False} if game == "krull" else {True, False})
    peer.close()


def test_peer_side_needs_no_torch_of_ours():
    """What the programs of the peer's environment import from hdfast loads no torch, and nothing of the model."""
    taken = set()
    for name in ("gym_atari", "sheeprl_run"):
        tree = ast.parse((LEARNING / f"{name}.py").read_text())
        taken |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                  and node.module.startswith("hdfast")}
    program = f"import sys, {', '.join(sorted(taken))}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], env=ENV, check=True)


# The settings


def parsed(*more: str) -> Config:
    return peer_sheeprl.parse([*STACK, *more], peer_sheeprl.PeerFlags, with_settings=True).config()


def changed(name: str) -> Config:
    """The comparison's configuration with another value of one setting."""
    flat = parsed().flat()
    special = {"task": "atari_pong", "device": "cuda:1", "precision": "tf32", "env.size": 32, "model.bins": 101,
               "harmony.mode": "plain", "env.num_envs": 2, "env.sticky": 0.25, "logdir": "elsewhere"}
    rule, value = settings()[name], flat[name]
    if name in special:
        value = special[name]
    elif rule.metadata["choices"]:
        value = next(choice for choice in rule.metadata["choices"] if choice != value)
    elif rule.type is bool:
        value = not value
    else:
        value = rule.type(value / 2 if value > 1 or rule.type is float and value else value + 1)
    return Config.from_flat(flat | {name: value})


def test_every_setting_stands_in_one_table():
    tables = [set(table) for table in (
        sheeprl_settings.SAME, sheeprl_settings.DERIVED, sheeprl_settings.IN_ENVIRONMENT, sheeprl_settings.IN_PROGRAM,
        sheeprl_settings.FIXED_THERE, sheeprl_settings.NO_PART)]
    assert set().union(*tables) == set(settings())
    assert sum(map(len, tables)) == len(settings())


@pytest.mark.parametrize("name", [*sheeprl_settings.SAME, *sheeprl_settings.DERIVED])
def test_a_setting_reaches_its_keys_and_no_other(name):
    before, after = sheeprl_settings.translate(parsed()), sheeprl_settings.translate(changed(name))
    moved = {key for key in after if after[key] != before[key]}
    wanted = set(sheeprl_settings.SAME.get(name) or sheeprl_settings.DERIVED[name](parsed()))
    if name in ("run.batch_size", "run.batch_length"):
        wanted |= {"algo.replay_ratio"}  # the same steps replayed, in other batches
    if name == "device":
        wanted |= {"float32_matmul_precision"}  # auto is TF32 on a GPU
    if name == "precision":
        wanted -= {"fabric.precision"}
    assert moved == wanted
    if name in sheeprl_settings.SAME:
        assert {after[key] for key in wanted - {"algo.replay_ratio"}} == {changed(name).flat()[name]}


def test_values_in_other_terms():
    found = sheeprl_settings.translate(parsed())
    assert found["algo.gamma"] == 1 - 1 / 333 and found["algo.replay_ratio"] == 32 / (8 * 16)
    assert found["algo.actor.moments.percentile.low"] == 0.05 and found["algo.actor.moments.percentile.high"] == 0.95
    assert found["algo.actor.moments.max"] == 1.0 and found["algo.critic.optimizer.betas"] == [0.9, 0.999]
    assert found["fabric.accelerator"] == "cpu" and found["float32_matmul_precision"] == "highest"
    assert sheeprl_settings.translate(changed("device"))["fabric.devices"] == [1]
    bf16 = parsed("--precision", "bf16")
    assert sheeprl_settings.translate(bf16)["fabric.precision"] == "bf16-mixed"
    assert any("bf16" in note for note in sheeprl_settings.notes(bf16))


@pytest.mark.parametrize("name", sorted(sheeprl_settings.IN_ENVIRONMENT))
def test_settings_of_the_environment_are_handed_over(name):
    before, after = (sheeprl_settings.environment(config) for config in (parsed(), changed(name)))
    assert {f"env.{key}" for key in after if after[key] != before[key]} == {name}


def test_what_sheeprl_cannot_be_told_is_noted():
    assert sheeprl_settings.notes(parsed()) == list(sheeprl_settings.ALWAYS)
    fixed = {name for name in sheeprl_settings.FIXED_THERE if not name.startswith("env.")}  # Atari has no others
    for name in fixed - {"harmony.mode"}:
        config = changed(name)
        assert sum(note.startswith(f"{name} is ") for note in sheeprl_settings.notes(config)) == 1
        assert name in sheeprl_settings.matched(parsed()) and name not in sheeprl_settings.matched(config)
    assert any("several" in note for note in sheeprl_settings.notes(changed("env.num_envs")))
    with pytest.raises(ConfigError, match="add the preset baseline"):
        sheeprl_settings.translate(changed("harmony.mode"))
    with pytest.raises(ConfigError, match="Atari"):
        sheeprl_settings.translate(parsed("--task", "dummy"))


# The program


FAKE = """
import json, sys
from pathlib import Path
verb, folder = sys.argv[2], Path(sys.argv[3])
job = json.loads((folder / "job.json").read_text())
print("sheeprl says something")
sum(range(10**6))
if verb == "train":
    rows = [{"step": 100, "score": 3.0, "length": 100}, {"step": 250, "score": 5.0, "length": 150}]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
elif (folder / "broken").exists():
    sys.exit("no checkpoint")
else:
    found = {"episodes": [4.0] * job["episodes"], "steps": job["settings"]["algo.total_steps"], "updates": 25,
             "versions": {"sheeprl": "0.8.4", "torch": "2"}}
    (folder / "evaluation.json").write_text(json.dumps(found))
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """An interpreter of the peer that plays sheeprl's part."""
    monkeypatch.setenv("HDFAST_PEERS", str(tmp_path))
    (tmp_path / "fake.py").write_text(FAKE)
    python = peers.python("sheeprl")
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path / "fake.py"}" "$@"\n')
    python.chmod(0o755)
    return tmp_path


def test_the_record(fake, capfd):
    line = [*STACK, "--seed", "4", "--episodes", "3", "--logdir", str(fake / "run")]
    assert peer_sheeprl.main(line) == 0
    said = capfd.readouterr()
    assert said.out == f"{fake / 'run' / 'record.json'}\n" and said.err.count("sheeprl says something") == 2
    record = json.loads((fake / "run" / "record.json").read_text())
    assert (record["task"], record["seed"]) == ("atari_krull", 4)
    assert record["method"] == "sheeprl DreamerV3 [cpu, run.steps 900, run.prefill 200]"
    assert (record["frames"], record["total"], record["finished"]) == (3600, 3600, True)
    assert record["commit"] == (git_revision() or "") and record["processor"] == cpu_name()
    assert (record["xs"], record["ys"], record["episodes"]) == ([400, 1000], [3.0, 5.0], [4.0] * 3)
    assert (record["steps"], record["updates"], record["version"]) == (900, 25, "sheeprl 0.8.4, torch 2")
    for name in ("wall_seconds", "cpu_seconds", "evaluation_wall_seconds", "evaluation_cpu_seconds"):
        assert 0 < record[name] < 100
    assert record["command"] == f"python bench/learning/peer_sheeprl.py {' '.join(line[:-2])}"
    assert record["notes"] == list(sheeprl_settings.ALWAYS)
    assert record["matched"]["optim.model_lr"] == 1e-3 and "logdir" not in record["matched"]
    runs, left_out = score_files.read(fake / "run" / "record.json")
    assert not left_out and runs[0].method == record["method"]
    assert export.main([str(fake / "run" / "record.json"), "--out", str(fake / "all.json")]) == 0
    assert json.loads((fake / "all.json").read_text()) == [record]
    (fake / "run" / "broken").touch()
    assert peer_sheeprl.main(line) == 1  # only the evaluation ran again
    said = capfd.readouterr()
    assert "code 1 in `evaluate`" in said.err and said.err.count("sheeprl says something") == 1
    (fake / "run" / "broken").unlink()
    assert peer_sheeprl.main(line) == 0
    assert json.loads((fake / "run" / "record.json").read_text())["cpu_seconds"] == record["cpu_seconds"]
    assert peer_sheeprl.main([*line, "--seed", "5"]) == 2
    assert "must be a new folder" in capfd.readouterr().err


def test_the_record_stands_beside_ours(fake):
    """Exported among our records it is in both tables and in the picture, with its cost and origin."""
    assert peer_sheeprl.main([*STACK, "--episodes", "3", "--logdir", str(fake / "run")]) == 0
    record = json.loads((fake / "run" / "record.json").read_text())
    ours, other = record | {"method": "hdfast DreamerV3 [cpu]"}, record | {"method": "sheeprl [demo]", "updates": 7}
    out = fake / "results" / "all.json"
    out.parent.mkdir()
    out.write_text(json.dumps([ours, other]))
    assert export.main([str(fake / "run" / "record.json"), "--out", str(out)]) == 0
    assert json.loads(out.read_text()) == [ours, other, record]
    assert export.main([str(out), "--out", str(out)]) == 1  # a list is no peer's record
    results = learning_records.read(out.parent)
    for rows in (results_table.score_rows(results), results_table.run_rows(results)):
        assert [row[1] for row in rows] == [ours["method"], record["method"], "sheeprl [demo]"]
    found = results_table.run_rows(results)[1]
    assert found[3] == "4.0 [4.0, 4.0]" and found[5] == "25" and cpu_name() in found
    assert "sheeprl 0.8.4, torch 2" in found[-1] and (git_revision() or "")[:10] in found[-1]
    (heading, bars), = figures.run_bars(results)
    assert heading == "One run, CPU time" and {bar[0] for bar in bars} == {"hdfast", "sheeprl DreamerV3"}, "equal work"
    assert figures.learning(results, [])


@pytest.mark.parametrize(("more", "message"), [
    ([], "install.py sheeprl"), (["--harmony"], "preset baseline"), (["--run.stepz", "5"], "run.steps"),
    (["--episodes", "0"], "episodes must be")])
def test_refusals(more, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HDFAST_PEERS", str(tmp_path))
    assert peer_sheeprl.main([*STACK, "--logdir", str(tmp_path / "run"), *more]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_environments_get_the_seeds_of_a_run_of_ours():
    from hdfast.trainer import EVALUATION, stream_seed
    work = peer_sheeprl.job(parsed("--seed", "3"), 10)
    assert work["train_seed"] == stream_seed(3, 0, 0) and work["eval_seed"] == stream_seed(3, EVALUATION, 900)
    assert json.loads(json.dumps(work)) == work
