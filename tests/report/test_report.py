"""`hdfast report`: what it reads from run directories and score files, what it writes, what it says is missing."""

import csv
import gzip
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hdfast import cli, scores
from hdfast.bench import report as bench_report
from hdfast.config import Config
from hdfast.errors import cell
from hdfast.report import build, figures, score_files, statistics, style, tables
from hdfast.report.collect import collect
from hdfast.report.summary import mean_curve, normalized_curves, summarize
from scripted_sweep import write_run, write_sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Three games with two seeds, one of them without harmony; one unfinished run."""
    folder = tmp_path_factory.mktemp("sweep")
    for mode, games in (("atari100k", 3), ("baseline", 2)):
        write_sweep(folder / mode, games=games, seeds=2, presets=("atari100k", mode))
    write_run(folder / "late", "hero", 0, share=0.4, finished=False)
    return folder


@pytest.fixture(scope="module")
def written(sweep, tmp_path_factory) -> Path:
    """The report of the sweep beside a peer's score file, made by the command; ours.json lies beside it."""
    folder = tmp_path_factory.mktemp("report")
    peer = folder / "peer.json.gz"
    peer.write_bytes(gzip.compress(json.dumps([{"task": task, "method": "peer", "seed": 0, "xs": [4e5], "ys": [900]}
                                               for task in ("alien", "amidar", "assault")]).encode()))
    assert cli.main(["report", str(sweep), "--scores", str(peer), "--export", str(folder / "ours.json"),
                     "--out", str(folder / "out"), "--bootstrap", "200"]) == 0
    return folder / "out"


@pytest.fixture
def no_figures(monkeypatch):
    """Figures take seconds, and some tests look at words alone."""
    monkeypatch.setattr(figures, "plots", lambda summary: [])


def summary(*folders, unfinished=False, peers=()):
    runs, notes = collect(folders)
    return summarize(runs, peers, notes, samples=200, unfinished=unfinished)


# Reading runs

def test_a_run_is_read(tmp_path):
    path = write_run(tmp_path, "pong", 3)
    (run,), notes = collect([tmp_path])
    rows = [json.loads(line) for line in (path / "eval.jsonl").read_text().splitlines()]
    assert not notes
    assert (run.task, run.method, run.seed, run.finished, run.progress) == (
        "atari_pong", "hdfast HarmonyDream", "3", True, 1.0)
    assert run.final == pytest.approx(np.mean(rows[-1]["scores"]))
    assert run.how == "evaluation over 10 episodes at 404,000 frames"
    assert run.frames == run.total == 404_000
    np.testing.assert_allclose(run.curve, [[row["step"] for row in rows], [row["eval/score"] for row in rows]])
    assert set(run.harmony) == {"rew", "image", "kl"} and len(run.harmony["kl"][0]) == 20


def test_a_run_directory_itself_and_a_folder_above_are_the_same(tmp_path):
    path = write_run(tmp_path / "a" / "b", "pong", 0)
    assert [run.path for run in collect([path])[0]] == [run.path for run in collect([tmp_path])[0]] == [str(path)]


def test_without_evaluations_the_last_training_episodes_count(tmp_path):
    path = write_run(tmp_path, "pong", 0, evaluations=False)
    rows = [json.loads(line)["episode/score"] for line in (path / "scores.jsonl").read_text().splitlines()]
    (run,), _ = collect([path])
    assert run.final == pytest.approx(np.mean(rows[-20:])) and run.how == "last 20 training episodes"
    assert len(run.curve[0]) == 20, "spans of training episodes"
    assert "1 of 1 final scores are means of the last training episodes" in " ".join(summary(path).notes)


