"""What is fuzzed: for every format that is read from disk, for the command line and for the raw ops, a function of some
bytes that may raise nothing but what is documented, whatever the bytes are.

A target gets an empty folder. Formats of several files are one input, the files between lines of equals signs; digests
that a format demands are put where a seed says "auto", or no changed byte would ever come past the first check.
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from hdfast import cli, rng
from hdfast.bench import report as bench_report
from hdfast.bench.rows import Measured, Program
from hdfast.bench.serve import MARK
from hdfast.commands import watch
from hdfast.config import Config
from hdfast.errors import ConfigError, RunError, spelled_out
from hdfast.flags import parse
from hdfast.protocol import Schedule
from hdfast.replay.sequences import Replay
from hdfast.replay.store import HEADER_BYTES
from hdfast.report import page, score_files, tables
from hdfast.report.collect import collect
from hdfast.report.summary import summarize
from hdfast.run import checkpoint, directory
from hdfast.run.jsonl import last_rows, read_rows, trim
from hdfast.run.pictures import _points
from hdfast.run.progress import text_table
from hdfast.spaces import spaces

SPLIT = b"\n=====\n"
AUTO = "auto"


@dataclass(frozen=True)
class Target:
    """`run` is called with an input and an empty folder; `seeds` are inputs to begin with."""

    run: Callable[[bytes, Path], None]
    seeds: Callable[[], list[bytes]]


def parts(data: bytes, count: int) -> list[bytes]:
    found = data.split(SPLIT, count - 1)
    return found + [b""] * (count - len(found))


# Settings and the command line

def config(data: bytes, folder: Path) -> None:
    with suppress(ConfigError, RunError):
        made = Config.from_json(data.decode(errors="surrogateescape"))
        assert Config.from_json(made.to_json()) == made


def flags(data: bytes, folder: Path) -> None:
    with suppress(ConfigError):
        parse(words(data), cli.TrainFlags, with_settings=True, arguments=1).config().run_dir()


def words(data: bytes) -> list[str]:
    return data.decode(errors="surrogateescape").split("\n")


STUBS = {"hdfast.trainer.train": None, "hdfast.commands.dry_run.dry_run": None,
         "hdfast.commands.sweep.sweep": True, "hdfast.commands.doctor.doctor": 0,
         "hdfast.bench.run.bench": 0, "hdfast.commands.reproduce.reproduce": True,
         "hdfast.report.build._write": Path("index.html")}


def walk_within(folder: Path) -> Callable[..., Iterable]:
    """os.walk that finds nothing outside of a folder: through a whole disk it takes as long as the disk is large."""
    real, inside = os.walk, folder.resolve()
    return lambda top, *args, **options: real(top, *args, **options) if Path(top).resolve().is_relative_to(
        inside) else ()


def command(data: bytes, folder: Path) -> None:
    """A whole command line; what would work for long, or write somewhere, is replaced."""
    from hdfast import bench, evaluation, trainer  # noqa: F401
    from hdfast.bench import run  # noqa: F401
    from hdfast.commands import doctor, dry_run, reproduce, sweep  # noqa: F401
    said = io.StringIO()
    patches = [mock.patch(name, lambda *_, value=value, **__: value) for name, value in STUBS.items()]
    patches += [mock.patch("time.sleep", side_effect=KeyboardInterrupt), mock.patch("os.walk", walk_within(folder))]
    with chdir(folder), redirect_stdout(io.StringIO()), redirect_stderr(said):
        for patch in patches:
            patch.start()
        try:
            code = cli.main(words(data))
        finally:
            for patch in patches:
                patch.stop()
    error = said.getvalue()
    assert code in (0, 1, 2, 130) and "Traceback" not in error
    assert code in (0, 130) or (error.startswith("hdfast: error: ") and error.count("\n") == 1), error


# A run's files

def checkpoints(data: bytes, folder: Path) -> None:
    """manifest.json, tensors.safetensors."""
    manifest, tensors = parts(data, 2)
    path = folder / "000000000010"
    path.mkdir()
    (path / checkpoint.TENSORS).write_bytes(tensors)
    with suppress(ValueError, RecursionError, AttributeError, TypeError):
        body = json.loads(manifest)
        for name, value in {"bytes": len(tensors), "sha256": hashlib.sha256(tensors).hexdigest()}.items():
            if body.get(name) == AUTO:
                body[name] = value
        if body.pop("checksum", None) == AUTO:
            manifest = json.dumps({"checksum": checkpoint.text_digest(body), **body}).encode()
    (path / checkpoint.MANIFEST).write_bytes(manifest)
    with suppress(checkpoint.Damaged, RunError):
        found = checkpoint.load(path)
        spaces(found.manifest)
        manifest = directory.run_manifest(found, Schedule(20, 4, Fraction(1, 2)), 2)
        assert manifest["step"] == 10 and 0 <= manifest["updates"] <= 3 and 0 <= manifest["evaluated"] <= 10
        np.random.PCG64().state = manifest["prefill_rng"]
        rng.from_text(manifest["replay_rng"])
    with suppress(RunError):
        assert checkpoint.latest(folder).step == 10


def replay(data: bytes, folder: Path) -> None:
    """Manifest of the checkpoint, header of the chunk, its records."""
    manifest, header, records = parts(data, 3)
    held = Replay(64, 1, (3,), "float32", directory=folder, seed=0)
    size, crc = held._store.record.itemsize, 0
    whole = bytearray(records[:len(records) // size * size])
    for i in range(0, len(whole), size):
        whole[i:i + 8] = (i // size).to_bytes(8, "little")
        crc = zlib.crc32(whole[i:i + size - 4], crc)
        whole[i + size - 4:i + size] = crc.to_bytes(4, "little")
    header = header.ljust(HEADER_BYTES)[:HEADER_BYTES]
    (folder / "chunk-000000000000.bin").write_bytes(header + whole + records[len(whole):])
    try:
        found = json.loads(manifest.replace(b'"auto"', str(crc).encode()))
    except (ValueError, RecursionError):
        found = None
    try:
        held.restore(found)
        with suppress(RuntimeError):  # too few steps
            held.sample(2, 2)
        held.flush()
    except RunError:
        pass
    finally:
        held.close()


def records(data: bytes, folder: Path) -> None:
    path = folder / "metrics.jsonl"
    path.write_bytes(data)
    assert len(last_rows(path, 64)) <= len(read_rows(path))
    _points(path, "eval/score")
    trim(path, 100)
    kept = path.read_bytes().splitlines()
    assert len(read_rows(path)) == len(kept) and all(json.loads(line).get("step", 0) <= 100 for line in kept)


def run_files(data: bytes, folder: Path) -> None:
    """config.json, meta.json, metrics.jsonl, eval.jsonl, scores.jsonl."""
    names = ("config.json", "meta.json", "metrics.jsonl", "eval.jsonl", "scores.jsonl")
    path = folder / "run"
    path.mkdir()
    for name, part in zip(names, parts(data, len(names)), strict=True):
        (path / name).write_bytes(part)
    text_table([watch.HEADER, *watch.table(folder, [watch.read_run(path)])[1]]).encode()
    step = directory.finished_step(path)
    assert step is None or isinstance(step, int)
    assert all(isinstance(start, dict) for start in directory.read_meta(path).get("starts", []))
    with suppress(ConfigError, RunError):
        directory.check_settings(path, Config())
    with suppress(ConfigError, RunError):
        directory.load_config(path)
    shown(*collect([folder]))


def scores(data: bytes, folder: Path) -> None:
    path = folder / "peer.json"
    path.write_bytes(data)
    with suppress(RunError):
        found, notes = score_files.read(path)
        shown([], notes, found)
    shown(*collect([folder]))


class Page(HTMLParser):
    """The page's elements; a name from a file that opens one of its own would show up among them."""

    def __init__(self, text: str):
        super().__init__()
        self.seen: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")], attrs

    KNOWN = frozenset(("html head meta title link style body main h1 h2 h3 p ul li div small b i table thead tbody "
                       "tfoot tr th td button details summary code span figure figcaption a br script").split())


