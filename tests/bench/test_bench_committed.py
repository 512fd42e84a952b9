"""`hdfast bench --check` and `--save`: fabricated rows of ops beside fabricated tables. No test looks at a time."""

import csv

import pytest

from checkout import ROOT
from hdfast import cli
from hdfast.bench import cases, committed, ours, rows, run, workload
from hdfast.bench.rows import Row

CHECK = ["bench", "--only", "ops", "--threads", "1", "--backends", "reference,native", "--check"]


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """A folder of tables, on a machine that has the native library and AVX2."""
    monkeypatch.setattr(committed, "RESULTS", tmp_path)
    monkeypatch.setattr(ours, "native_is_there", lambda: True)
    monkeypatch.setattr(committed, "git_revision", lambda: "c0ffee")
    monkeypatch.setattr(committed, "table", lambda: tmp_path / "ops-x86-64-v3.csv")
    return tmp_path


def ops(preset="reduced", threads=1, **ratios: float) -> list[list[Row]]:
    """The rows of each op `name_mode`, native ones with these ratios."""
    def row(case: str, backend: str, seconds: float) -> Row:
        return Row("hdfast", case, preset, backend, "fp32", threads, seconds, seconds, seconds, 100.0,
                   {"torch": "2.13.0"}, rounds=((seconds, seconds),))

    return [rows.with_ratios([row(name.replace("_", "."), "reference", 2e-5), row(name.replace("_", "."), "native",
                                                                                2e-5 * ratio)])
            for name, ratio in ratios.items()]


def measuring(monkeypatch, *runs: list[list[Row]]) -> list[list[str]]:
    """Let the bench measure these in turn; returns the cases that it will ask for."""
    asked, answers = [], iter(runs)

    def measured(chosen, **_):
        asked.append(chosen["ops"])
        return iter(next(answers))

    monkeypatch.setattr(run, "measured", measured)
    return asked


def test_save_then_check(tables, monkeypatch, capsys):
    """What was saved passes, also 10 % slower; of other presets and threads nothing is lost."""
    path = tables / "ops-x86-64-v3.csv"
    path.write_text(",".join(committed.COLUMNS) + "\n" + "full,1,a.fwd,0.1,1,10,old,2,b,2026-01-01\n"
                    "reduced,1,gone.fwd,0.1,1,10,old,2,b,2026-01-01\nreduced,4,a.fwd,0.1,1,10,old,2,b,2026-01-01\n")
    measuring(monkeypatch, ops(a_fwd=0.5, b_fwd=0.25))
    assert cli.main([*CHECK[:-1], "--save"]) == 0
    assert f"wrote {path}" in capsys.readouterr().out
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["preset"], row["threads"], row["case"], row["ratio"]) for row in found] == [
        ("full", "1", "a.fwd", "0.1"), ("reduced", "1", "a.fwd", "0.500"), ("reduced", "1", "b.fwd", "0.250"),
        ("reduced", "4", "a.fwd", "0.1")]
    assert (found[1]["native_us"], found[1]["eager_us"], found[1]["commit"], found[1]["torch"]) == (
        "10.0", "20.0", "c0ffee", "2.13.0")
    asked = measuring(monkeypatch, ops(a_fwd=0.549, b_fwd=0.1))
    assert cli.main(CHECK) == 0 and len(asked) == 1
    out = capsys.readouterr().out
    assert "1.1 times the 2 ratios committed in" in out and "check: passed" in out


def test_an_op_that_became_slower(tables, monkeypatch, capsys):
    """The sentences name the op, its figure, the limit and what to do; only what failed is measured again."""
    committed.save([row for found in ops(a_fwd=0.5, b_fwd=0.95) for row in found])
    asked = measuring(monkeypatch, ops(a_fwd=0.6, b_fwd=1.01, new_fwd=0.99), ops(a_fwd=0.58, b_fwd=1.02))
    assert cli.main(CHECK) == 1 and asked[1] == ["a.fwd", "b.fwd"]
    out, err = capsys.readouterr()
    assert "a.fwd: 0.580 of eager's time, the limit is 0.550 (1.1 times the committed 0.500)" in out
    assert "b.fwd: 1.020 of eager's time, the limit is 1.000 (eager)" in out and "new.fwd:" not in out
    assert "git bisect" in out and "--save" in out and "measured once more: a.fwd, b.fwd" in err


def test_what_was_noise_passes(tables, monkeypatch, capsys):
    asked = measuring(monkeypatch, ops(a_fwd=1.2, b_fwd=0.3), ops(a_fwd=0.8))
    assert cli.main(CHECK) == 0 and asked[1] == ["a.fwd"] and "passed" in capsys.readouterr().out


@pytest.mark.parametrize("other", [{}, {"preset": "full"}, {"threads": 2}])
def test_nothing_committed(tables, monkeypatch, capsys, other):
    """Then eager alone is the limit, and the check says so."""
    if other:
        committed.save([row for found in ops(a_fwd=0.1, **other) for row in found])
    measuring(monkeypatch, ops(a_fwd=0.9))
    assert cli.main(CHECK) == 0
    assert "against eager alone" in capsys.readouterr().out
    measuring(monkeypatch, ops(a_fwd=1.1), ops(a_fwd=1.1))
    assert cli.main(CHECK) == 1
    assert "reduced with 1 threads, --save adds them" in capsys.readouterr().out


def test_a_table_that_is_none(tables, capsys):
    (tables / "ops-x86-64-v3.csv").write_text("preset,threads,case,ratio\nreduced,1,a.fwd,fast\n")
    assert cli.main(CHECK) == 1
    assert "is no table of ops" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["--only update", "--only loops", "--only ops --backends native",
                                  "--only ops --backends reference"])
@pytest.mark.parametrize("flag", ["--check", "--save"])
def test_nothing_to_compare(tables, capsys, line, flag):
    assert cli.main(["bench", flag, *line.split()]) == 2
    assert "add --only ops --backends reference,native" in capsys.readouterr().err


def test_save_without_the_source_tree(tables, monkeypatch, capsys):
    monkeypatch.setattr(committed, "RESULTS", tables / "none")
    assert cli.main([*CHECK[:-1], "--save"]) == 2
    assert "source tree" in capsys.readouterr().err
    measuring(monkeypatch, ops(a_fwd=0.9))
    assert cli.main(CHECK) == 0


def test_geometric_mean(tables, monkeypatch, capsys):
    """Of each of our rows beside the reference, of ops alone."""
    measuring(monkeypatch, ops(a_fwd=0.5, b_fwd=0.125))
    assert cli.main(CHECK[:-1]) == 0
    assert "hdfast native: geometric mean of the time ratios of 2 ops 0.250" in capsys.readouterr().out
    (update,) = ops(update=0.5)
    assert list(committed.geometric_means(update)) == [] == committed.native_ops(update)


@pytest.mark.parametrize("path", sorted((ROOT / "bench" / "results").glob("ops-*.csv")), ids=lambda path: path.name)
def test_committed_tables(path, monkeypatch):
    """Each can be read and names cases that exist."""
    monkeypatch.setattr(committed, "table", lambda: path)
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    for preset, threads in {(row["preset"], row["threads"]) for row in found}:
        known = {f"{name}.{mode}" for name, op in cases.operations(workload.sized(preset)).items() for mode in op.modes}
        ratios = committed.read(preset, int(threads))
        assert set(ratios) <= known and min(ratios.values()) > 0
