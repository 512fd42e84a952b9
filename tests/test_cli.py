"""The command line: what flags mean, exit codes, one-paragraph errors, and what each verb prints."""

import errno
import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from hdfast import cli
from hdfast.config import RESUME_MAY_CHANGE, Config, settings
from hdfast.errors import ConfigError, RunError
from hdfast.flags import parse
from hdfast.presets import FIXED, PRESETS
from programs import ROOT, python


def resolved(line: str) -> Config:
    return parse(line.split(), cli.TrainFlags, with_settings=True).config()


def replace_module(monkeypatch, name: str, **content) -> None:
    """Replace the module that a verb imports."""
    module, (package, _, last) = SimpleNamespace(**content), f"hdfast.{name}".rpartition(".")
    monkeypatch.setitem(sys.modules, f"hdfast.{name}", module)
    monkeypatch.setattr(importlib.import_module(package), last, module, raising=False)


@pytest.fixture(autouse=True)
def as_a_user(monkeypatch):
    monkeypatch.delenv("HDFAST_DEBUG", raising=False)


@pytest.fixture
def trained(monkeypatch) -> list:
    """Calls of stand-ins for the trainer and the dry run, as (config, dry_run)."""
    calls = []
    replace_module(monkeypatch, "trainer", train=lambda config: calls.append((config, False)))
    replace_module(monkeypatch, "commands.dry_run", dry_run=lambda config: calls.append((config, True)))
    return calls


@pytest.mark.parametrize(("line", "expected"), [
    ("--run.steps 5000", {"run.steps": 5000}), ("--run.steps=5000", {"run.steps": 5000}),
    ("--run.steps 5e4", {"run.steps": 50_000}), ("--run.steps 5_000", {"run.steps": 5000}),
    ("--run.train-ratio 32", {"run.train_ratio": 32.0}), ("--optim.model-lr=1e-3", {"optim.model_lr": 1e-3}),
    ("--run.steps 7000 --run.steps 6000", {"run.steps": 6000}),
    ("--seed 3 --device cuda:1", {"seed": 3, "device": "cuda:1"}),
    ("--task Pong-v5", {"task": "atari_pong"}), ("--task ms_pacman", {"task": "atari_ms_pacman"}),
    ("--env.grayscale", {"env.grayscale": True}), ("--env.grayscale --seed 3", {"env.grayscale": True, "seed": 3}),
    ("--env.grayscale yes", {"env.grayscale": True}), ("--env.grayscale=1", {"env.grayscale": True}),
    ("--env.grayscale TRUE --env.grayscale false", {}),
    ("--no-env.terminal-on-limit", {"env.terminal_on_limit": False}),
    ("--env.terminal_on_limit 0", {"env.terminal_on_limit": False}),
    ("--env.terminal-on-limit=no", {"env.terminal_on_limit": False}),
    ("--no_env.terminal_on_limit --env.terminal_on_limit", {}),
    ("--harmony", {}), ("--harmony True", {}), ("--harmony False", {"harmony.mode": "off"}),
    ("--harmony=false", {"harmony.mode": "off"}), ("--no-harmony", {"harmony.mode": "off"}),
    ("--no_harmony --seed 3", {"harmony.mode": "off", "seed": 3}), ("--harmony plain", {"harmony.mode": "plain"}),
    ("--harmony False --harmony.mode plain", {"harmony.mode": "plain"}), ("--harmony.mode plain --harmony", {}),
    ("--configs baseline", {"harmony.mode": "off"}), ("--configs baseline --harmony", {}),
    ("--configs cpu atari100k", {}), ("--configs cpu,atari100k", {}), ("--configs=cpu,atari100k", {}),
    ("--configs cpu --configs small", {}), ("--logdir=-x", {"logdir": "-x"})])
def test_flags(line, expected):
    assert resolved(line) == Config.from_flat(expected)


def test_flags_win_over_presets_and_exceptions():
    assert resolved("--run.steps 9000 --configs atari100k cpu").run.steps == 9000
    assert resolved("--configs atari100k --task chopper_command").env.max_episode_frames == 5400
    line = "--env.max_episode_frames 108000 --configs atari100k --task chopper_command"
    assert resolved(line).env.max_episode_frames == 108_000


def test_any_setting_is_a_flag():
    config = Config.preset("catch", task="dummy", seed=5, **{"env.grayscale": True, "harmony.mode": "plain"})
    words = [f"--{name.replace('_', '-')}={value}" for name, value in config.flat().items()]
    assert parse(words, cli.TrainFlags, with_settings=True).config() == config


