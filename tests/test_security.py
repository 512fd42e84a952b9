"""What no file, name or path may do: run code, lead outside a run's folder, break the page, open a port, fetch."""

import ast
import json
import os
import re
import signal
import tomllib
from pathlib import Path

import pytest

from hdfast import cli
from hdfast.commands import watch
from hdfast.errors import ConfigError, RunError
from hdfast.report.collect import collect
from hdfast.run import checkpoint, jsonl
from hdfast.run.checkpoint import MANIFEST, TENSORS
from hdfast.run.durable import is_held, lock_holder
from programs import ROOT, python
from scripted_sweep import write_run

SOURCES = sorted((ROOT / "hdfast").rglob("*.py"))
BUILD = [ROOT / "setup.py", *sorted((ROOT / "cmake").iterdir()), ROOT / "CMakeLists.txt"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Calls by their last name, on any object, and modules that turn bytes into objects of any class.
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml",
                     "code", "xmlrpc", "socketserver", "http", "ftplib", "telnetlib"}
FORBIDDEN_CALLS = {"eval", "exec", "__import__", "system", "popen", "mktemp", "run_path", "run_module", "load_module",
                   "read_pickle", "unsafe_load", "full_load", "getoutput", "getstatusoutput"}
FORBIDDEN_DOTTED = {"compile", "builtins.compile", "torch.load", "torch.save", "torch.jit.load", "torch.hub.load",
                    "np.load", "np.save", "numpy.load", "yaml.load", "os.system", "os.popen", "tempfile.mktemp",
                    "socket.socket"}
FORBIDDEN_NAMES = {"__reduce__", "__reduce_ex__", "__setstate__", "__getstate__"}


def dangers(text: str) -> list[str]:
    """Everything in a source that could run a file's content."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module] if node.module.split(".")[0] in FORBIDDEN_MODULES else []
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            bare = name.rpartition(".")[2]
            if name in FORBIDDEN_DOTTED or bare in FORBIDDEN_CALLS:
                found.append(name)
            for word in node.keywords:
                safe = isinstance(word.value, ast.Constant) and not word.value.value
                if word.arg in ("shell", "allow_pickle") and not safe:
                    found.append(f"{name}({word.arg})")
        elif isinstance(node, ast.FunctionDef) and node.name in FORBIDDEN_NAMES:
            found.append(node.name)
    return found


NO_FILE = {"processes.py": ["cloudpickle"] * 2,  # through a socket that parent and child have alone
           "tape.py": ["exec", "compile"]}  # of the ops that ran in this process, by numbers and names of its own


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_runs_what_a_file_says(path):
    assert dangers(path.read_text()) == NO_FILE.get(path.name, [])


@pytest.mark.parametrize("line", [
    "import pickle", "from yaml import safe_load", "eval(x)", "exec(x)",
    "torch.load(p)",
    "np.load(p, allow_pickle=True)", "subprocess.run(x, shell=True)", "subprocess.run(x, shell=y)", "os.system(x)",
    "import marshal", "import shelve",
    "def __reduce__(self): pass", "tempfile.mktemp()", "builtins.eval(x)", "from os import popen\npopen(x)",
    "f(allow_pickle=flag)", "__import__(x)", "from http.server import HTTPServer"])
def test_the_scan_can_fail(line):
    assert dangers(line)


def test_the_scan_lets_ordinary_code_pass():
    assert dangers("re.compile(x); json.loads(x); torch.compile(f); np.frombuffer(b); run(x, shell=False)") == []


# Paths

@pytest.mark.parametrize("what", ["", TENSORS, MANIFEST])
def test_a_linked_checkpoint_is_not_followed_and_not_deleted(tmp_path, what):
    import torch
    saved = checkpoint.save(tmp_path / "elsewhere", 10, {"x": torch.ones(2)}, {})
    path = checkpoint.save(tmp_path / "ckpt", 10, {"x": torch.ones(2)}, {}) / what
    if what:
        path.unlink()
        path.symlink_to(saved / what)
    else:
        path.rename(tmp_path / "gone")
        path.symlink_to(saved)
    with pytest.raises(RunError, match="not a folder|it is a link"):
        checkpoint.latest(tmp_path / "ckpt")
    for step in (20, 30, 40):
        checkpoint.save(tmp_path / "ckpt", step, {"x": torch.ones(2)}, {})
    assert checkpoint.latest(tmp_path / "elsewhere").step == 10 and len(list(saved.iterdir())) == 2


def test_a_report_stays_inside_its_folders(tmp_path):
    """It follows no links to folders, so one to / or to itself does no harm."""
    secret = write_run(tmp_path / "outside", "pong", 1)
    runs = tmp_path / "runs"
    write_run(runs, "pong", 0)
    (runs / "loop").symlink_to(runs)
    (runs / "away").symlink_to(secret)
    found, _ = collect([runs])
    assert [run.seed for run in found] == ["0"]


@pytest.mark.parametrize("task", ["../../etc", "/etc/passwd", "atari_../x", "gym_../../x"])
def test_a_task_leads_to_no_other_folder(task, tmp_path):
    from hdfast.config import Config
    try:
        config = Config.preset("debug", task=task, logdir=f"{tmp_path}/{{task}}/{{seed}}")
    except ConfigError:
        return
    assert config.run_dir().resolve().is_relative_to(tmp_path) and ".." not in config.run_dir().parts


# Files that are none, in a run's folder or a sweep's

RECORDS = ("metrics.jsonl", "scores.jsonl", "eval.jsonl")
WRITTEN = (*RECORDS, "console.log", ".lock")


@pytest.fixture
def no_waiting():
    """Interrupt, and fail, a wait for a pipe's other end."""
    def late(*_):
        pytest.fail("waited for a pipe")
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def train(path: Path) -> int:
    return cli.main(["train", "--configs", "debug", "--task", "dummy", "--logdir", str(path)])


