"""`hdfast bench`: the measured processes and their protocol, ratios, the table, JSON lines, the peers' records.

No test looks at a time: that the figures mean something is for a reader of the table.
"""

import ast
import graphlib
import importlib.util
import json
import mmap
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench_case import TINY
from checkout import ENV, ROOT
from hdfast import cli
from hdfast.bench import cases, ours, peers, rows, run, serve, workload
from hdfast.bench.rows import Measured, Program, Row
from hdfast.config import Config
from hdfast.errors import ConfigError, RunError
from hdfast.presets import OFFICIAL

FAKE = """\
import sys
from hdfast.bench import serve
print("noise on standard output")
calls = []
serve.serve({"a": lambda: (lambda: calls.append(1)), "bad": lambda: sys.exit("went wrong")}, {"thing": "1.0"})
"""


@pytest.fixture
def tiny() -> Config:
    return workload.sized("reduced", **TINY)


@pytest.fixture
def fake(tmp_path) -> Program:
    path = tmp_path / "fake.py"
    path.write_text(FAKE)
    return Program("fake", "reference", (sys.executable, str(path)))


def row(name="hdfast", backend="reference", rounds=((2.0, 4.0), (2.0, 4.0), (8.0, 4.0))) -> Row:
    return Row(name, "update", "reduced", backend, "fp32", 2, rounds[0][0], 1.0, 1.0, 100.0, {"python": "3"},
               rounds=rounds)


def test_modules_import_one_another_in_one_direction():
    graph = {}
    for path in Path(run.__file__).parent.glob("*.py"):
        found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        graph[path.stem] = {name.name for node in found if node.module == "hdfast.bench" for name in node.names} | {
            node.module.split(".")[2] for node in found if (node.module or "").startswith("hdfast.bench.")}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError naming the modules


def test_sizes():
    assert workload.sized("full").flat() | {"device": "auto"} == Config.preset(OFFICIAL).flat()
    reduced = workload.sized("reduced")
    assert (reduced.run.batch_size, reduced.run.batch_length, reduced.behavior.horizon) == (4, 16, 8)
    m = reduced.model
    assert (m.deter, m.units, m.stoch, m.classes, m.cnn_depth, reduced.env.size) == (128, 128, 16, 16, 8, 64)


def test_synthetic_batch(tiny):
    data, again = workload.synthetic(tiny), workload.synthetic(tiny)
    assert all((data[name] == again[name]).all() for name in data)
    assert data["image"].shape == (3, 2, 16, 16, 3) and data["image"].dtype == "uint8"
    assert data["is_first"][0].all() and (data["is_first"][1:] == (data["is_terminal"][:-1] > 0)).all()
    assert 0 <= data["action"].min() and data["action"].max() < workload.ACTIONS


def test_serve(fake):
    with Measured(fake, 1) as process:
        assert process.versions == {"thing": "1.0"}
        found = process.run("a", 3)
        assert len(found["seconds"]) == len(found["cpu"]) == 3 and min(found["seconds"]) >= 0
        assert 1 < found["peak_rss_mb"] < 4000
        with pytest.raises(RunError, match=r"fake reference ended with code 1 .*: went wrong"):
            process.run("bad", 1)
    assert process.process.poll() is not None


def test_a_program_that_never_starts(tmp_path):
    with pytest.raises(RunError, match="ended with code"):
        Measured(Program("none", "torch", (sys.executable, str(tmp_path / "none.py"))), 1)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is reset through /proc (Linux)")
def test_peak_memory_is_that_of_the_request():
    def touch() -> None:
        with mmap.mmap(-1, 200 * 2**20) as pages:  # the C library may keep what it was given (machine.keep_memory)
            for page in range(0, len(pages), mmap.PAGESIZE):
                pages[page] = 1

    def nothing() -> None:
        pass

    assert serve.timed(touch, 1)["peak_rss_mb"] > serve.timed(nothing, 1)["peak_rss_mb"] + 150


