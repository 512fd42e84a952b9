"""A machine on a bad day: no memory, no open files, packages missing, standard streams closed or full."""

import errno
import os
import shlex
import sys

import pytest

from hdfast import cli, trainer
from programs import command


@pytest.mark.parametrize(("error", "says"), [
    (MemoryError(), "out of memory"),
    (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB\nmore"), "20.00 MiB"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "--run.batch_size"),
    (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "x.ttf"), "Too many open files (x.ttf)"),
    (ModuleNotFoundError("No module named 'rich'", name="rich"), "cannot import rich (No module named 'rich')")])
def test_faults_of_the_machine_are_one_sentence(error, says, monkeypatch, capsys, tmp_path):
    def failing(config):
        raise error

    monkeypatch.setattr(trainer, "train", failing)
    monkeypatch.delenv("HDFAST_DEBUG", raising=False)
    assert cli.main(["train", "--logdir", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("hdfast: error: ") and says in err and err.count("\n") == 1 and "\nmore" not in err
    monkeypatch.setenv("HDFAST_DEBUG", "1")
    with pytest.raises(type(error)):
        cli.main(["train", "--logdir", str(tmp_path)])


@pytest.mark.parametrize(("redirection", "code"), [(">&-", 0), ("<&- >&- 2>&-", 0), (">/dev/full", 1)])
def test_closed_and_full_streams(redirection, code):
    done = command("sh", "-c", f"{shlex.quote(sys.executable)} -m hdfast configs {redirection}", code=code)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert done.stderr.startswith("hdfast: error: the system refused: No space left on device") == (code == 1)


def test_no_file_takes_the_place_of_a_closed_stream():
    program = ("import sys\nfrom hdfast.cli import main\nmain(['configs'])\n"
               "print(open('/dev/null').fileno(), file=sys.stderr)")
    done = command("sh", "-c", 'exec "$0" -c "$1" >&- <&-', sys.executable, program)
    assert int(done.stderr) > 2, done.stderr
