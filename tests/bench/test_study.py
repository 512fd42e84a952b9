"""bench/learning: the study's records, table, figures and page, on made-up results; and one run of its own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import study
import study_figures
import study_records
from study_arms import ARMS, TERMS

from checkout import ROOT
from hdfast.config import Config
from hdfast.errors import ConfigError, RunError
from hdfast.report import score_files
from hdfast.run.jsonl import replace
from hdfast.run.logger import Logger

HELD_OUT = {"loss": 0.123456, "unexplained": 0.5, "right": 0.75}
FACTS = {"cpu_seconds": 12.3456, "held_out": HELD_OUT}


def made_up_run(folder: Path, *presets: str, **settings) -> Path:
    """A run directory whose losses are known: image 100 - step / 10, reward 2, KL 3, continue 1."""
    config = Config.preset("catch", *presets, seed=5, **{"run.steps": 1000, "run.prefill": 200} | settings)
    folder.mkdir(parents=True)
    replace(folder / "config.json", config.to_json().encode())
    replace(folder / "meta.json", json.dumps({"starts": [{"git": "a" * 40, "cpu": "a processor"}]}).encode())
    with Logger(folder, action_repeat=1) as log:
        log.episode(1.0, 4, 100, 100)
        for step in range(210, 1001, 10):
            log.scalars({"train/loss/rew": 2.0, "train/loss/image": 100 - step / 10, "train/loss/dyn": 3.0,
                         "train/loss/rep": 3.0, "train/loss/con": 1.0} | (
                {"train/harmony/rew_coeff": 4.0, "train/harmony/image_coeff": 0.5, "train/harmony/kl_coeff": 2.0}
                if config.harmony.mode != "off" else {}), step, step)
        for step, score in ((500, -0.5), (1000, 0.123456)):
            log.evaluation([score] * 3, [4] * 3, step, step)
    return folder


def made_up_results(folder: Path, *, seeds: int = 3, names=ARMS) -> Path:
    """Results of several arms, each record its own numbers."""
    rng = np.random.default_rng(0)
    for i, name in enumerate(names):
        at = list(range(100, 1001, 100))
        records = [{
            "task": "catch_5x5", "method": name, "seed": str(seed), "arm": name, "xs": [500, 1000],
            "ys": [-0.5, i / 10 + seed / 100], "at": at, "steps": 1000,
            "background": "none" if name.endswith("no_background") else "noise",
            "loss": {term: rng.uniform(1, 2, 10).tolist() for term in TERMS},
            "weighted": {term: [97.0 if term == "image" else 1.0] * 10 for term in TERMS},
            "cpu_seconds": 60 + seed, "held_out": HELD_OUT, "command": "hdfast train", "commit": "b" * 40,
            "processor": "a processor"} for seed in range(seeds)]
        replace(folder / f"{name}.json", json.dumps(records).encode())
    return folder


# Records

@pytest.mark.parametrize(("presets", "weights"), [
    ((), (4, 0.5, 2, 1)), (("plain",), (4, 0.5, 2, 1)), (("baseline",), (1, 1, 0.6, 1)),
    (("reward100",), (100, 1, 0.6, 1)), (("observation_only",), (1, 1, 0.6, 1))])
def test_a_record_holds_what_the_run_wrote(tmp_path, presets, weights):
    """`weights` are of reward, image, KL, continue: of a KL of 3, fixed scales take 0.5 and 0.1."""
    made = study_records.record("off", made_up_run(tmp_path / "5", *presets, **{"env.background": "noise"}), FACTS,
                                "hdfast train --seed=5")
    assert (made["task"], made["seed"], made["xs"], made["ys"]) == ("catch_5x5", "5", [500, 1000], [-0.5, 0.1235])
    assert made["at"] == list(range(250, 1001, 50)), "nothing is learned before the prefill ends"
    assert made["loss"]["image"][0] == pytest.approx(np.mean(100 - np.arange(210, 251, 10) / 10))
    assert all(made["loss"]["reward"][i] == 2 for i in range(16))
    for term, weight, loss in zip(TERMS, weights, (2, None, 3, 1), strict=True):
        want = [weight * (x if loss is None else loss) for x in made["loss"]["image"]]
        assert made["weighted"][term] == pytest.approx(want, rel=1e-3), term
    assert made["cpu_seconds"] == 12.35 and made["held_out"]["loss"] == 0.1235
    assert (made["commit"], made["processor"], made["command"]) == ("a" * 40, "a processor", "hdfast train --seed=5")
    assert len(json.dumps(made)) < 3000, "eighty of them stay below 300 KB"


def test_a_run_without_the_background_is_a_method_of_its_own(tmp_path):
    names = [study_records.record("x", made_up_run(tmp_path / name, **{"env.background": name}), FACTS, "")["method"]
             for name in ("none", "noise")]
    assert names == ["HarmonyDream, no background", "HarmonyDream"]


def test_records_are_score_files_for_the_report(tmp_path):
    made = study_records.record("off", made_up_run(tmp_path / "5"), FACTS, "")
    (tmp_path / "off.json").write_text(json.dumps([made]))
    (run,), notes = score_files.read(tmp_path / "off.json")
    assert run.final == 0.1235 and run.seed == "5" and not notes


# Figures, table, page

def test_figures_are_the_same_bytes_from_the_same_results(tmp_path):
    results = made_up_results(tmp_path / "results")
    first, again = (study_figures.figures(results, tmp_path / name) for name in "ab")
    assert [path.name for path in first] == [f"{name}.png" for name in study_figures.FIGURES]
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes() and one.read_bytes()[:4] == b"\x89PNG"
    assert study_figures.figures(made_up_results(tmp_path / "one", seeds=1, names=["off"]), tmp_path / "one")


def test_what_the_table_says(tmp_path):
    lines = study_figures.table(made_up_results(tmp_path)).splitlines()
    assert len(lines) == 2 + len(ARMS) and all(line.count("|") == 10 for line in lines)
    cells = [cell.strip() for cell in lines[2 + list(ARMS).index("off")].split("|")[1:-1]]
    low, high = study_figures.interval(np.array([0.2, 0.21, 0.22]))
    assert cells == ["off (DreamerV3)", "noise", "3", f"0.21 [{low:.2f}, {high:.2f}]", "0", "0.50 [0.50, 0.50]",
                     "0.75", "97% to 97%", "61"]
    one = study_figures.table(made_up_results(tmp_path / "one", seeds=1, names=["off"]))
    assert "| 1 | 0.00 (one run) | 0 | 0.50 (one run) |" in one


def test_intervals_are_bootstrap_percentiles_of_the_mean():
    values = np.random.default_rng(1).normal(size=(12, 3))
    low, high = study_figures.interval(values)
    draws = np.random.default_rng(9).integers(0, 12, (20_000, 12))
    want = np.percentile(values[draws].mean(1), (2.5, 97.5), axis=0)
    assert np.allclose([low, high], want, atol=0.03) and ((low < values.mean(0)) & (values.mean(0) < high)).all()


def test_curves_are_drawn_where_all_seeds_have_points(tmp_path):
    records = study_figures.load(made_up_results(tmp_path, names=["off"]))["off"]
    for curve in (records[1]["at"], *records[1]["weighted"].values()):
        del curve[0]
    steps, image = study_figures.shares(records, "image")
    assert steps.tolist() == list(range(200, 1001, 100)) and image.shape == (3, 9) and np.allclose(image, 0.97)


def test_without_results_there_is_a_sentence_and_no_figure(tmp_path):
    assert study_figures.figures(tmp_path, tmp_path / "out") == [] and not (tmp_path / "out").exists()
    assert study_figures.section(tmp_path) == study_figures.table(tmp_path) == study_figures.NOTHING


def test_a_page_gets_its_section_between_the_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{study_figures.BEGIN}\nwhat stood here\n{study_figures.END}\nafter\n")
    results = made_up_results(tmp_path / "results")
    study_figures.write_page(page, results)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "what stood here" not in text
    assert study_figures.table(results) in text and "figures/harmony_scores.png" in text
    assert all(len(line) <= 120 or line[0] == "|" for line in text.splitlines())
    assert study_figures.filled(text, results) == text
    with pytest.raises(RunError, match="must hold the lines"):
        study_figures.filled("no markers", results)


@pytest.mark.parametrize("text", ["", "[]", "{}", '[{"arm": "plain", "seed": "0"}]', "[5]"])
def test_files_that_are_no_results(tmp_path, text):
    (tmp_path / "off.json").write_text(text)
    with pytest.raises(RunError, match=r"cannot use .*off\.json"):
        study_figures.table(tmp_path)


def test_the_page_is_up_to_date():
    """docs/harmony.md says what the committed results say."""
    text = (ROOT / "docs" / "harmony.md").read_text()
    results = ROOT / "bench" / "results" / "study"
    assert study_figures.filled(text, results) == text, "run python bench/learning/study.py --draw"
    assert sum(path.stat().st_size for path in results.glob("*.json")) < 300_000


# Runs

def test_the_plan_is_arms_times_seeds(tmp_path):
    runs = study.plan(ARMS, ("0-1",), str(tmp_path), {})
    assert [(run.arm, run.config.seed) for run in runs] == [(arm, seed) for seed in (0, 1) for arm in ARMS]
    for run in runs:
        arm = ARMS[run.arm]
        assert run.config.env.background == (study.BACKGROUND if arm.background else "none")
        assert run.config.harmony.mode == {"rectified": "rectified", "plain": "plain"}.get(
            run.arm.removesuffix("_no_background"), "off")
        assert run.config.run.threads == 1 and run.logdir == tmp_path / run.arm / str(run.config.seed)
    budgets = {(run.config.run, run.config.model, run.config.behavior, run.config.optim) for run in runs}
    assert len(budgets) == 1, "all arms have the same budget, networks and optimizers"
    assert len({json.dumps([run.config.harmony.mode, run.config.loss.reward_scale, run.config.loss.reward_grad])
                for run in runs}) == 6


@pytest.mark.parametrize(("words", "says"), [
    (["--configs", "off"], "leave them out"), (["--env.background", "noise"], "leave them out"),
    (["--arms", "of"], "rectified, plain, off"), (["--jobs", "0"], "jobs"), (["--run.stps", "3"], "did you mean")])
def test_command_lines_that_cannot_be_used(words, says):
    with pytest.raises(ConfigError, match=says):
        study.main(words)


@pytest.mark.slow
def test_a_study_runs_records_draws_and_goes_on(tmp_path, capsys):
    """Two tiny runs end to end; the same command again trains nothing, and one more seed trains one run."""
    words = ["--arms", "off,rectified_no_background", "--jobs", "2", "--logdir", str(tmp_path / "runs"), "--results",
             str(tmp_path / "out"), *"--run.steps 400 --run.prefill 160 --run.batch_size 4 --run.batch_length 8 "
             "--run.train_ratio 2 --run.eval_every 0 --run.eval_episodes 4 --run.eval_envs 4 --run.log_every 40 "
             "--model.deter 16 --model.units 16 --model.cnn_depth 2 --behavior.horizon 3".split()]
    assert study.main([*words, "--seeds", "0"]) == 0
    records = study_figures.load(tmp_path / "out")
    (off,), (rectified,) = records["off"], records["rectified_no_background"]
    assert off["xs"] == [400] and off["background"] == study.BACKGROUND and rectified["background"] == "none"
    assert off["cpu_seconds"] > 0 and 0 <= off["held_out"]["right"] <= 1 and off["held_out"]["unexplained"] > 0
    assert off["at"][-1] == 400 and off["weighted"]["image"][-1] == off["loss"]["image"][-1] > 10
    assert rectified["weighted"]["image"][-1] != rectified["loss"]["image"][-1]
    assert str(tmp_path) not in (tmp_path / "out" / "off.json").read_text(), "results name no place on a machine"
    assert (tmp_path / "out" / "harmony_shares.png").exists() and "| off (DreamerV3) |" in capsys.readouterr().out
    assert study.main([*words, "--seeds", "0"]) == 0
    assert "2 of 2 runs have their records" in capsys.readouterr().out
    assert study_figures.load(tmp_path / "out") == records
    shutil.rmtree(tmp_path / "runs")  # as on another machine
    assert study.main([*words, "--seeds", "0-1", "--arms", "off"]) == 0
    assert "1 of 2 runs" in capsys.readouterr().out
    first, second = study_figures.load(tmp_path / "out")["off"]
    assert first == off and second["seed"] == "1"
