"""Bad input: a short, repeatable slice of `make fuzz`, and every input that it or a reviewer has found."""

import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkout import ENV, ROOT
from hdfast import cli
from hdfast.commands import sweep, watch
from hdfast.config import Config
from hdfast.errors import ConfigError, RunError, spelled_out
from hdfast.ops import library
from hdfast.paths import expanded
from hdfast.report import build, figures, score_files
from hdfast.report.collect import collect
from hdfast.run import directory
from hdfast.run.durable import READ_LIMIT, read_bounded
from hdfast.run.jsonl import is_number, read_rows, rewind
from hdfast.run.pictures import learning_curve
from hdfast.run.progress import LiveTable
from hdfast.spaces import Discrete, ObsSpace, described, spaces
from kinds import KINDS
from scripted_sweep import write_run

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
import targets

DEEP = "[" * 100_000
HUGE = "1" + "0" * 400  # an integer of JSON that no float holds
EXAMPLES = 50
SNIPPETS = st.sampled_from([b"", b"null", b"-1", b"1e999", b"NaN", b'""', b"[]", b"{}", b"true", b"\x00", b"\xff\xfe",
                            b"..", b"\\ud800", b"<script>", HUGE.encode(), b"[" * 2000, b'"/etc/passwd"', b"~x/",
                            b"\x1b[2J",
                            targets.SPLIT, b"1152921504606846976"])


@st.composite
def spoiled(draw, name: str) -> bytes:
    """A seed of a target with up to four places replaced."""
    data = draw(st.sampled_from(targets.TARGETS[name].seeds()))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        data = data[:start] + draw(SNIPPETS | st.binary(max_size=8)) + data[start + draw(st.integers(0, 12)):]
    return data


@pytest.mark.parametrize("name", targets.TARGETS)
def test_spoiled_input_raises_nothing_else(name, tmp_path):
    @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))
    @given(spoiled(name))
    def each(data):
        targets.run_once(name, data, tmp_path)

    each()