@pytest.mark.parametrize(("presets", "settings", "name"), [
    (["atari100k"], {}, "hdfast HarmonyDream"),
    (["atari100k", "baseline"], {}, "hdfast DreamerV3"),
    (["atari100k"], {"harmony.mode": "plain"}, "hdfast HarmonyDream (plain)"),
    (["atari100k", "reward100"], {}, "hdfast DreamerV3 (reward x100)"),
    (["atari100k", "cpu"], {}, "hdfast HarmonyDream [cpu]"),
    (["atari100k", "cpu", "demo"], {}, "hdfast HarmonyDream [cpu, demo]"),
    (["atari100k", "cpu", "demo", "baseline"], {"env.backend": "ale"}, "hdfast DreamerV3 [cpu, demo]"),
    (["atari100k", "cpu", "demo"], {"behavior.lam": 0.5}, "hdfast HarmonyDream [cpu, demo, behavior.lam 0.5]"),
    (["atari100k", "cpu", "demo"], {"model.actor_outscale": 1.0},
     "hdfast HarmonyDream [cpu, demo, model.actor_outscale 1.0]"),
    (["atari100k", "cpu"], {"model.bins": 63}, "hdfast HarmonyDream [cpu, model.bins 63]"),
    (["atari100k", "cpu"], {"run.steps": 12_345}, "hdfast HarmonyDream [cpu, run.steps 12345]"),
    (["atari100k", "cpu"], {"env.max_episode_frames": 108_000},
     "hdfast HarmonyDream [cpu, env.max_episode_frames 108000]"),
    (["atari100k"], {"task": "chopper_command"}, "hdfast HarmonyDream"),
    (["atari100k"], {"env.backend": "ale", "run.eval_every": 0, "run.log_every": 7}, "hdfast HarmonyDream"),
    (["atari100k"], {"model.deter": 8, "model.units": 8, "model.bins": 63, "behavior.lam": 0.5},
     "hdfast HarmonyDream [model.deter 8, model.units 8, 2 more]")])