def never(*_, **__):
    pytest.fail("training began")


@pytest.mark.parametrize("name", [*WRITTEN, "meta.json", "config.json", "output.log"])
def test_a_pipe_is_not_waited_for(tmp_path, name, no_waiting):
    path = write_run(tmp_path, "pong", 0)
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    assert watch.read_run(path).path == path
    assert lock_holder(path) is None and is_held(path) == (name == ".lock") and jsonl.tail(path / "output.log") == []
    runs, notes = collect([tmp_path])
    assert runs or "not a regular file" in notes[0]


@pytest.mark.parametrize(("kind", "name"), [
    *((kind, name) for kind in ("pipe", "folder") for name in WRITTEN), ("link", "console.log"), ("link", ".lock")])
def test_training_writes_into_nothing_but_files_of_its_own(tmp_path, name, kind, capsys, monkeypatch, no_waiting):
    monkeypatch.setattr("hdfast.trainer.Trainer._loop", never)
    path, victim = tmp_path / "run", tmp_path / "victim"
    path.mkdir()
    victim.write_bytes(b'{"step": 0}\n')
    if kind == "pipe":
        os.mkfifo(path / name)
    elif kind == "link":
        (path / name).symlink_to(victim)
    else:
        (path / name).mkdir()
    assert train(path) == (2 if name == ".lock" else 1)  # no run can be in such a folder at all
    error = capsys.readouterr().err
    assert error.startswith("hdfast: error: cannot ") and name in error and "Traceback" not in error
    assert victim.read_bytes() == b'{"step": 0}\n'