def test_rounds_turn_back(fake):
    asked = []

    class Recorded:
        def __init__(self, name):
            self.program, self.versions = Program(name, "reference", ()), {}

        def run(self, case, count):
            asked.append((self.program.name, count))
            return {"seconds": [0.25] * count, "cpu": [0.5] * count, "peak_rss_mb": 7.0}

    *before, found = rows.measure([Recorded("x"), Recorded("y")], "a", preset="reduced", threads=1, rounds=3)
    assert [len(x.rounds) for rows_so_far in before for x in rows_so_far] == [1, 1, 2, 2]
    assert asked[:2] == [("x", rows.BURN_IN), ("y", rows.BURN_IN)]
    assert asked[2:] == [("x", 2), ("y", 2), ("y", 2), ("x", 2), ("x", 2), ("y", 2)]
    assert [(r.median_s, r.min_s, r.cpu_s, r.peak_rss_mb) for r in found] == [(0.25, 0.25, 0.5, 7.0)] * 2


def test_ratios():
    peer, slow = row("p", "torch", ((4.0, 4.0), (8.0, 4.0), (8.0, 1.0))), row("q", "jax", ((9.0, 9.0),) * 3)
    ratios = {r.label: (r.against, r.ratio, r.cpu_ratio) for r in rows.with_ratios([row(), peer, slow])}
    assert ratios["hdfast reference"] == ("p torch", 0.5, 1.0)  # medians of 0.5, 0.25, 1 and of 1, 1, 4
    assert ratios["p torch"] == ("p torch", 1.0, 1.0) and ratios["q jax"][1] == 1.125
    alone = rows.with_ratios([row(backend="native", rounds=((1.0, 1.0),) * 3), row()])
    assert [r.ratio for r in alone] == [0.5, 1.0] and alone[0].against == "hdfast reference"
    assert rows.with_ratios([row(backend="native")])[0].ratio is None


def test_json_and_table():
    (found,) = rows.with_ratios([row()])
    data = json.loads(found.as_json())
    assert {"name", "preset", "backend", "precision", "threads", "median_s", "min_s", "cpu_s", "peak_rss_mb",
            "versions"} <= data.keys() and "rounds" not in data
    head, line = rows.table([found]).splitlines()
    assert head.split()[:3] == ["case", "row", "median"] and line.split()[:4] == ["update", "hdfast", "reference", "2"]


def test_every_case_runs(tiny):
    """Each case on the reference at a tiny size; an op's gradient has the inputs' shapes."""
    for name, build in ours.all_cases(tiny, "reference").items():
        out = build()()
        if name.endswith("fwd_bwd"):
            assert all(torch.isfinite(x).all() for x in out), name
    built = cases.operations(tiny)["norm_act_dense"].build("fwd_bwd")
    forward = (6 * 8 + 8 + 8 + 6 * 8) * 4
    assert built.shape == (6, 8) and built.bytes == forward + (2 * (6 * 8 + 8 + 8) + 6 * 8) * 4


