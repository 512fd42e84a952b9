"""The verb: choose rows and cases, measure them, print the table and write JSON lines."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from hdfast.bench import ours, peers, rows
from hdfast.bench.cases import LOOPS, operations
from hdfast.bench.peers import PEERS
from hdfast.bench.rows import Measured, Program, Row
from hdfast.bench.workload import SIZES, sized
from hdfast.errors import ConfigError, RunError
from hdfast.machine import cpu_name, multiplies_bf16
from hdfast.paths import expanded, is_folder

PARTS = ("update", "loops", "ops")


def bench(preset: str, *, threads: int, with_peers: bool, only: str, rounds: int, backends: Sequence[str],
          precision: Sequence[str], json: str) -> int:
    """Measure and print. `json` is a file, `-` for standard output (the table then goes to standard error), or ''."""
    target = None if json in ("", "-") else expanded(json)
    if target is not None and not is_folder(target.parent):
        raise ConfigError(f"--json must name a file in a directory that exists, or -, got {target}")
    for flag, names, known in (("backends", backends, ours.BACKENDS), ("precision", precision, ours.PRECISIONS)):
        for name in names:
            if name not in known:
                raise ConfigError(f"--{flag} must be of {', '.join(known)}, got '{name}'")
    if "native" in backends and not ours.native_is_there():
        raise ConfigError("--backends native: the native library is not here; `hdfast doctor` says why")
    if "bf16" in precision and not multiplies_bf16():
        print(f"warning: {cpu_name()} has no bfloat16 products; bf16 rows measure their emulation", file=sys.stderr)
    installed = installed_peers() if with_peers else []
    out = sys.stderr if json == "-" else sys.stdout
    print(f"{preset}: {SIZES[preset].about}\n{cpu_name()}, {threads} threads, {' and '.join(precision)}, harmony on",
          file=out)
    done: list[Row] = []
    for part in PARTS if only == "all" else (only,):
        for found in measured(part, preset, threads, rounds, backends, precision, installed):
            done += found
            if json == "-":
                print(*(row.as_json() for row in found), sep="\n", flush=True)
    print(f"\n{rows.table(done)}", file=out)
    print(*notes(done, installed), sep="\n", file=out)
    if target is not None:
        target.write_text("".join(row.as_json() + "\n" for row in done))
    return 0


def default_backends(part: str) -> tuple[str, ...]:
    """The backends a part is measured on: native where it is there, torch.compile only where that takes seconds."""
    chosen = ("reference", "compile") if part == "ops" else ("reference",)
    return (*chosen, "native") if ours.native_is_there() else chosen


def measured(part: str, preset: str, threads: int, rounds: int, backends: Sequence[str], precision: Sequence[str],
             installed: Sequence[str]) -> Iterator[list[Row]]:
    """The rows of each case of a part, the processes of one case side by side. Ops are measured in fp32 alone."""
    names = {"update": ["update"], "loops": list(LOOPS),
             "ops": [f"{name}.{mode}" for name, op in operations(sized(preset)).items() for mode in op.modes]}[part]
    programs = [rows.ours(preset, backend, threads, mode) for backend in backends or default_backends(part)
                for mode in (precision if part != "ops" else ("fp32",))]
    with ExitStack() as stack:
        processes = [stack.enter_context(Measured(program, threads)) for program in programs]
        if part == "update":
            peers_of = (rows.peer(name, preset, threads) for name in installed)
            processes += rows.started(stack, peers_of, threads, cannot_run)
        for case in names:
            print(f"measuring {case}: {', '.join(p.program.label for p in processes)}", file=sys.stderr, flush=True)
            yield rows.with_ratios(rows.measure(processes, case, preset=preset, threads=threads, rounds=rounds))


def cannot_run(program: Program, why: str) -> None:
    """A peer that is there and cannot run ends the benchmark before anything is measured: no table without its row."""
    raise RunError(f"{why}; run `python bench/peers/install.py {program.name}`, which says what it lacks")


def installed_peers() -> list[str]:
    """The peers whose environment is there; ConfigError where there is none at all."""
    if not peers.SCRIPTS.is_dir():
        raise ConfigError("--peers needs the source tree, which holds the programs that measure them (bench/peers)")
    found = [name for name in PEERS if peers.python(name).exists()]
    if not found:
        raise ConfigError(f"--peers: no peer is installed in {peers.folder()}; run `python bench/peers/install.py`")
    for name in PEERS.keys() - set(found):
        print(f"left out: {name} is not installed; `python bench/peers/install.py {name}`", file=sys.stderr)
    return found


def notes(done: Sequence[Row], installed: Sequence[str]) -> Iterator[str]:
    """Below the table: what the ratios are against, the versions, and how each peer differs."""
    yield ""
    for against in dict.fromkeys(row.against for row in done if row.against):
        yield f"ratios: medians over rounds against {against}, below 1 is faster"
    seen = {row.name: row.versions for row in done}
    for name, versions in seen.items():
        yield f"{name}: " + ", ".join(f"{package} {version}" for package, version in versions.items())
    for name in installed:
        if name in seen:
            yield f"{name} differs: {PEERS[name].differs}"