BAD = [
    ("trian", "did you mean 'train'"), ("--configs cpu", "train --configs"), ("train --task atari_pongg", "'pong'"),
    ("train --task", "--task needs a value"), ("train --task=", "--task needs a value"),
    ("train --config.unknwon 1", "unknown flag '--config.unknwon'"), ("train --config cpu", "mean '--configs'"),
    ("train --steps 5", "mean '--run.steps'"), ("train --run.step 5", "mean '--run.steps'"),
    ("train --run.steps", "needs a value"), ("train --run.steps --seed 3", "--run.steps needs a value"),
    ("train --run.steps -5", "got -5"), ("train --run.steps=-5", "got -5"), ("train --run.steps -.5", "got -0.5"),
    ("train --run.steps many", "got 'many'"), ("train --run.steps 1e999", "inf"),
    ("train --run.steps " + "9" * 5000, "integer"), ("train --run.steps 0x10", "'0x10'"), ("train --seed -1", "got -1"),
    ("train --optim.model_lr nan", "nan"), ("train --optim.model_lr -inf", "-inf"),
    ("train --optim.model_lr -1e-4", "-0.0001"),
    ("train --env.grayscale maybe", "True or False"), ("train --env.grayscale=maybe", "True or False"),
    ("train --env.grayscale=", "needs a value"), ("train --no-env.grayscale=1", "takes no value"),
    ("train --no-run.steps", "unknown flag"), ("train --no-harmony False", "unexpected word 'False'"),
    ("train --harmony perhaps", "rectified, plain, off"), ("train --configs cpuu", "mean 'cpu'"),
    ("train --configs", "needs a value"), ("train --configs=,", "needs a value"),
    ("train pong", "unexpected word 'pong'"), ("train -x", "two dashes"), ("train -", "two dashes"),
    ("train --", "two dashes"), ("train -5", "two dashes"), ("train --=5", "two dashes"),
    ("train --logdir runs/{tsk}", "'tsk'"), ("train --run.steps 1000", "run.prefill"),
    ("train --model.bins 254", "odd"),
    ("eval", "needs a run directory"), ("eval no/such/run", "config.json"), ("eval --episodes 0 x", "episodes"),
    ("eval a b", "unexpected word 'b'"), ("eval x --task pong", "unknown flag '--task'"), ("eval x --seed 1.5", "seed"),
    ("configs cpuu", "mean 'cpu'"), ("configs --diff cpu", "exactly two"), ("configs \x1b[31m", "'\\x1b[31m'"),
    ("configs --diff cpu small large", "exactly two"), ("configs small --diff cpu large", "exactly two"),
    ("configs --diff cpu cpu+nope", "'nope'"), ("configs --jsn", "'--json'"),
    ("doctor now", "unexpected word"), ("doctor --fix", "unknown flag '--fix'"), ("", None),
]