def test_a_target_can_fail(tmp_path):
    """The harness itself: it finds a bug planted in a reader, and clears the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets.directory, "run_manifest", lambda *_: {"step": 11})
        with pytest.raises(AssertionError):
            targets.run_once("checkpoint", targets.checkpoint_seed(), tmp_path)
    assert not list(tmp_path.iterdir())


# What was found

def test_json_that_nests_too_deep(tmp_path):
    with pytest.raises(RunError, match="valid JSON"):
        Config.from_json('{"env": ' + DEEP)
    for name in ("meta.json", "metrics.jsonl", "peer.json"):
        (tmp_path / name).write_text(DEEP + "\n")
    assert directory.read_meta(tmp_path) == {} and read_rows(tmp_path / "metrics.jsonl") == []
    with pytest.raises(RunError, match="cannot read the score file"):
        score_files.read(tmp_path / "peer.json")


def test_numbers_that_fit_no_float(tmp_path):
    assert is_number(3) and is_number(-0.5)
    assert not any(map(is_number, (int(HUGE), float("nan"), float("inf"), True, "3", None)))
    path = write_run(tmp_path, "pong", 0)
    for name in ("metrics.jsonl", "scores.jsonl", "eval.jsonl"):
        with (path / name).open("a") as file:
            file.write(f'{{"step": {HUGE}, "eval/score": 1}}\n')
            file.write(f'{{"step": 5, "eval/score": {HUGE}, "episode/score": "x"}}\n')
            file.write('{"step": "9", "agent_step": {}, "seconds": []}\n{"agent_step": null, "seconds": "x"}\n')
    (run,), _ = collect([tmp_path])
    assert run.finished and run.frames == 404_000
    assert watch.read_run(path).state in ("finished", "interrupted", "failed")
    learning_curve(tmp_path / "curve.png", path, task="pong")
    before = len(read_rows(path / "metrics.jsonl"))
    assert rewind(path / "metrics.jsonl", None, 10**9)[0] and len(read_rows(path / "metrics.jsonl")) < before


@pytest.mark.parametrize("meta", ["[]", '{"starts": 3}', '{"starts": [3, null, {"seconds": "x"}]}',
                                  '{"starts": {"a": 1}}', '{"status": 1, "starts": ["ab"], "finished": "x"}'])
def test_a_spoiled_meta_file_ends_nothing(tmp_path, meta):
    path = write_run(tmp_path, "pong", 0)
    (path / "meta.json").write_text(meta)
    assert watch.read_run(path).state == "failed" or "3" in meta
    config = Config.from_json((path / "config.json").read_text())
    opened = directory.RunDir(path, config, __import__("torch").device("cpu"))
    assert opened.before("seconds") == 0
    opened.close()


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "peer.json")
    with pytest.raises(RunError, match="not a regular file"):
        score_files.read(tmp_path / "peer.json")
    with pytest.raises(OSError) as caught:
        read_bounded(Path("/dev/zero"))
    assert caught.value.errno == errno.EINVAL


def test_a_file_that_grows_when_it_is_unpacked(tmp_path):
    path = tmp_path / "peer.json.gz"
    path.write_bytes(gzip.compress(b" " * (READ_LIMIT + 1), mtime=0))
    assert path.stat().st_size < 1 << 17
    with pytest.raises(RunError, match="larger than .* once decompressed"):
        score_files.read(path)
    (tmp_path / "large").write_bytes(b"12345")
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_bounded(tmp_path / "large", limit=4)


@pytest.mark.parametrize("line", [
    "report {long}", "watch {long}", "watch ~{nobody}/x", "report ~{nobody}/x", "eval ~{nobody}/x",
    "reproduce ~{nobody}/x", "train --dry_run --logdir ~{nobody}/x", "bench --only ops --json {long}/x",
    "report runs --scores ~{nobody}/x", "eval runs --video {long}/x.gif"])
def test_paths_that_cannot_be(line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("hdfast.trainer.train", "hdfast.commands.dry_run.dry_run"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("the path was taken"))
    names = {"long": "a" * 5000, "nobody": "no-such-user"}
    assert cli.main([word.format(**names) for word in line.split()]) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(ConfigError, match="zero byte"):
        expanded("a\0b")


def test_a_sweep_without_end(tmp_path):
    with pytest.raises(ConfigError, match="at most 10,000 runs"):
        sweep.plan(("debug",), {"logdir": str(tmp_path)}, ("pong",), ("0-9999999999",))


def test_names_that_are_no_text(tmp_path, capsys, monkeypatch):
    """Bytes that are no text in a path, and control characters in files, reach neither an encoder nor a terminal."""
    monkeypatch.setattr(figures, "plots", lambda summary: [])
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/r\xff"))
    path = write_run(folder, "pong", 0)
    (path / "meta.json").write_text(json.dumps({"status": "failed: \x1b[2J", "method": "\ud800", "starts": [{}]}))
    records = [{"task": "pong", "method": name, "seed": 0, "xs": [1], "ys": [1]}
               for name in ("\x1b[2J", "\ud800", "x" * 201, "", ["x"], "fine")]
    (tmp_path / "peer.json").write_text(json.dumps(records))
    assert cli.main(["report", str(folder), "--scores", str(tmp_path / "peer.json"), "--out", str(tmp_path / "out"),
                     "--bootstrap", "100"]) == 0
    assert cli.main(["watch", str(folder), "--once"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "5 of 6 records left out: task, method and seed must be printable" in out
    assert "\\udcff" in (tmp_path / "out" / "runs.csv").read_text()
    assert spelled_out("a\tb\n\udcff\x9b") == "a\\tb\n\\udcff\\x9b"


def test_markup_in_names_is_no_markup(tmp_path):
    """A folder may be called [/x]: the library that draws the table would take that for the end of a style."""
    from rich.console import Console
    from rich.live import Live
    text = Console(file=open(os.devnull, "w"), record=True, width=200)
    with Live(console=text, auto_refresh=False) as live:
        LiveTable(watch.HEADER, live).show("[/b] runs", [("[/x]", "[red]", "[failed", *["-"] * 5)])
    shown = text.export_text()
    assert "[/x]" in shown and "[red]" in shown and "[/b] runs" in shown


@pytest.mark.parametrize("change", [{"obs_shape": [1 << 30, 1 << 30, 3]}, {"actions": 1 << 40}, {"actions": -1},
                                    {"obs_shape": [64]}, {"obs_shape": []}, {"obs_dtype": "float16"}, {"actions": True},
                                    {"obs_shape": "abc"}, {"obs_shape": [0, 1, 1]}])
def test_a_manifest_of_impossible_spaces_in_format_1(change):
    assert spaces(targets.FORMAT_1) == (ObsSpace.single((64, 64, 3), "uint8"), Discrete(6))
    with pytest.raises(RunError, match="impossible spaces"):
        spaces(targets.FORMAT_1 | change)


@pytest.mark.parametrize("change", [
    {"obs": []}, {"obs": [["a", [3], "float16"]]}, {"obs": [["a", [3, 3], "float32"]]}, {"obs": [["a", [3], "uint8"]]},
    {"obs": [["a\x1b", [3], "float32"]]}, {"obs": [[7, [3], "float32"]]}, {"obs": [["a", [0], "float32"]]},
    {"obs": [["a", [3.0], "float32"]]}, {"obs": [["a", [1 << 25], "float32"], ["b", [1 << 26], "float32"]]},
    {"action": ["box", 1 << 40]}, {"action": ["box", 2, 2]}, {"action": ["discrete"]}, {"action": ["discrete", True]},
    {"action": ["multi_discrete", 3, 0]}, {"action": ["nothing", 3]}, {"action": ["multi_discrete"]}])
def test_a_manifest_of_impossible_spaces(change):
    for known in KINDS.values():
        assert spaces(json.loads(json.dumps(described(*known)))) == known
    with pytest.raises(RunError, match="impossible spaces"):
        spaces(described(*KINDS["named"]) | change)


@pytest.mark.parametrize("change", [{"obs": 3}, {"obs": [3]}, {"obs": [["a", 3, "float32"]]}, {"obs": None},
                                    {"obs": [["a", [3], ["float32"]]]}, {"action": []}, {"action": 3},
                                    {"action": [["box"], 3]}])
def test_a_manifest_of_another_form(change):
    with pytest.raises(RunError, match="another program wrote it"):
        spaces(described(*KINDS["named"]) | change)



def test_curves_of_extreme_scores_are_drawn(tmp_path):
    path = tmp_path / "peer.json"
    path.write_text(json.dumps([{"task": "pong", "method": "peer", "seed": 0, "xs": [0, 1e300],
                                 "ys": [-1e300, 1e300]}]))
    build.report([], out=tmp_path / "out", score_paths=[path], samples=100)
    assert (tmp_path / "out" / "index.html").is_file()


# The native target, tests/fuzz/native, whose whole build takes minutes

@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("nm")), reason="needs g++ and nm")
def test_the_stand_in_for_torch_has_what_ops_call(tmp_path):
    for name in ("headeronly/util/shim_utils", "csrc/stable/accelerator", "csrc/stable/library", "csrc/stable/ops",
                 "csrc/stable/tensor"):
        (tmp_path / "torch" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "torch" / f"{name}.h").write_text('#include "standin.h"\n')
    files = ["decode.cpp", *(f"ops/{path.name}" for path in (ROOT / "csrc" / "ops").glob("*.cpp")
                             if path.name != "library.cpp")]
    (tmp_path / "all.cpp").write_text("".join(f'#include "{name}"\n' for name in files))
    subprocess.run(["g++", "-std=c++20", "-w", "-DFUZZ_CUDA=0", f"-I{tmp_path}", f"-I{ROOT}/tests/fuzz/native",
                    f"-I{ROOT}/csrc", "-c", tmp_path / "all.cpp", "-o", tmp_path / "all.o"], check=True)
    lacking = subprocess.run(["nm", "-uC", tmp_path / "all.o"], check=True, capture_output=True, text=True).stdout
    assert "decode" not in lacking, "every type of argument is read from an input"


def test_every_op_has_native_seeds(tmp_path):
    if reason := library.problem():
        pytest.skip(f"the native library is not there: {reason}")
    subprocess.run([sys.executable, ROOT / "tests" / "fuzz" / "native_seeds.py", tmp_path, "--large"], env=ENV,
                   check=True)
    names = {path.name.rpartition("-")[0] for path in tmp_path.iterdir()}
    assert names == {name for family in library.families() for name in family.OPS}