def test_a_linked_half_written_file_is_not_written_through(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "rows.jsonl"
    victim.write_text("mine")
    path.write_bytes(b'{"step": 1}\n{"step": 9}\n')
    (tmp_path / ".rows.jsonl.part").symlink_to(victim)
    assert jsonl.rewind(path, None, 5) == (1, "")
    assert victim.read_text() == "mine" and path.read_bytes() == b'{"step": 1}\n'
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(RunError, match="it is a link or a pipe"):
        jsonl.JsonLines(path)
    # Records of steps to come, a picture, a page: replaced by a file, and not written through either
    jsonl.replace(path, b"new")
    assert victim.read_text() == "mine" and path.read_bytes() == b"new" and not path.is_symlink()


@pytest.mark.parametrize("name", RECORDS)
def test_records_that_would_fill_the_memory_are_refused(tmp_path, name):
    path = write_run(tmp_path, "pong", 0)
    with (path / name).open("r+b") as file:
        file.truncate(1 << 40)  # sparse: it takes no place on the disk
    _, notes = collect([tmp_path])
    assert any("larger than" in note for note in notes)
    for use in (jsonl.JsonLines, lambda file: jsonl.rewind(file, None, 5), jsonl.read_rows,
                lambda file: jsonl.rewind(file, {"bytes": 1, "crc": 2}, 5)):
        with pytest.raises(RunError, match="larger than"):
            use(path / name)
    assert watch.read_run(path).path == path


# The network

LISTENING = """
import os, sys, threading, time
from contextlib import suppress
from pathlib import Path
from hdfast import cli
seen, mine, done = set(), set(), threading.Event()
def watch():
    while not done.wait(0.02):
        for table in ("tcp", "tcp6", "udp", "udp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] in ("0A", "07"):  # listening, or a bound UDP port
                    seen.add(words[9])
        for file in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # closed since
                link = os.readlink(f"/proc/self/fd/{file}")
                mine.update([link[8:-1]] if link.startswith("socket:[") else [])
watcher = threading.Thread(target=watch)
watcher.start()
try:
    if "--control" in sys.argv:
        import socket
        door, end = socket.create_server(("127.0.0.1", 0)), time.monotonic() + 120
        while not seen & mine and time.monotonic() < end:
            time.sleep(0.02)
    else:
        code = cli.main(["train", "--configs", "debug", "--task", "dummy", "--logdir", sys.argv[1]])
        assert code == 0, code
finally:
    alive = watcher.is_alive()
    done.set()
assert alive, "nobody watched"
print("ports:", len(seen & mine))
"""


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc/net")
@pytest.mark.parametrize(("control", "ports"), [([], 0), (["--control"], 1)])
def test_training_opens_no_port(tmp_path, control, ports):
    done = python("-c", LISTENING, str(tmp_path / "run"), *control, OMP_NUM_THREADS="1")
    assert f"ports: {ports}" in done.stdout


def test_ray_shows_no_dashboard_and_asks_for_a_token():
    """The sweep's own cluster: no dashboard, and a token that only this sweep knows."""
    text = (ROOT / "hdfast" / "commands" / "sweep_ray.py").read_text()
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    own = next(call for call in calls if ast.unparse(call.func) == "dict")
    assert {word.arg: ast.unparse(word.value) for word in own.keywords}["include_dashboard"] == "False"
    assert '"RAY_AUTH_MODE": "token"' in text and "secrets.token_hex(32)" in text


# What is built and installed

def test_the_build_fetches_nothing():
    fetching = re.compile(r"FetchContent|ExternalProject|file\s*\(\s*DOWNLOAD|urllib|requests|urlopen|https?://|"
                          r"git clone|\bcurl\b|\bwget\b|CPMAddPackage", re.IGNORECASE)
    assert fetching.search("FetchContent_Declare(x)") and fetching.search("urllib.request.urlopen(x)")
    for path in BUILD:
        if path.is_file():
            assert not fetching.search(path.read_text()), path


def test_dependencies_have_lower_bounds():
    for requirements in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        assert all(re.search(r"[>~]=\d", requirement) for requirement in requirements), requirements


def test_the_page_runs_nothing_of_a_name(tmp_path, monkeypatch):
    """Names of methods and seeds, paths and notes come from untrusted files and folders."""
    from hdfast.report import build, figures, score_files
    from hdfast.report.summary import summarize
    monkeypatch.setattr(figures, "plots", lambda summary: [])
    evil = "\"'&$x_{1}$ \\ % _><img src=x onerror=alert(1)><script>alert(1)</script>"
    records = [{"task": f"gym_{evil}", "method": evil, "seed": evil, "xs": [1, 2], "ys": [1, 2]}]
    (tmp_path / "peer.json").write_text(json.dumps(records))
    folder = tmp_path / evil.replace("/", "_")
    write_run(folder, "pong", 0)
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text(json.dumps({evil: evil}))
    runs, notes = collect([folder])
    peers, more = score_files.read(tmp_path / "peer.json")
    assert len(runs) == len(peers) == 1 and any("onerror" in note for note in notes)
    summary = summarize(runs, peers, [*notes, *more], samples=100)
    page = build.write(summary, tmp_path / "out").read_text()
    assert page.count("<script>") == 1 and "<img" not in page and "&lt;img" in page