def shown(own: list, notes: list[str], peers: list = ()) -> None:
    """Everything of a report but its pictures."""
    summary = summarize(own, peers, notes, samples=20, unfinished=False)
    for text in (tables.runs_csv, tables.games_csv, tables.aggregates_csv, tables.markdown, tables.latex,
                 tables.terminal):
        spelled_out(text(summary)).encode()
    text = spelled_out(page.page(summary, [], files=["runs.csv"]))
    text.encode()
    seen = Page(text).seen
    assert set(seen) <= Page.KNOWN and seen.count("script") == 1, set(seen) - Page.KNOWN


# Benchmarks

def bench_rows(data: bytes, folder: Path) -> None:
    (folder / "rows.jsonl").write_bytes(data)
    bench_report.report(folder)


def bench_answers(data: bytes, folder: Path) -> None:
    """What a measured process says, another project's code included."""
    said = Measured.__new__(Measured)
    said.program, said.log = Program("peer", "jax", ()), io.StringIO()
    said.process = mock.Mock(stdout=iter(data.decode(errors="surrogateescape").splitlines(keepends=True)), returncode=1)
    with suppress(RunError):
        found = said.timings()
        assert min(found["seconds"]) >= 0 and min(found["cpu"]) >= 0 and found["peak_rss_mb"] >= 0


