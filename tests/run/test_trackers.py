"""Where rows go besides the run's own files: a callback, Weights & Biases, MLflow; and what a run returns."""

import json
import sys
from types import SimpleNamespace

import pytest

import hdfast
from hdfast import cli
from hdfast.config import Config
from hdfast.errors import ConfigError, RunError
from hdfast.run.jsonl import read_rows

STEPS = {"run.steps": 120, "run.eval_every": 0, "run.eval_episodes": 2, "run.threads": 1}


def config(logdir, **settings) -> Config:
    return Config.preset("debug", task="dummy_vector", logdir=str(logdir), **STEPS | settings)


def stand_in(monkeypatch, name):
    """A package that keeps what it is given: runs by id, a list of (step, row) each."""
    runs = {}

    def init(*, id=None, config=None, **named):
        key = id or f"run{len(runs)}"
        rows = runs.setdefault(key, [])
        return SimpleNamespace(id=key, log=lambda row, step: rows.append((step, row)),
                               finish=lambda: rows.append("end"))

    def start_run(*, run_id=None, run_name=None):
        key = run_id or f"run{len(runs)}"
        runs.setdefault(key, [])
        return SimpleNamespace(info=SimpleNamespace(run_id=key))

    package = {"wandb": SimpleNamespace(init=init), "mlflow": SimpleNamespace(
        start_run=start_run, log_params=lambda settings: None, end_run=lambda: runs["run0"].append("end"),
        log_metrics=lambda row, step, run_id: runs[run_id].append((step, row)))}[name]
    monkeypatch.setitem(sys.modules, name, package)
    return runs


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_gets_every_row_and_a_resumed_run_continues_its_own(name, tmp_path, monkeypatch):
    runs = stand_in(monkeypatch, name)
    hdfast.train(config(tmp_path, logger=name))
    hdfast.train(config(tmp_path, logger=name, **{"run.steps": 160}))
    sent, = runs.values()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert sent.count("end") == 2 and sent[-1] == "end"
    assert [item for item in sent if item != "end"] == [(row["step"], row) for row in rows] and len(rows) > 5


def test_real_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="pip install hdfast[wandb]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    hdfast.train(config(tmp_path, logger="wandb"))
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_real_mlflow_in_a_folder(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="pip install hdfast[mlflow]")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    hdfast.train(config(tmp_path / "run", logger="mlflow"))
    key = json.loads((tmp_path / "run" / "tracker.json").read_text())["mlflow"]
    kept = mlflow.get_run(key).data
    last = read_rows(tmp_path / "run" / "metrics.jsonl")[-1]
    assert kept.params["model.deter"] == "32" and kept.metrics["eval/score"] == last["eval/score"]


def test_what_is_missing_or_does_not_start_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RunError, match=r"--logger wandb needs a package.*pip install hdfast\[wandb\]"):
        hdfast.train(config(tmp_path / "a", logger="wandb"))
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(start_run=lambda **_: 1 / 0))
    with pytest.raises(RunError, match="--logger mlflow cannot start: ZeroDivisionError: division by zero; correct it"):
        hdfast.train(config(tmp_path / "b", logger="mlflow"))


def test_a_callback_and_the_result(tmp_path):
    rows = []
    result = hdfast.train(config(tmp_path), on_row=rows.append)
    assert rows == read_rows(tmp_path / "metrics.jsonl") and {"step", "update", "seconds"} <= set(rows[0])
    assert result.logdir == tmp_path and result.evaluations == read_rows(tmp_path / "eval.jsonl")
    assert result.score == result.evaluations[-1]["eval/score"]
    assert set(result.paths) == {"config", "metrics", "scores", "eval", "curve", "ckpt"}
    assert result.load("cpu").config == config(tmp_path)
    assert hdfast.train(config(tmp_path)) == result  # finished: nothing happens


def test_a_run_from_the_config_of_another(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr("hdfast.trainer.train", trained.append)
    first = config(tmp_path / "a")
    (tmp_path / "config.json").write_text(first.to_json())
    assert cli.main(["train", "--config", str(tmp_path / "config.json"), "--seed", "3"]) == 0
    assert trained == [config(tmp_path / "a", seed=3)]
    for words, says in ((["--configs", "cpu"], "names all settings, and so do"), ([], "cannot be used")):
        parsed = cli.parse(["--config", str(tmp_path / ("config.json" if words else "none.json")), *words],
                           cli.TrainFlags, with_settings=True)
        with pytest.raises(ConfigError, match=says):
            cli.with_file(parsed)