def test_names_of_methods(tmp_path, presets, settings, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(Config.preset(*presets, **settings).to_json())
    assert [run.method for run in collect([tmp_path])[0]] == [name]


def test_other_settings_make_another_method_even_where_the_name_ends_early(tmp_path):
    for seed, lam in enumerate((0.5, 0.6, 0.5)):
        write_run(tmp_path, "pong", seed, **{"model.deter": 8, "model.units": 8, "model.bins": 63, "behavior.lam": lam})
    found = {run.seed: run.method for run in collect([tmp_path])[0]}
    assert found["0"] == found["2"] and found["1"] == found["0"] + " #2"


def test_what_is_broken_is_named(tmp_path, no_figures):
    torn = write_run(tmp_path / "a", "pong", 0)
    for name in ("eval.jsonl", "metrics.jsonl"):
        (torn / name).write_bytes((torn / name).read_bytes() + b'{"step": 404000, "eval/sc\n[1]\n\xff\n')
    (write_run(tmp_path / "b", "hero", 0) / "config.json").write_text('{"task": "atari_hero", "sed": 1}')
    (write_run(tmp_path / "c", "qbert", 0) / "config.json").write_text("{")
    (write_run(tmp_path / "d", "krull", 0) / "config.json").unlink()
    (write_run(tmp_path / "e", "alien", 0) / "meta.json").write_text("nonsense")
    silent = write_run(tmp_path / "f", "gopher", 0)
    records = silent / "eval.jsonl"
    records.write_text(records.read_text().replace('"eval/score":', '"score":'))
    (silent / "scores.jsonl").write_text('{"step": 4, "episode/score": null}\n{"step": "x", "episode/score": 1.0}\n')
    (tmp_path / "empty").mkdir()
    runs, notes = collect([tmp_path, tmp_path / "empty"])
    assert {run.task: run.finished for run in runs} == {
        "atari_pong": True, "atari_alien": False, "atari_gopher": True}
    text = "\n".join(notes)
    for expected in ("eval.jsonl: 3 of 23 lines", "metrics.jsonl: 3 of", "sed", "qbert/0: left out",
                     "hero/0: left out, its config.json cannot be used", "gopher/0: no score yet",
                     "krull/0: left out, its config.json cannot be read", "empty: no run directory in it"):
        assert expected in text, expected
    assert len(next(run for run in runs if run.task == "atari_pong").curve[0]) == 20
    page = build.write(summary(tmp_path), tmp_path / "out").read_text()
    assert "gopher/0: no score yet" in page


def test_two_runs_of_the_same_seed_count_once(tmp_path):
    late = write_run(tmp_path / "a", "pong", 0, share=0.5, finished=False)
    done = write_run(tmp_path / "b", "pong", 0)
    for order in ([late, done], [done, late]):
        (run,), notes = collect(order)
        assert run.path == str(done) and f"{late}: left out" in notes[0]


# Computing

def test_unfinished_runs_count_only_when_asked_for(sweep):
    def finals(**options):
        return {g.name: g for g in summary(sweep, **options).groups}["hdfast HarmonyDream"].finals

    assert "atari_hero" not in finals() and len(finals(unfinished=True)["atari_hero"]) == 1
    missing = "\n".join(summary(sweep).missing)
    assert "Hero, seed 0 is at 40% (161,600 of 404,000 frames), not in the final scores" in missing
    assert "counted as it is" in "\n".join(summary(sweep, unfinished=True).missing)


def test_missing_games_and_seeds_are_named(tmp_path):
    for task, seeds in (("pong", (0, 1, 2)), ("hero", (0, 2)), ("alien", (0, 2)), ("krull", (1,))):
        for seed in seeds:
            write_run(tmp_path, task, seed)
    found = summary(tmp_path)
    assert found.missing[0] == "hdfast HarmonyDream: runs of 4 of the 26 games only: Alien, Hero, Krull, Pong"
    assert set(found.missing[1:]) == {"hdfast HarmonyDream: no run with seed 1 of Alien, Hero",
                                      "hdfast HarmonyDream: no run with seed 0, 2 of Krull"}
    assert "hdfast HarmonyDream has games with a single run" in found.notes[0]


def test_blocks_compare_methods_on_the_same_games(sweep):
    found = summary(sweep)
    assert [len(block.tasks) for block in found.blocks] == [3, 2]
    assert [[row.group.name for row in block.rows] for block in found.blocks] == [
        ["hdfast HarmonyDream", "DreamerV3", "HarmonyDream"],
        ["hdfast HarmonyDream", "hdfast DreamerV3", "DreamerV3", "HarmonyDream"]]
    group = {g.name: g for g in found.groups}["hdfast DreamerV3"]
    row = found.blocks[1].rows[1]
    expected = np.mean([(group.finals[task].mean() - (ref := scores.reference(task))["random"])
                        / (ref["human"] - ref["random"]) for task in found.blocks[1].tasks])
    assert row.aggregates["mean"].value == pytest.approx(expected)
    assert tables.aggregate_cells(found.blocks[1])[1][1][:2] == ["hdfast DreamerV3", "2"]


def test_a_task_without_human_score_is_shown_but_not_aggregated(tmp_path):
    write_run(tmp_path, "catch", 0, presets=("catch",))
    found = summary(tmp_path)
    assert not found.blocks and found.tasks == ("catch_5x5",) and "catch_5x5 has no human score" in found.notes[-1]
    assert "hdfast HarmonyDream [catch] differs from the official protocol" in found.notes[0]
    page = build.write(found, tmp_path / "out").read_text()
    assert "catch_5x5" in page and (tmp_path / "out" / "curves.png").is_file()


def test_mean_curve_ends_with_the_shortest_run():
    xs, mean, std = mean_curve([(np.array([10.0, 20, 30]), np.array([1.0, 2, 3])),
                                (np.array([10.0, 15, 20]), np.array([3.0, 3, 4]))])
    np.testing.assert_allclose(xs, [10, 15, 20])
    np.testing.assert_allclose(mean, [2, 2.25, 3])
    np.testing.assert_allclose(std, [2**0.5, 1.5 / 2**0.5, 2**0.5])


def test_normalized_curves_of_the_published_end_at_their_aggregates():
    group = next(g for g in summarize([], samples=100).groups if g.name == "HarmonyDream")
    xs, found = normalized_curves(group, scores.tasks())
    assert xs[-1] == 400_000 and found["mean"][-1] == pytest.approx(1.364, abs=1e-3)
    assert found["median"][-1] == pytest.approx(0.6705, abs=1e-4)


# The outputs

def test_the_tables_say_the_same(sweep):
    found = summary(sweep)
    group = found.groups[0]
    rows = list(csv.DictReader(io.StringIO(tables.games_csv(found))))
    row = next(r for r in rows if r["task"] == "atari_alien" and r["method"] == group.name)
    assert float(row["mean"]) == pytest.approx(group.finals["atari_alien"].mean())
    assert float(row["std"]) == pytest.approx(group.finals["atari_alien"].std(ddof=1)) and row["runs"] == "2"
    assert [r["mean"] for r in rows[:2]] == ["227.8", "7127.7"]
    value = f"{found.blocks[0].rows[0].aggregates['iqm'].value:.4f}"
    text = tables.score_text(group, "atari_alien")
    for output in (tables.markdown(found), tables.latex(found).replace("$\\pm$", "±")):
        assert value in output and text in output and "at 40\\%" in output.replace("%", "\\%").replace("\\\\", "\\")
    assert value in tables.terminal(found)
    aggregate = list(csv.DictReader(io.StringIO(tables.aggregates_csv(found))))
    assert next(r for r in aggregate if r["statistic"] == "iqm")["games"] == "3"
    assert len(list(csv.DictReader(io.StringIO(tables.runs_csv(found))))) == 11


def test_one_run_has_no_interval_anywhere(tmp_path):
    """One seed: no bar, no band, no ±; a method with several seeds beside it keeps its own."""
    for task in ("alien", "pong"):
        write_run(tmp_path / "one", task, 0)
        for seed in range(2):
            write_run(tmp_path / "two", task, seed, presets=("atari100k", "baseline"))
    found = summary(tmp_path)
    one, two = found.blocks[0].rows[:2]
    assert all(x.low is None for x in one.aggregates.values()) and two.aggregates["mean"].low is not None
    first, second = tables.aggregate_cells(found.blocks[0])[1][:2]
    assert all(cell.endswith(" (one run)") for cell in first[2:]) and all("[" in cell for cell in second[2:])
    assert all(row[2].endswith("(one run)") == (one.group.name in row) for row in
               tables.improvement_cells(found.blocks[0])[1])
    games = list(csv.DictReader(io.StringIO(tables.games_csv(found))))
    assert [bool(row["std"]) for row in games if row["method"] in (one.group.name, two.group.name)] == [
        False, True] * 2
    rows = list(csv.DictReader(io.StringIO(tables.aggregates_csv(found))))
    assert all((row["low_95"] == "") == (one.group.name in row["method"] + row["statistic"]) for row in rows)
    assert "single run: their spread is unknown, and what counts them has no interval" in " ".join(found.notes)
    drawn = {plot.name: axes_of(plot) for plot in figures.plots(found)}
    labels = [label.get_text() for label in drawn["aggregates"][0].get_yticklabels()]
    assert "(one run)" in labels[0].replace("\n", " ") and not any("one run" in label for label in labels[1:])
    assert len(drawn["aggregates"][0].patches) == 3, "bars of the other method and of the published two"
    assert [len(drawn[name][0].collections) for name in ("profile", "curves")] == [3, 1]


def axes_of(plot):
    """The axes of all panels of a plot."""
    found = [Figure().add_subplot() for _ in plot.panels]
    for (_, draw), axes in zip(plot.panels, found, strict=True):
        draw(axes)
    return found


def test_the_harmony_figure(tmp_path):
    """A panel of coefficients and one of weighted shares a method, three named lines of three colors in each."""
    for seed in range(2):
        write_run(tmp_path, "pong", seed)
    found = summary(tmp_path)
    (plot,) = (plot for plot in figures.plots(found) if plot.name == "harmony")
    coefficients, shares = axes_of(plot)
    for axes, level in ((coefficients, 1), (shares, 0)):
        lines = axes.get_lines()[:3]
        assert [line.get_color() for line in lines] == list(style.LOSSES) and len(axes.get_lines()) == 3 + level
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["reward", "observation", "dynamics"]
        assert len(axes.collections) == 3, "a range over the runs for each"
    assert sum(line.get_ydata() for line in shares.get_lines()[:3]) == pytest.approx(np.ones(20))
    (run,) = collect([tmp_path / "atari_pong" / "0"])[0]
    weighted = [run.harmony[term][1] * loss for term, loss in (("rew", 0.4), ("image", 90), ("kl", 3))]
    for term, expected in zip(("rew", "image", "kl"), weighted / sum(weighted), strict=True):
        np.testing.assert_allclose(run.shares[term][1], expected)


def test_no_cell_is_a_formula(tmp_path):
    names = ["=HYPERLINK(1)", "+pong", "-1+2", "@SUM(A1)"]
    (tmp_path / "peer.json").write_text(json.dumps([
        {"task": "pong", "method": name, "seed": name, "xs": [1e5, 4e5], "ys": [-1.5, -2.5]} for name in names]))
    found = summarize([], *score_files.read(tmp_path / "peer.json"), samples=20)
    for text in (tables.runs_csv(found), tables.games_csv(found), tables.aggregates_csv(found)):
        for row in csv.reader(io.StringIO(text)):
            assert not [x for x in row if re.match(r"[=+@]|-(?![0-9.]+$)", x)], row
    rows = list(csv.DictReader(io.StringIO(tables.runs_csv(found))))
    for name in ("method", "seed"):
        assert {row[name] for row in rows} == {"'" + x for x in names}
    assert {float(row["final"]) for row in rows} == {-2.5}
    bench = dict.fromkeys(bench_report.COLUMNS, "=1+1") | {"value": -1.5, "expected": None}
    (tmp_path / "rows.jsonl").write_text(json.dumps(bench))
    bench_report.report(tmp_path)
    assert (tmp_path / "rows.csv").read_text().splitlines()[1] == "'=1+1,'=1+1,'=1+1,-1.5,'=1+1,,'=1+1"
    assert [cell(x) for x in ("-inf", "+3", "a=b", "\t=1", "-")] == ["-inf", "+3", "a=b", "'\t=1", "'-"]


def test_latex_is_balanced_and_escaped(sweep, tmp_path):
    found = summarize(collect([sweep])[0], samples=100)
    text = tables.latex(found)
    for environment in ("table", "tabular"):
        assert text.count(f"\\begin{{{environment}}}") == text.count(f"\\end{{{environment}}}") == 3
    body = text.split("\\toprule")[-1]
    assert len({line.count(" & ") for line in body.splitlines() if line.endswith("\\\\")}) == 1
    assert re.search(r"\\textbf\{[\d,.]+ \$\\pm\$ [\d,.]+\}", body)
    assert tables._escaped("a_b 5% ± {x}\\") == r"a\_b 5\% $\pm$ \{x\}\textbackslash{}"


class Page(HTMLParser):
    """Open elements, attributes and links of a page."""

    VOID = ("meta", "link", "br", "img", "path", "use", "rect")

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.svgs, self.tables = [], [], 0, 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href") and value]
        self.svgs += tag == "svg"
        self.tables += tag == "table"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(written):
    text = (written / "index.html").read_text()
    page = Page(text)
    assert not page.open and page.tables == 4
    assert page.svgs == 10 + 7 + 4 + 2, "two sets of games, the games, coefficients and shares of one method"
    inside = {link for link in page.links if link.startswith("#")}
    assert inside and all(f'id="{link[1:]}"' in text for link in inside)
    for link in set(page.links) - inside - {"data:,"}:
        assert (written / link).is_file() and (written / link).stat().st_size, link
    assert not re.search(r'(?:src|href)="(?:https?:)?//|@import|url\((?!#)', text)
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL)).lower()
    assert not [color for color in style.CSS if color.lower() in drawn], "colors are variables"
    marks = {}
    for color, name in re.findall(r'<i style="background:var\((--c\d)\)"></i>([^<]+)<', text):
        marks.setdefault(name, set()).add(color)
    assert len(marks) == 5 and all(len(colors) == 1 for colors in marks.values()), "one color a method"
    assert "What is missing" in text and "Hero, seed 0 is at 40%" in text


