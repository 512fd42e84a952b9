"""The verb: choose rows and cases, measure them, print the table, write JSON lines, compare with committed tables."""

import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain, count

from hdfast.bench import committed, ours, peers, rows
from hdfast.bench.cases import LOOPS, operations
from hdfast.bench.peers import PEERS
from hdfast.bench.rows import Measured, Program, Row
from hdfast.bench.workload import SIZES, sized
from hdfast.errors import ConfigError, RunError
from hdfast.machine import cpu_name, multiplies_bf16
from hdfast.paths import expanded, is_folder

PARTS = ("update", "loops", "ops")


def bench(preset: str, *, threads: int, with_peers: bool, only: str, rounds: int, backends: Sequence[str],
          precision: Sequence[str], json: str, check: bool = False, save: bool = False) -> int:
    """Measure and print. `json` is a file, `-` for standard output (the table then goes to standard error), or ''.

    Standard error says what is being measured and shows every row as it comes. Whatever ends the measurement, Ctrl-C
    too, the rows so far become the table and the JSON. `check` compares ops with the committed table of this kind of
    processor and returns 1 if any is too slow; `save` puts them into it.
    """
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
    if check or save:
        committed.can_compare(only, backends or default_backends("ops"), save=save)
    before = committed.read(preset, threads) if check else {}
    installed = installed_peers() if with_peers else []
    out = sys.stderr if json == "-" else sys.stdout
    print(f"{preset}: {SIZES[preset].about}\n{cpu_name()}, {threads} threads, {' and '.join(precision)}, harmony on",
          file=out)
    cases = {part: cases_of(part, preset) for part in (PARTS if only == "all" else (only,))}
    measure = partial(measured, preset=preset, threads=threads, rounds=rounds, backends=backends, precision=precision)
    done: dict[str, list[Row]] = {}
    try:
        for found in measure(cases, installed=installed):
            done[found[0].case] = found  # each round has the rows of all rounds before it, too
    finally:
        measurements = list(chain(*done.values()))
        if measurements:
            print(f"\n{rows.table(measurements)}", file=out)
            print(*notes(measurements, installed), *unmeasured(cases, done, rounds), sep="\n", file=out, flush=True)
            lines = "".join(row.as_json() + "\n" for row in measurements)
            if target is not None:
                target.write_text(lines)
            elif json == "-":
                print(lines, end="")
    slow = too_slow(measurements, before, measure) if check else {}
    if check:
        print(*committed.verdict(slow, before, preset, threads), sep="\n", file=out)
    if save:
        print(f"wrote {committed.save(measurements)}", file=out)
    return 1 if slow else 0


def too_slow(done: Sequence[Row], before: Mapping[str, float], measure: Callable[..., Iterable[list[Row]]]
             ) -> dict[str, str]:
    """{case: a sentence} of the ops that are too slow whenever they are measured: in `done`, and once more."""
    slow = committed.too_slow(done, before)
    if slow:
        tell(f"too slow, so measured once more: {', '.join(slow)}")
        again = {found[0].case: found for found in measure({"ops": list(slow)}, installed=())}
        slow = committed.too_slow(list(chain(*again.values())), before)
    return slow


def cases_of(part: str, preset: str) -> list[str]:
    """The cases of a part."""
    return {"update": ["update"], "loops": list(LOOPS),
            "ops": [f"{name}.{mode}" for name, op in operations(sized(preset)).items() for mode in op.modes]}[part]


def default_backends(part: str) -> tuple[str, ...]:
    """The backends a part is measured on: native where it is there, torch.compile only where that takes seconds."""
    chosen = ("reference", "compile") if part == "ops" else ("reference",)
    return (*chosen, "native") if ours.native_is_there() else chosen


def measured(cases: Mapping[str, Sequence[str]], preset: str, threads: int, rounds: int, backends: Sequence[str],
             precision: Sequence[str], installed: Sequence[str]) -> Iterator[list[Row]]:
    """The rows of one case after each of its rounds, the processes of a part {part: cases} side by side. Ops are
    measured in fp32 alone."""
    number, total = count(1), sum(map(len, cases.values()))
    for part, chosen in cases.items():
        programs = [rows.ours(preset, backend, threads, mode) for backend in backends or default_backends(part)
                    for mode in (precision if part != "ops" else ("fp32",))]
        with ExitStack() as stack:
            tell(f"starting {part}: {', '.join(program.label for program in programs)}")
            processes = [stack.enter_context(Measured(program, threads)) for program in programs]
            if part == "update":
                peers_of = (rows.peer(name, preset, threads) for name in installed)
                processes += rows.started(stack, peers_of, threads, cannot_run)
            for case in chosen:
                tell(f"[{next(number)}/{total}] {case}: {', '.join(p.program.label for p in processes)}")
                for found in map(rows.with_ratios, rows.measure(processes, case, preset=preset, threads=threads,
                                                                rounds=rounds)):
                    tell(f"    round {len(found[0].rounds)}/{rounds}", live=True)
                    yield found
                tell(textwrap.indent(rows.table(found), "    "))


def tell(text: str, *, live: bool = False) -> None:
    """Print a line to standard error; the next one overwrites a `live` one, which is for terminals alone."""
    terminal = sys.stderr.isatty()
    if terminal or not live:
        print("\r\x1b[K" * terminal + text, end="" if live else "\n", file=sys.stderr, flush=True)


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
    yield from committed.geometric_means(done)
    seen = {row.name: row.versions for row in done}
    for name, versions in seen.items():
        yield f"{name}: " + ", ".join(f"{package} {version}" for package, version in versions.items())
    for name in installed:
        if name in seen:
            yield f"{name} differs: {PEERS[name].differs}"


def unmeasured(cases: Mapping[str, Sequence[str]], done: Mapping[str, Sequence[Row]], rounds: int) -> Iterator[str]:
    """What the table lacks, if the measurement ended early."""
    short = {case: len(found[0].rounds) for case, found in done.items() if len(found[0].rounds) < rounds}
    total, whole = sum(map(len, cases.values())), len(done) - len(short)
    if whole < total:
        yield f"ended early: {whole} of {total} cases" + "".join(
            f", and {turns} of {rounds} rounds of {case}" for case, turns in short.items())