@pytest.mark.parametrize(("line", "says"), BAD, ids=[line[:40] or "empty" for line, _ in BAD])
def test_bad_command_lines(line, says, capsys, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = cli.main(line.split())
    out, err = capsys.readouterr()
    if says is None:
        assert code == 0 and "hdfast train" in out and not err
        return
    assert code == 2 and not out
    assert err.startswith("hdfast: error: ") and err.count("\n") == 1 and err.endswith("\n") and "Traceback" not in err
    assert says in err and len(err) < 500
    assert not trained and not list(tmp_path.iterdir()), "a refused command does nothing"


def test_train_hands_the_configuration_over(trained, tmp_path, capsys):
    logdir = f"{tmp_path}/{{task}}/{{seed}}"
    assert cli.main(["train", "--configs", "debug", "--task", "pong", "--seed", "4", "--logdir", logdir]) == 0
    (config, dry_run), = trained
    assert config == Config.preset("debug", task="pong", seed=4, logdir=f"{tmp_path}/atari_pong/4") and not dry_run
    assert cli.main(["train", "--dry-run"]) == 0 and trained[1] == (Config(logdir="runs/atari_pong/0"), True)


def test_logdir_that_cannot_be_used(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for logdir in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        assert cli.main(["train", "--configs", "debug", "--task", "dummy", "--logdir", str(logdir)]) in (1, 2)
        out, err = capsys.readouterr()
        assert err.startswith("hdfast: error: ") and "--logdir" in err and err.count("\n") == 1 and not out


def failing(error):
    def train(config):
        raise error
    return train


@pytest.mark.parametrize(("error", "code"), [(RunError("the checkpoint\n  is truncated; delete it"), 1),
                                             (ConfigError("model.deter\ndiffers"), 2)])
def test_expected_failures(error, code, monkeypatch, capsys, tmp_path):
    replace_module(monkeypatch, "trainer", train=failing(error))
    assert cli.main(["train", "--logdir", str(tmp_path)]) == code
    assert capsys.readouterr().err == f"hdfast: error: {' '.join(str(error).split())}\n"
    monkeypatch.setenv("HDFAST_DEBUG", "1")
    with pytest.raises(type(error)):
        cli.main(["train", "--logdir", str(tmp_path)])


@pytest.mark.parametrize("error", [
    ZeroDivisionError("a bug"), BrokenPipeError("an environment's worker died"), RuntimeError("a bug"),
    FileNotFoundError(errno.ENOENT, "a bug"), ImportError("a bug", name="hdfast.nothing")])
def test_unexpected_failures_keep_their_traceback(error, monkeypatch, tmp_path):
    replace_module(monkeypatch, "trainer", train=failing(error))
    with pytest.raises(type(error)):
        cli.main(["train", "--logdir", str(tmp_path)])


@pytest.mark.parametrize(("logdir", "says"), [("run", "the same command continues the run"),
                                              ("run/{timestamp}", "the same command with --logdir run/2")])
def test_interrupt_says_how_to_continue(logdir, says, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    replace_module(monkeypatch, "trainer", train=failing(KeyboardInterrupt()))
    assert cli.main(["train", "--logdir", logdir]) == 130
    assert says in capsys.readouterr().err
    replace_module(monkeypatch, "commands.dry_run", dry_run=failing(KeyboardInterrupt()))
    assert cli.main(["train", "--dry_run", "--logdir", logdir]) == 130
    assert capsys.readouterr().err == "\nhdfast: interrupted\n"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_lists_every_flag(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: hdfast " + verb) and not err
    shown = {word for line in out.splitlines() if line.startswith("  --") for word in line.split()[:1]}
    own = {f"--{name}" for name in cli.VERBS[verb].flags.__dataclass_fields__}
    everything = {f"--{name}" for name in settings()} | {"--configs", "--harmony"}
    assert shown == (own | everything if cli.VERBS[verb].with_settings else own)
    if cli.VERBS[verb].with_settings:
        words = " ".join(out.split())
        assert all(f"(default {rule.default})" in words for rule in settings().values())
        assert all(rule.metadata["help"] in words for rule in settings().values())


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["help"], []])
def test_overview(args, capsys):
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    assert all(f"hdfast {verb}" in out for verb in cli.VERBS)


def test_help_of_a_verb(capsys):
    assert cli.main(["help", "eval"]) == cli.main(["eval", "--help"]) == 0
    first, second = capsys.readouterr().out.split("usage: ")[1:]
    assert first == second and first.startswith("hdfast eval")
    assert cli.main(["help", "evil"]) == 2


def test_overview_examples_work(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [line.strip().split("  ")[0] for line in cli.OVERVIEW.splitlines() if line.startswith("  hdfast train")]
    assert len(lines) == 3 and all(cli.main(line.split()[1:]) == 0 for line in lines) and len(trained) == 3


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("hdfast ")


@pytest.mark.parametrize("presets", [["atari100k"], ["atari100k", "cpu"], ["catch", "baseline"]])
def test_configs_prints_what_can_be_typed_back(presets, capsys):
    assert cli.main(["configs", *presets, "--seed", "3"]) == 0
    values, fixed, section = {}, {}, None
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("# "):
            section = line[2:]
        elif line:
            name, value = line.partition("  # ")[0].split()
            assert line.partition("  # ")[2]
            (fixed if section.startswith("fixed") else values)[name] = value
    words = [f"--{name}={value}" for name, value in values.items()]
    config = Config.preset(*presets, seed=3)
    assert parse(words, cli.TrainFlags, with_settings=True).config() == config and list(values) == list(config.flat())
    assert fixed == {name: str(value) for name, (value, _) in FIXED.items()}


def test_configs_alone_lists_presets_and_settings(capsys):
    assert cli.main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, preset in PRESETS.items():
        assert f"{name:<16}  # {preset.about}" in lines
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in settings())


def test_configs_json(capsys):
    assert cli.main(["configs", "--json", "--configs", "catch", "--no-harmony"]) == 0
    config = Config.from_json(capsys.readouterr().out)
    assert config == Config.preset("catch", "baseline")


def test_configs_diff(capsys):
    assert cli.main(["configs", "--diff", "atari100k", "baseline"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("harmony.mode rectified -> off ")
    assert cli.main(["configs", "--diff", "cpu", "atari100k+cpu"]) == 0
    assert capsys.readouterr().out == "no differences\n"
    assert cli.main(["configs", "--json", "--diff", "small", "medium"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "model.deter": [512, 1024], "model.units": [512, 640], "model.cnn_depth": [32, 48], "model.mlp_layers": [2, 3]}


@dataclass
class FakeEvaluation:
    scores: list
    lengths: list
    cut: int = 0
    score_mean: float = -20.5
    score_std: float = 0.5
    human_normalized: float | None = 0.0057
    success: float | None = None
    task: str = "atari_pong"
    video: Path | None = None


def test_eval_plays_and_prints(monkeypatch, tmp_path, capsys):
    asked = {}

    def evaluate_run(logdir, **options):
        asked.update(logdir=logdir, **options)
        return FakeEvaluation([-20.0, -21.0], [800, 900], video=options["video"])

    replace_module(monkeypatch, "evaluation", evaluate_run=evaluate_run)
    video = tmp_path / "pong.gif"
    flags = f"--episodes 2 --seed=9 --envs 2 --video {video} --device cpu --backend reference --deterministic True"
    assert cli.main(["eval", str(tmp_path), *flags.split()]) == 0
    assert asked == dict(logdir=tmp_path, episodes=2, seed=9, envs=2, video=video, device="cpu", checkpoint="latest",
                         backend="reference", deterministic=True, random=False)
    out = " ".join(capsys.readouterr().out.split())
    for part in ("score mean -20.50", "score std 0.50", "score min, max -21, -20", "length mean 850.0 steps",
                 "human normalized 0.006", "episodes 2", "task atari_pong", str(video)):
        assert part in out
    assert cli.main(["eval", str(tmp_path)]) == 0
    assert asked == dict(logdir=tmp_path, episodes=100, seed=1, envs=0, video=None, device="auto", checkpoint="latest",
                         backend="auto", deterministic=False, random=False)
    assert cli.main(["eval", str(tmp_path), "--video", "--checkpoint", "best"]) == 0
    assert (asked["video"], asked["checkpoint"]) == (tmp_path / "eval.gif", "best")
    assert cli.main(["eval", str(tmp_path), "--random"]) == 0
    assert asked["random"] and "random actions" in capsys.readouterr().out
    for bad in ("pong.png", "pong.GIF", "no/such/folder/pong.gif"):
        assert cli.main(["eval", str(tmp_path), "--video", bad]) == 2
    assert not list(tmp_path.iterdir())


def test_eval_without_human_score(monkeypatch, tmp_path, capsys):
    result = FakeEvaluation([1.0], [4], human_normalized=None)
    replace_module(monkeypatch, "evaluation", evaluate_run=lambda *_, **__: result)
    assert cli.main(["eval", str(tmp_path)]) == 0
    assert "no human score" in capsys.readouterr().out


@pytest.mark.parametrize("code", [0, 1])
def test_doctor_hands_its_exit_code_on(code, monkeypatch):
    replace_module(monkeypatch, "commands.doctor", doctor=lambda: code)
    assert cli.main(["doctor"]) == code


def test_program_starts_light_and_its_errors_are_quiet():
    program = ("import sys\nfrom hdfast.cli import main\ncodes = [main(line.split()) for line in "
               "('configs', 'configs atari100k', 'train --help', '--help', 'train --task nope', 'eval')]\n"
               "heavy = {'torch', 'numpy', 'gymnasium', 'envpool', 'rich', 'matplotlib', 'importlib.metadata'}\n"
               "print(codes, *(heavy & set(sys.modules)), file=sys.stderr)")
    assert python("-c", program).stderr.splitlines()[-1] == "[0, 0, 0, 0, 2, 2]"
    done = python("-m", "hdfast", "train", "--run.steps", "-5", code=2)
    assert done.stdout == "" and done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error():
    read, write = os.pipe()
    os.close(read)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(write, "w") as closed:
        done = subprocess.run([sys.executable, "-m", "hdfast", "configs"], env=env, stdout=closed,
                              stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 141 and done.stderr == b""


def test_the_configuration_page_names_every_preset_and_what_a_resume_may_change():
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert all(f"`{name}`" in page for name in (*PRESETS, *RESUME_MAY_CHANGE))