def test_without_matplotlib_the_tables_are_written_and_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = summarize([], samples=100)
    page = build.write(found, tmp_path).read_text()
    assert "all figures: matplotlib cannot be imported" in page and "<svg" not in page and "1.3640" in page
    assert not list(tmp_path.glob("*.png")) and (tmp_path / "tables.tex").is_file()


def test_success_is_a_curve_with_an_interval_where_there_are_several_runs(tmp_path):
    for seed in range(3):
        path = write_run(tmp_path, "pong", seed)
        rows = [json.loads(line) for line in (path / "eval.jsonl").read_text().splitlines()]
        rows = [row | {"eval/success": (seed + i) / 10} for i, row in enumerate(rows)]
        (path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = summary(tmp_path)
    runs = list(csv.DictReader(io.StringIO(tables.runs_csv(found))))
    assert [float(run["success"]) for run in runs] == [(seed + len(rows) - 1) / 10 for seed in range(3)]
    plot, = (plot for plot in figures.plots(found) if plot.name == "success")
    assert len(figures.render(plot)[1]) == 1
    rate = statistics.mean_over_runs(np.array([[0.0, 1.0], [0.0, 0.0], [0.0, 0.5]]), samples=500)
    assert rate.value.tolist() == [0, 0.5] and rate.low[0] == rate.high[0] == 0 and rate.low[1] < 0.5 < rate.high[1]
    assert statistics.mean_over_runs(np.ones((1, 2)), samples=10).low is None
    without = summary(write_run(tmp_path / "b", "hero", 0).parent)
    assert not any(plot.name == "success" for plot in figures.plots(without))


# The command

def run_cli(*args, capsys):
    code = cli.main(["report", *map(str, args)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_published(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run_cli("--published", capsys=capsys)
    values = {line.split()[0]: [float(x) for x in re.findall(r"(\d\.\d{4}) \[", line)] for line in out.splitlines()[2:]}
    assert code == 0 and not list(tmp_path.iterdir())
    assert values["HarmonyDream"] == pytest.approx([1.364, 0.6705, 0.607, 0.462], abs=5e-4)
    assert values["DreamerV3"] == pytest.approx([1.074, 0.416, 0.472, 0.508], abs=5e-4)


def test_the_command_writes_everything(written):
    assert {path.name for path in written.iterdir()} >= {
        "index.html", "runs.csv", "games.csv", "aggregates.csv", "tables.md", "tables.tex", "curves.png",
        "curves.svg", "profile.png", "harmony.svg", "aggregates.png", "improvement.png"}
    assert len(json.loads((written.parent / "ours.json").read_text())) == 11
    for path in written.glob("*.png"):
        width, height = Image.open(path).size
        assert width > 600 and height > 200, path
    for path in written.glob("*.svg"):
        ElementTree.parse(path)


def test_the_report_lies_in_the_folder_it_is_about(tmp_path, capsys, no_figures):
    write_run(tmp_path, "pong", 0)
    assert run_cli(tmp_path, capsys=capsys)[0] == 0 and (tmp_path / "report" / "index.html").is_file()
    assert run_cli(tmp_path, capsys=capsys)[0] == 0, "a report beside the runs is no run"


@pytest.mark.parametrize(("line", "code", "says"), [
    ("", 2, "report needs run directories"), ("nowhere", 2, "there is no directory nowhere"),
    ("empty", 2, "no run directory in it"), ("--export x.json", 2, "--export writes the scores of run directories"),
    ("--scores nowhere.json", 1, "cannot read the score file nowhere.json"),
    ("--published --out file", 1, "cannot write the report in file"), ("--bootstrap 5", 2, "bootstrap must be")])
def test_bad_commands(line, code, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    found, _, err = run_cli(*line.split(), capsys=capsys)
    assert found == code and says in err and err.count("\n") == 1


def test_watching_makes_it_again_until_interrupted(tmp_path, capsys, no_figures, monkeypatch):
    path, slept = write_run(tmp_path, "pong", 0, share=0.5, finished=False), []

    def sleep(seconds):
        slept.append((seconds, "is at 50%" in (tmp_path / "report" / "index.html").read_text()))
        (path / "meta.json").write_text('{"finished": 101000}')
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(build.time, "sleep", sleep)
    code, out, _ = run_cli(tmp_path, "--watch", 7, capsys=capsys)
    assert code == cli.INTERRUPTED and slept == [(7.0, True), (7.0, False)] and out.count("wrote ") == 2
    assert 'http-equiv="refresh" content="7"' in (tmp_path / "report" / "index.html").read_text()


def test_curves_are_of_finished_runs_where_there_are_any(tmp_path):
    for seed, share in enumerate((1.0, 0.4)):
        write_run(tmp_path, "pong", seed, share=share, finished=share == 1)
        write_run(tmp_path, "hero", seed, share=0.4, finished=False)
    group = summary(tmp_path).groups[0]
    assert [curve[0][-1] for curve in group.curves["atari_pong"]] == [404_000]
    assert [curve[0][-1] for curve in group.curves["atari_hero"]] == [161_600] * 2
