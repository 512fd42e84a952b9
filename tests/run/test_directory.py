"""The run directory: its lock between real processes, damaged and half-written files of it, and its bounds."""

import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from hdfast import cli
from hdfast.errors import ConfigError, RunError
from hdfast.evaluation import load_agent
from hdfast.replay.sequences import Replay
from hdfast.run import checkpoint, directory, durable
from hdfast.run.directory import RunDir, check_settings, finished_step, load_config, read_meta
from hdfast.run.durable import LOCK, Lock, is_held, lock_holder
from hdfast.trainer import train
from kinds import KINDS
from programs import ROOT
from scripted_run import small_config

HERE = {"pid": os.getpid(), "host": platform.node()}
HOLD = "import sys, pathlib; from hdfast.run.durable import Lock; lock = Lock(pathlib.Path(sys.argv[1])); " \
       "print('held', flush=True); sys.stdin.read(); lock.close()"


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds the lock of tmp_path until its input ends or it is killed."""
    started = []

    def start():
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def open_run(path, **settings):
    return RunDir(path, small_config(**settings), torch.device("cpu"))


def test_the_second_process_is_told_pid_and_host_of_the_first(tmp_path, holder):
    first = holder()
    with pytest.raises(RunError, match=rf"another process \(pid {first.pid} on host {platform.node()}\) is training"):
        open_run(tmp_path)
    assert is_held(tmp_path) and lock_holder(tmp_path) == HERE | {"pid": first.pid}
    assert not (tmp_path / "config.json").exists()
    first.communicate()  # it ends by itself and leaves nothing
    assert (tmp_path / LOCK).read_bytes() == b""
    lock = Lock(tmp_path)
    assert lock.left is None and lock_holder(tmp_path) == HERE
    lock.close()
    lock.close()
    assert not is_held(tmp_path)


def test_a_stale_lock_is_taken(tmp_path, holder):
    first = holder()
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not is_held(tmp_path) and lock_holder(tmp_path)["pid"] == first.pid
    run = open_run(tmp_path)
    assert run.warnings == [] and lock_holder(tmp_path) == HERE  # it was this host's: the system knows that it is gone
    run.close()


def test_a_stale_lock_of_another_host_is_taken_and_told(tmp_path):
    (tmp_path / LOCK).write_text(json.dumps({"pid": 7, "host": "elsewhere"}))
    run = open_run(tmp_path)
    warning, = run.warnings
    assert "pid 7 on host elsewhere" in warning and lock_holder(tmp_path) == HERE
    run.close()


@pytest.mark.parametrize("content", [b"", b'{"pid": 1', b"\xff\x00", b"[]", b"7", b'{"pid": "x", "host": 3}',
                                     b"[" * 5000, b'{"host": "a"}'])
def test_any_content_of_the_lock_file(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    assert lock_holder(tmp_path) is None
    with open(tmp_path / LOCK, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RunError, match=r"another process \(.*does not say which\)"):
            Lock(tmp_path)
    run = open_run(tmp_path)
    assert run.warnings == []
    run.close()


def test_who_only_asks_turns_nobody_away(tmp_path, monkeypatch):
    """is_held has the lock for an instant: a start in that instant waits for it."""
    asker, waits = open(tmp_path / LOCK, "wb"), []
    fcntl.flock(asker, fcntl.LOCK_SH)

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            asker.close()

    monkeypatch.setattr(durable, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: sum(waits)))
    Lock(tmp_path).close()
    assert len(waits) == 3 and sum(waits) < durable.LOCK_WAIT


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")
    monkeypatch.setattr(durable.fcntl, "flock", refuse)
    with pytest.raises(RunError, match=r"cannot lock .*No locks available.*--logdir"):
        open_run(tmp_path)


def test_a_running_run_is_evaluated_reported_and_watched(tmp_path, capsys):
    """A real training process; beside it a second one is refused and everything that only reads works."""
    run = tmp_path / "runs" / "one"
    words = ["train", "--configs", "debug", "--task", "dummy", "--device", "cpu", "--run.steps", "1000000",
             "--run.save_every", "20", "--run.eval_every", "60", "--run.eval_episodes", "1", "--logdir", str(run)]
    with open(tmp_path / "output", "w") as output:
        process = subprocess.Popen([sys.executable, "-m", "hdfast", *words], cwd=ROOT, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 120
        while not (checkpoint.existing(run / "ckpt", "best") and (run / "eval.jsonl").stat().st_size):
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "output").read_text()
            time.sleep(0.05)
        before = (run / "config.json").stat().st_mtime_ns
        assert cli.main(words) == 1
        assert f"another process (pid {process.pid} on host {platform.node()}) is training" in capsys.readouterr().err
        assert cli.main(["eval", str(run), "--episodes", "2", "--device", "cpu"]) == 0
        assert cli.main(["eval", str(run), "--episodes", "2", "--device", "cpu", "--checkpoint", "best"]) == 0
        assert cli.main(["watch", "--once", str(tmp_path / "runs")]) == 0
        assert "running" in capsys.readouterr().out
        assert cli.main(["report", str(tmp_path / "runs"), "--unfinished", "--bootstrap", "100"]) == 0
        assert is_held(run) and process.poll() is None and (run / "config.json").stat().st_mtime_ns == before
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143 and not is_held(run)
    finally:
        process.kill()
        process.wait()


# Files

def test_a_damaged_meta_json_is_named_set_aside_and_begun_anew(tmp_path, capsys):
    config = small_config(logdir=str(tmp_path), **{"run.steps": 60, "run.prefill": 40, "run.save_every": 24})
    train(config)
    whole = (tmp_path / "meta.json").read_bytes()
    assert finished_step(tmp_path) == 60 and "checksum" not in read_meta(tmp_path)
    place = whole.index(b'"finished": 60') + len(b'"finished": ')
    (tmp_path / "meta.json").write_bytes(whole[:place] + b"7" + whole[place + 1:])  # one digit: still valid JSON
    assert read_meta(tmp_path) == {} and finished_step(tmp_path) is None
    capsys.readouterr()
    train(config)
    assert f"warning: {tmp_path / 'meta.json'} is damaged and is recreated" in capsys.readouterr().out
    assert finished_step(tmp_path) == 60 and b'"finished": 70' in (tmp_path / "meta.json.damaged").read_bytes()
    (tmp_path / "meta.json").unlink()
    run = open_run(tmp_path, logdir=str(tmp_path), **{"run.steps": 60, "run.prefill": 40})
    assert "meta.json is missing and is recreated" in run.warnings[0]
    run.close()
    for content, said in {
            b"[1]": "", b"\xff": "", b'{"starts": 3}': "starts is 3, expected a list",
            b'{"finished": "x"}': "finished is 'x', expected a whole", b'{"seconds": -1}': "seconds is -1, expected",
            b'{"starts": [{}, {"seconds": "x"}]}': "starts[1].seconds is 'x', expected a finite number, 0 or more",
            b'{"starts": [{"torch_threads": 2.5}]}': "starts[0].torch_threads is 2.5, expected"}.items():
        (tmp_path / "meta.json").write_bytes(content)
        run = open_run(tmp_path, logdir=str(tmp_path), **{"run.steps": 60, "run.prefill": 40})
        assert run.before("seconds") == 0 and said in run.warnings[0]
        assert (tmp_path / "meta.json.damaged").read_bytes() == content
        run.close()


def test_a_damaged_config_json_is_named(tmp_path):
    config = small_config()
    (tmp_path / "config.json").write_text(config.to_json().replace('"task"', '"tasc"'))
    for read in (lambda: check_settings(tmp_path, config), lambda: load_config(tmp_path)):
        with pytest.raises(RunError, match=rf"{tmp_path}/config\.json cannot be used: .*tasc"):
            read()


def test_an_agent_is_not_read_back_with_settings_it_was_not_trained_with(tmp_path):
    config = small_config("dummy", logdir=str(tmp_path), **{"run.steps": 40, "run.prefill": 40})
    train(config)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"horizon": 5', '"horizon": 7'))
    with pytest.raises(RunError, match=r"behavior\.horizon \(there 5, here 7\)"):
        load_agent(tmp_path, "cpu")
    (tmp_path / "config.json").write_text(text.replace('"log_every": 1000000', '"log_every": 7'))  # no matter
    load_agent(tmp_path, "cpu")


def test_a_folder_where_a_file_should_be_is_named(tmp_path):
    (tmp_path / "run" / LOCK).mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"Is a directory.*\.lock"):
        open_run(tmp_path / "run")
    (tmp_path / "replay" / "chunk-000000000000.bin").mkdir(parents=True)
    with pytest.raises(RunError, match=r"cannot write the replay in .*Is a directory \(.*chunk-000000000000\.bin\)"):
        Replay(64, 1, *KINDS["vector"], directory=tmp_path / "replay", seed=0).restore(None)


def test_half_written_files_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / "videos").mkdir()
    left = [tmp_path / ".meta.json.part", tmp_path / "videos" / ".eval-policy-000000100.gif.part"]
    for path in left:
        path.write_bytes(b"half")
    open_run(tmp_path).close()
    assert not any(path.exists() for path in left)


def test_the_list_of_starts_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(directory, "MOST_STARTS", 3)
    now = [100.0]
    monkeypatch.setattr(directory, "time", SimpleNamespace(monotonic=lambda: now[0], strftime=time.strftime,
                                                         process_time=lambda: 2 * now[0]))
    for seconds in range(1, 7):
        run = open_run(tmp_path)
        run.note("stopped", step=seconds)
        now[0] += seconds
        run.note("stopped", step=seconds)
        run.close()
    starts = read_meta(tmp_path)["starts"]
    assert [start["step"] for start in starts] == [1, 5, 6]
    assert read_meta(tmp_path)["seconds"] == 1 + 2 + 3 + 4 + 5 + 6
    assert read_meta(tmp_path)["cpu_seconds"] == 2 * 21 and starts[-1]["cpu_seconds"] == 12


def test_cpu_time_of_all_threads_is_summed_over_resumes(tmp_path):
    """meta.json of a version that did not record it counts as 0, and what comes after is added."""
    for number in range(2):
        run = open_run(tmp_path)
        end, before = time.process_time() + 0.3, time.process_time()
        while time.process_time() < end:
            sum(range(1000))
        run.note("stopped")
        run.close()
        meta = read_meta(tmp_path)
        assert meta["cpu_seconds"] == pytest.approx(sum(start["cpu_seconds"] for start in meta["starts"]), abs=0.01)
        assert meta["starts"][-1]["cpu_seconds"] >= round(end - before, 1) and len(meta["starts"]) == number + 1
    (tmp_path / "meta.json").write_text('{"seconds": 7.0, "starts": [{"seconds": 7.0}]}')
    run = open_run(tmp_path)
    assert run.warnings == [] and run.before("seconds") == 7 and read_meta(tmp_path)["cpu_seconds"] < 5
    run.close()


def test_a_run_lies_neither_in_another_run_nor_around_others(tmp_path):
    open_run(tmp_path / "runs" / "pong" / "0").close()
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "pong" / "0")
    for place, how in (("runs/pong/0/ckpt", "around"), ("link/again", "around"), ("runs", "in"), ("runs/pong", "in")):
        with pytest.raises(ConfigError, match=rf"another run lies {how} it, in .*runs/pong/0; choose another --logdir"):
            open_run(tmp_path / place)
    open_run(tmp_path / "runs" / "pong" / "1").close()
    open_run(tmp_path / "runs" / "pong" / "0").close()