# Raw ops, through torch

SIZES = (0, 1, 2, 3, 4, 6, 7, 8, 24, 1 << 31, 1 << 40, (1 << 40) + 1, 1 << 62, 6148914691236517206)
NUMBERS = (0, 1, -1, 2, 3, 5, 1 << 31, 1 << 61, 1 << 62, (1 << 63) - 1, -(1 << 63))
FLOATS = (0.0, 0.5, 1.0, -1.0, 101.0, 1e38, float("inf"), float("nan"))


def raw_ops(data: bytes, folder: Path) -> None:
    """An accepted call of an op with up to three arguments changed; the op's code is not instrumented, so the input is
    the seed of a random choice."""
    native = str(Path(__file__).resolve().parents[1] / "native")
    if native not in sys.path:
        sys.path.insert(0, native)
    from raw_cases import CASES
    choice = iter(np.random.default_rng(zlib.crc32(data)).bytes(64))
    ops, names = torch.ops.hdfast, sorted(name for name in CASES if hasattr(torch.ops.hdfast, name))
    assert names, "the native library is not loaded"
    torch.manual_seed(0)
    name = names[next(choice) % len(names)]
    given = list(CASES[name](ops))
    with suppress(RuntimeError, ValueError, TypeError, NotImplementedError):  # torch refuses some views of the changed
        for _ in range(1 + next(choice) % 3):
            at = next(choice) % len(given)
            given[at] = changed(given[at], choice)
        getattr(ops, name).default(*given)


def changed(value: object, choice) -> object:
    kind = next(choice)
    if isinstance(value, list) and value:
        at = kind % len(value)
        return [*value[:at], changed(value[at], choice), *value[at + 1:]]
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return NUMBERS[kind % len(NUMBERS)]
    if isinstance(value, float):
        return FLOATS[kind % len(FLOATS)]
    if not isinstance(value, torch.Tensor) or value.numel() > 1 << 20:
        return value
    if kind % 4 == 0:
        return value.to((torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64)[next(choice) % 5])
    if kind % 4 == 1:
        return value.to("meta") if next(choice) % 2 else value.t() if value.dim() == 2 else value[None]
    if kind % 4 == 2 and value.is_floating_point():
        return value.clone().fill_(float(np.float32(FLOATS[next(choice) % len(FLOATS)])))
    shape = [SIZES[next(choice) % len(SIZES)] for _ in range(next(choice) % 5)]
    if 0 < np.prod(shape, dtype=float) < 1e6:
        return value.new_zeros(shape)
    with suppress(RuntimeError):
        return value.new_zeros(shape) if 0 in shape else value.new_zeros(()).expand(shape)
    return value


# Seeds

def run_seed() -> bytes:
    texts = [Config.preset("debug", task="pong").to_json(),
             json.dumps({"method": "HarmonyDream", "status": "running", "finished": None, "seconds": 1.5,
                         "starts": [{"pid": 1, "host": "there", "seconds": 2.0, "torch_threads": 1}]}),
             '{"step": 4, "agent_step": 1, "seconds": 0.5, "episode/score": 3.0, "train/harmony/rew_coeff": 0.5}\n'
             '{"step": 8, "agent_step": 2, "seconds": 1.5}\n',
             '{"step": 8, "eval/score": 1.5, "scores": [1, 2]}\n{"step": 16, "eval/score": 2.5}\n',
             '{"step": 8, "episode/score": -21.0, "episode/length": 100}\n']
    return SPLIT.join(text.encode() for text in texts)


