"""`hdfast watch`: what is read from a run's files, whatever state they are in, and how it is shown."""

import os
import re
import signal
import subprocess
import sys

import pytest

from checkout import ENV
from hdfast import cli
from hdfast.commands.watch import RunState, find_runs, read_run, table
from hdfast.run.progress import text_table
from progress_case import drain
from watch_case import make_run, rows

DEAD = 2**22 + 1  # no process has this number


def test_a_running_run(tmp_path):
    episodes = [row | {"episode/score": float(row["agent_step"])} for row in rows(range(1, 31))]
    evals = [{"eval/score": 3.0}, {"eval/score": 4.0}]
    run = read_run(make_run(tmp_path / "r", rows=[*episodes, *rows([100])], evals=evals))
    assert run == RunState(tmp_path / "r", "HarmonyDream", "running", 100, 400, score=25.5, evaluation=4.0,
                           rate=pytest.approx(10.0), left=pytest.approx(30.0))


@pytest.mark.parametrize(("how", "state", "detail"), [
    ({"pid": DEAD}, "died", ""), ({"pid": DEAD, "host": "another"}, "running", ""), ({"pid": 1}, "running", ""),
    ({"status": "stopped by SIGTERM"}, "stopped", "by SIGTERM"),
    ({"status": "failed: RunError: the disk is full"}, "failed", "RunError: the disk is full"),
    ({"status": "finished", "finished": 400}, "finished", ""),
    ({"status": "finished", "finished": 400, "run.steps": 500}, "waiting", "")])
def test_states(tmp_path, how, state, detail):
    run = read_run(make_run(tmp_path / "r", **how))
    assert (run.state, run.detail) == (state, detail)
    assert run.step == how.get("finished", 0) and run.total == how.get("run.steps", 400)


def test_files_in_any_state(tmp_path):
    assert read_run(tmp_path / "none") == RunState(tmp_path / "none", state="waiting")
    path = make_run(tmp_path / "r", rows=rows([10, 20]))
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "agent_st')
    assert (read_run(path).step, read_run(path).rate) == (20, pytest.approx(10.0))
    for name, text in (("meta.json", "{}"), ("meta.json", "{"), ("config.json", "[]"), ("config.json", '{"task": 3}')):
        before = (path / name).read_text()
        (path / name).write_text(text)
        run = read_run(path)
        assert run.state == "failed" and run.detail.startswith("unreadable: ")
        (path / name).write_text(before)


def test_only_the_end_of_a_long_file_is_read(tmp_path):
    slow = rows(range(1000), rate=1.0, note="x" * 100)
    fast = [row | {"seconds": 1000 + row["seconds"]} for row in rows(range(1000, 4000), note="x" * 50)]
    run = read_run(make_run(tmp_path / "r", rows=slow + fast))
    assert run.step == 3999 and run.rate == pytest.approx(10.0)


@pytest.mark.parametrize("verb", ["watch", "report"])
def test_a_search_that_begins_too_high_up_is_bounded(verb, tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "runs" / "pong" / "0")
    for number in range(4):
        (tmp_path / "photos" / str(number)).mkdir(parents=True)
    monkeypatch.setattr("hdfast.paths.MOST_FOLDERS", 5)
    flags = ["--once"] if verb == "watch" else ["--out", str(tmp_path / "out")]
    assert cli.main([verb, str(tmp_path), *flags]) == 2
    assert f"looked for runs in 5 folders below {tmp_path}" in capsys.readouterr().err
    assert cli.main([verb, str(tmp_path / "runs"), *flags]) == 0


def test_the_table(tmp_path):
    make_run(tmp_path / "pong" / "0", "finished", finished=400, rows=rows([1, 400]))
    make_run(tmp_path / "pong" / "1", rows=rows([1, 100]))
    make_run(tmp_path / "pong" / "2", "failed: RunError: no")
    (tmp_path / "pong" / "1" / "ckpt").mkdir()
    (tmp_path / "pong" / "1" / "ckpt" / "config.json").write_text("{}")
    paths = find_runs(tmp_path)
    assert [path.name for path in paths] == ["0", "1", "2"]
    title, found = table(tmp_path, map(read_run, paths))
    assert title == "3 runs: 1 failed, 1 running, 1 finished"
    assert found == [("pong/2", "HarmonyDream", "failed", "0/400", "-", "-", "-", "-"),
                     ("pong/1", "HarmonyDream", "running", "100/400", "-", "-", "10", "30s"),
                     ("pong/0", "HarmonyDream", "finished", "400/400", "-", "-", "10", "-")]
    assert find_runs(tmp_path / "pong" / "1") == [tmp_path / "pong" / "1"]
    assert text_table([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc  d"


def test_the_command(tmp_path, capsys):
    make_run(tmp_path / "a", rows=rows([1, 100]))
    for words in (["watch", str(tmp_path), "--once"], ["watch", str(tmp_path)]):  # standard output is no terminal
        assert cli.main(words) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["run", "method", "state", "step", "score", "eval", "steps/s", "left"]
        assert lines[1].split()[:4] == ["a", "HarmonyDream", "running", "100/400"] and lines[2].startswith("1 run: ")
    assert cli.main(["watch", str(tmp_path / "none")]) == 2
    assert "there is no directory" in capsys.readouterr().err


def test_on_a_terminal_until_interrupted_and_without_torch(tmp_path):
    make_run(tmp_path / "a", rows=rows([1, 100]))
    master, slave = os.openpty()
    program = ("import sys; from hdfast import cli; code = cli.main(sys.argv[1:]); "
               "print('torch' in sys.modules, 'code', code)")
    env = ENV | {"TERM": "xterm", "COLUMNS": "100", "LINES": "20"}
    process = subprocess.Popen([sys.executable, "-c", program, "watch", str(tmp_path)], stdout=slave, env=env)
    os.close(slave)
    seen = drain(master, until="100/400")
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen + drain(master))
    os.close(master)
    assert "1 run: 1 running" in plain and "False code 0" in plain