def test_the_verb(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "measured", lambda *_, **__: iter([[row()]]))
    assert cli.main(["bench", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["hdfast"] and "median" in err
    assert cli.main(["bench", "--only", "update", "--json", str(tmp_path / "rows.jsonl")]) == 0
    out, _ = capsys.readouterr()
    assert "median" in out and json.loads((tmp_path / "rows.jsonl").read_text())["threads"] == 2


def test_an_interrupted_benchmark_leaves_its_rows(capsys, tmp_path, monkeypatch, fake):
    """Ctrl-C in the second round of the second case: a table and JSON of all rounds before it, code 130."""
    asked = []

    def interrupted(self, case, count):
        asked.append(case)
        if asked.count("imagine") == 3:
            raise KeyboardInterrupt
        return {"seconds": [0.25] * count, "cpu": [0.5] * count, "peak_rss_mb": 7.0}

    monkeypatch.setattr(rows, "ours", lambda *_: Program("hdfast", "reference", fake.command))
    monkeypatch.setattr(Measured, "run", interrupted)
    words = ["bench", "--only", "loops", "--rounds", "2", "--backends", "reference", "--json"]
    assert cli.main([*words, str(tmp_path / "rows.jsonl")]) == 130
    out, err = capsys.readouterr()
    told = ["[1/3] observe_scan: hdfast reference", "[2/3] imagine: hdfast reference"]
    assert [line for line in err.splitlines() if line.startswith("[")] == told and "round" not in err
    shown = err[err.index(told[0]):err.index(told[1])]
    assert "observe_scan  hdfast reference  250 ms" in shown, "a row is there before the next case begins"
    assert "ended early: 1 of 3 cases, and 1 of 2 rounds of imagine" in out and out.count("250 ms  250 ms") == 2
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [line["case"] for line in lines] == ["observe_scan", "imagine"]
    asked.clear()
    assert cli.main([*words, "-"]) == 130
    assert [json.loads(line)["case"] for line in capsys.readouterr().out.splitlines()] == ["observe_scan", "imagine"]


def test_progress_is_overwritten_on_a_terminal_alone(capsys, monkeypatch):
    run.tell("row")
    run.tell("round 1/2", live=True)
    assert capsys.readouterr().err == "row\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run.tell("round 1/2", live=True)
    run.tell("row")
    assert capsys.readouterr().err == "\r\x1b[Kround 1/2\r\x1b[Krow\n"


@pytest.mark.slow
def test_a_real_row():
    command = [sys.executable, "-m", "hdfast", "bench", "--only", "update", "--rounds", "1", "--threads", "1",
               "--backends", "reference", "--json", "-"]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert found["backend"] == "reference" and found["versions"]["torch"] == torch.__version__
    assert 0 < found["min_s"] <= found["median_s"] and found["peak_rss_mb"] > 100


@pytest.mark.parametrize(("line", "says"), [
    ("--preset medium", "one of reduced, full"), ("--threads 0", "threads"), ("--backends fast", "got 'fast'"),
    ("--json no/such/folder/x", "directory that exists"), ("--only some", "loops"), ("--rounds 0", "rounds"),
    ("pong", "unexpected word")])
def test_bad_flags(line, says, capsys):
    assert cli.main(["bench", *line.split()]) == 2
    assert says in capsys.readouterr().err


def test_native_is_asked_for_and_missing(monkeypatch, capsys):
    monkeypatch.setattr(ours, "native_is_there", lambda: False)
    assert cli.main(["bench", "--backends", "native"]) == 2
    assert "hdfast doctor" in capsys.readouterr().err
    assert run.default_backends("update") == ("reference",) and run.default_backends("ops") == ("reference", "compile")


def test_peers_are_found(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HDFAST_PEERS", str(tmp_path))
    with pytest.raises(ConfigError, match=r"bench/peers/install.py"):
        run.installed_peers()
    peers.python("sheeprl").parent.mkdir(parents=True)
    peers.python("sheeprl").touch()
    assert run.installed_peers() == ["sheeprl"]
    err = capsys.readouterr().err
    assert "torchrl is not installed" in err and "sheeprl is not" not in err
    monkeypatch.setattr(peers, "SCRIPTS", tmp_path / "none")
    with pytest.raises(ConfigError, match="source tree"):
        run.installed_peers()


def test_who_fails_to_start_is_told(fake):
    from contextlib import ExitStack
    with ExitStack() as stack:
        failed, gone = [], Program("gone", "torch", ("/no/such/python",))
        assert rows.started(stack, [fake, gone], 1, lambda program, _: failed.append(program)) == []
        assert failed == [fake, gone]  # the first has no case `update`


def loaded(path: Path):
    """A script of bench/ as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, ROOT / "bench" / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lacking(folder: Path, *names: str) -> None:
    """Interpreters of peers in which nothing of theirs is installed."""
    for name in names:
        python = folder / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)


def test_a_peer_that_cannot_run_ends_the_benchmark(monkeypatch, tmp_path, capsys, fake):
    monkeypatch.setenv("HDFAST_PEERS", str(tmp_path))
    monkeypatch.setattr(rows, "ours", lambda *_: Program("hdfast", "reference", fake.command))
    lacking(tmp_path, "dreamer")
    assert cli.main(["bench", "--only", "update", "--backends", "reference", "--peers"]) == 1
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert "No module named 'elements'; run `python bench/peers/install.py dreamer`" in last and "median" not in out


def test_install_names_what_an_environment_lacks(monkeypatch, tmp_path, capsys):
    install = loaded(Path("peers", "install.py"))
    monkeypatch.setenv("HDFAST_PEERS", str(tmp_path))
    lacking(tmp_path, "dreamer", "sheeprl")
    marks = {name: tmp_path / name / ".complete" for name in ("dreamer", "sheeprl")}
    for name, mark in marks.items():
        mark.write_text(peers.lock(name).read_text())  # as if pip had ended
    monkeypatch.setattr(install, "script", lambda name: ROOT / "hdfast" / "errors.py" if name == "sheeprl"
                        else peers.script(name))
    monkeypatch.setattr(install, "ALSO", {})
    assert install.main(["dreamer", "sheeprl"]) == 1
    out, err = capsys.readouterr()
    assert "dreamer: dreamer_update.py cannot be imported: ModuleNotFoundError: No module named 'elements'" in err
    assert "sheeprl: complete" in out and "sheeprl" not in err
    assert [mark.exists() for mark in marks.values()] == [False, True]
    with pytest.raises(SystemExit, match="unknown peer 'other'"):
        install.main(["sheeprl", "other"])


@pytest.mark.parametrize("name", peers.PEERS)
def test_peer_programs(name):
    """Each peer pins all that it installs, has its program, and the program takes from here what needs no torch."""
    lines = [line for line in peers.lock(name).read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pinned = {line.partition("==")[0] for line in lines}
    assert {*peers.PEERS[name].packages, "setuptools"} <= pinned and len(pinned) == len(lines)
    tree = ast.parse(peers.script(name).read_text())
    taken = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
             and node.module.startswith("hdfast")}
    assert taken <= {"hdfast.bench", "hdfast.bench.peers"}
    program = "import sys; from hdfast.bench import peers, serve, workload; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], env=ENV, check=True)


def test_atari_backends_beside_each_other(capsys, monkeypatch):
    pytest.importorskip("envpool", reason="one of the two backends")
    pytest.importorskip("ale_py", reason="the other")
    script = loaded(Path("envs_rate.py"))
    monkeypatch.setattr(script, "COUNTS", (1, 3))
    script.main(["--task", "breakout", "--seconds", "0.05", "--rounds", "1"])
    facts, *table = capsys.readouterr().out.splitlines()
    assert all(word in facts for word in ("breakout", "commit", "envpool 1", "ale-py 0"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    assert [row[:2] for row in cells] == [["envpool", "1"], ["ale", "1"], ["envpool", "3"], ["ale", "3"]]
    for _, count, rate, latency, cpu in cells:  # frames/s and latency say the same, with a repeat of 4
        wall = float(latency.removesuffix(" ms")) / 1e3
        assert float(rate.replace(",", "")) == pytest.approx(4 * int(count) / wall, rel=0.05)
        assert float(cpu.removesuffix(" us")) > 0


def test_thread_scaling():
    out = subprocess.run([sys.executable, ROOT / "bench" / "thread_scaling.py", "--preset", "reduced", "--rounds", "1"],
                         env=ENV, check=True, capture_output=True, text=True).stdout
    head, *rows = out.splitlines()
    assert "reduced, 1 and 2 threads, 1 rounds" in head
    assert rows[-1].startswith("whole update") and len(rows) == 20
    assert all(re.search(r" \d+\.\d\d ms +\d+\.\d\d x$", row) for row in rows if "backward" not in row)


def test_summary(tmp_path):
    summarize = loaded(Path("summarize.py"))
    info = {"name": "symlog", "backend": "native", "mode": "fwd", "dtype": "float32", "shape": "8", "torch": "2",
            "cpu": "AMD  EPYC (x)", "sha": "abc", "peak_mem_mb": 5, "preset": "reduced", "threads": 1}
    report = {"datetime": "2026-11-22T10:00:00", "benchmarks": [
        {"extra_info": info, "stats": {"data": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}}]}
    for _ in range(2):
        assert summarize.append(report, tmp_path) == [tmp_path / "amd-epyc-x.csv"]
    head, first, second = (tmp_path / "amd-epyc-x.csv").read_text().splitlines()
    assert head.split(",") == list(summarize.FIELDS) and first == second
    values = dict(zip(head.split(","), first.split(","), strict=True))
    assert (values["median"], values["p20"], values["p80"], values["peak_mem"]) == ("3.5", "2", "5", "5")
    assert values["date"] == "2026-11-22"