def checkpoint_seed() -> bytes:
    from safetensors.torch import save
    tensors = save({"weight": torch.zeros(2, 2), "rng/act": torch.zeros(3, dtype=torch.uint8)})
    run = {"step": 10, "updates": 3, "episodes": 2, "evaluated": 8, "best_score": 1.5, "best_eval": None,
           "last_score": -1, "obs_shape": [64, 64, 3], "obs_dtype": "uint8", "actions": 6, "replay_rng": "00ff",
           "replay": {"format": 1, "steps": 5, "oldest": 0, "chunks": []}, "prefill_rng": np.random.PCG64(0).state,
           "records": {"eval.jsonl": {"bytes": 3, "crc": 7}}, "config": {"seed": 1}}
    manifest = {"checksum": AUTO, "format": checkpoint.FORMAT, "step": 10, "bytes": AUTO, "sha256": AUTO,
                "manifest": run}
    return json.dumps(manifest).encode() + SPLIT + tensors


def huge_checkpoint_seed() -> bytes:
    """A file that says it holds 2^60 numbers."""
    head = json.dumps({"weight": {"dtype": "F32", "shape": [1 << 30, 1 << 30], "data_offsets": [0, 1 << 62]}}).encode()
    return checkpoint_seed().split(SPLIT)[0] + SPLIT + len(head).to_bytes(8, "little") + head


def replay_seed() -> bytes:
    kind = dict(magic="hdfast-replay", version=1, num_envs=1, obs_shape=[3], obs_dtype="float32", record_bytes=33,
                first=0)
    manifest = {"format": 1, "steps": 4, "oldest": 0,
                "chunks": [{"name": "chunk-000000000000.bin", "first": 0, "records": 4, "crc": AUTO}]}
    return SPLIT.join([json.dumps(manifest).encode(), json.dumps(kind).encode(), bytes(range(33)) * 4])


def score_seed() -> bytes:
    plain = [{"task": "atari100k_pong", "method": "peer", "seed": seed, "xs": [1e5, 4e5], "ys": [1.5, None]}
             for seed in (0, "1")]
    more = {"method": "hdfast HarmonyDream", "episodes": [1, 2.5], "random": {"episodes": [-1.0]}, "finished": False,
            "frames": 400, "total": 800, "harmony": {"rew": {"xs": [4, 8], "ys": [1.0, 0.5]}}}
    return json.dumps([*plain, plain[0] | more, plain[0] | {"method": "DreamerV3 (official seeds)"}]).encode()


def bench_seed() -> bytes:
    return json.dumps({"step": "stages", "case": "observe", "precision": "fp32", "value": 1.5, "unit": "us",
                       "expected": 1.0, "note": ""}).encode() + b"\n"


LINES = ["train\n--configs\ncpu\n--task=pong\n--run.steps\n5000\n--no-harmony",
         "configs\n--diff\nsmall\nlarge+cpu\n--json",
         "sweep\n--tasks\natari26\n--seeds\n0-4,7\n--logdir=runs/{task}",
         "report\nruns\n--scores\na.json\n--bootstrap=100",
         "report\n--published\n--watch\n5", "eval\nruns\n--video\nx.gif\n--checkpoint=best", "watch\n.\n--once",
         "--version",
         "reproduce\n~no.such.user/run\n--logdir=new", "bench\n--only=ops\n--json\n-", "train\n--help"]

TARGETS = {
    "config": Target(config, lambda: [Config.preset("debug").to_json().encode(),
                                      b'{"env": {"size": 64}, "seed": 1e3}']),
    "flags": Target(flags, lambda: [line.partition("\n")[2].encode() for line in LINES if line.startswith("train")]),
    "command": Target(command, lambda: [line.encode() for line in LINES]),
    "checkpoint": Target(checkpoints, lambda: [checkpoint_seed(), huge_checkpoint_seed()]),
    "replay": Target(replay, lambda: [replay_seed()]),
    "records": Target(records, lambda: [b'{"step": 4, "eval/score": 1.5}\n{"step": 1e3}\n{"step": "5"}\n[[{"st']),
    "run_files": Target(run_files, lambda: [run_seed()]),
    "scores": Target(scores, lambda: [score_seed(), gzip.compress(score_seed(), mtime=0)]),
    "bench_rows": Target(bench_rows, lambda: [bench_seed() * 2]),
    "bench_answers": Target(bench_answers, lambda: [
        b"noise\n" + MARK.encode() + b'{"seconds": [0.5, 1], "cpu": [0.5, 1], "peak_rss_mb": 7.5}\n']),
    "raw_ops": Target(raw_ops, lambda: [bytes([i]) for i in range(16)]),
}


def run_once(name: str, data: bytes, folder: Path) -> None:
    """One input of a target, in a folder that is made for it and removed."""
    place = folder / f"{name}-{os.getpid()}"
    place.mkdir()
    try:
        TARGETS[name].run(data, place)
    finally:
        shutil.rmtree(place)
