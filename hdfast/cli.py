"""The `hdfast` command: its verbs, exit codes and messages. Nothing heavy is imported before a verb needs it.

Exit codes: 0 ok, 1 a run that failed (RunError), 2 a command or setting that cannot be used (ConfigError), 130
interrupted, 141 nobody reads our output any more, 129 after SIGHUP, 143 after SIGTERM. An expected error is one
paragraph on stderr, also for a machine without memory or disk space and a package that cannot be imported;
HDFAST_DEBUG=1 shows the traceback too. Any other exception is a bug and keeps its traceback.
"""

import io
import json
import os
import select
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from hdfast import __version__
from hdfast.config import Config, differences, opt, settings
from hdfast.errors import ConfigError, RunError, nearest, of_the_machine, spelled_out
from hdfast.flags import Parsed, grouped, help_text, parse
from hdfast.paths import expanded, is_folder
from hdfast.presets import FIXED, PRESETS

INTERRUPTED, NO_READER = 130, 141

OVERVIEW = """\
hdfast: HarmonyDream (DreamerV3 with harmonized losses) on Atari 100K

  hdfast doctor                                 check this machine and installation
  hdfast train --configs catch                  learn a small game within minutes, on a CPU
  hdfast train --configs cpu --task pong        a small run on real Atari frames, on a CPU
  hdfast train --configs atari100k --task pong  the full Atari 100K protocol
  hdfast eval runs/atari_pong/0 --video p.gif   play episodes with a trained agent
  hdfast report runs                            tables and figures of many runs beside published scores
  hdfast sweep --tasks atari26 --seeds 0-4      many runs, several at once; hdfast watch shows them
  hdfast bench --preset reduced --threads 2     time one learner update; --peers beside other Dreamers
  hdfast configs                                presets and settings; `hdfast configs cpu` prints one resolved

The same train command continues a run that was stopped. Every verb has --help."""


@dataclass(frozen=True)
class TrainFlags:
    config: str = opt("", "take the settings of this file, a run's config.json, in place of presets; flags win over it")
    dry_run: bool = opt(False, "build everything, print settings, parameter counts and memory, do one update, stop")


@dataclass(frozen=True)
class EvalFlags:
    episodes: int = opt(100, "episodes to play", low=1, high=1_000_000)
    seed: int = opt(1, "seed of the environments and of the agent's choices", low=0, high=2**31 - 1)
    envs: int = opt(0, "parallel environments; 0 takes the run's run.eval_envs", low=0, high=4096)
    device: str = opt("auto", "auto, cpu, cuda or cuda:N")
    backend: str = opt("auto", "implementation of the ops", choices=("auto", "reference", "native"))
    deterministic: bool = opt(False, "equal bits from equal evaluations on CUDA, at some cost in time")
    video: str = opt("", "write the first episode to this .gif or .mp4 file; --video alone: RUN/eval.gif", bare="eval")
    random: bool = opt(False, "play random actions in the run's environments, not the agent's")
    checkpoint: str = opt("latest", "the newest checkpoint, or that of the best evaluation", choices=("latest", "best"))


@dataclass(frozen=True)
class ReproduceFlags:
    logdir: str = opt("", "directory of the new run; default: the old one with -again appended")


@dataclass(frozen=True)
class SweepFlags:
    tasks: tuple = opt((), "tasks, or atari26 for the 26 games of Atari 100K; default: the presets' task")
    seeds: tuple = opt(("0",), "seeds and ranges of seeds: --seeds 0-4, --seeds 0,2,7-9")
    jobs_per_gpu: int = opt(1, "runs that share one GPU", low=1, high=100)
    cpus_per_job: int = opt(1, "CPU cores of a run", low=1, high=1024)
    cpus: int = opt(0, "CPU cores of this machine that the sweep may use; 0: all", low=0, high=4096)
    retries: int = opt(3, "restarts of a run that was killed from outside", low=0, high=1000)
    ray_address: str = opt("", "address of a Ray cluster (--ray.address HOST:PORT, or auto); empty: this machine")


@dataclass(frozen=True)
class WatchFlags:
    once: bool = opt(False, "print the table once as plain text, for scripts")


@dataclass(frozen=True)
class ReportFlags:
    out: str = opt("", "folder to write; default: report/ in the folder given, or here for several")
    scores: tuple = opt((), "score files of other methods, .json or .json.gz with task, method, seed, xs, ys")
    export: str = opt("", "write the curves of the runs as such a score file, gzipped if the name ends in .gz")
    published: bool = opt(False, "print only the published scores; with --out, write their page too")
    unfinished: bool = opt(False, "count runs that have not ended, too, with their scores so far")
    bootstrap: int = opt(10_000, "samples of the intervals", low=100, high=100_000)
    watch: float = opt(0.0, "make the report again every so many seconds until interrupted; 0: once", low=0.0)


@dataclass(frozen=True)
class ConfigsFlags:
    diff: tuple = opt((), "print only what differs between two presets or stacks: --diff small atari100k+cpu")
    json: bool = opt(False, "print JSON")


@dataclass(frozen=True)
class DoctorFlags:
    pass


@dataclass(frozen=True)
class BenchFlags:
    preset: str = opt("reduced", "sizes: full is Atari 100K's, metaworld that of the official block, with continuous "
                      "actions", choices=("reduced", "full", "reduced-continuous", "metaworld"))
    threads: int = opt(2, "torch CPU threads of every measured process", low=1, high=1024)
    peers: bool = opt(False, "measure the other Dreamers that bench/peers/install.py installed")
    only: str = opt("all", "the part to measure", choices=("all", "update", "loops", "ops"))
    backends: tuple = opt((), "some of reference, compile, native; default: those installed, compile only for ops")
    precision: tuple = opt(("fp32",), "fp32, bf16 or both, for our matmuls; ops and peers are always fp32")
    rounds: int = opt(8, "times that every row is measured", low=1, high=1000)
    json: str = opt("", "write one JSON line a row to this file; - is standard output")
    check: bool = opt(False, "end with code 1 if a native op takes longer than eager, or 10 % more of eager's time "
                      "than in the table committed for this kind of processor")
    save: bool = opt(False, "put the native ops into that table, bench/results/ops-KIND.csv of the source tree")


@dataclass(frozen=True)
class Verb:
    """One verb: what it does, how it is written, its own flags, and the function that runs it."""

    about: str
    usage: str
    flags: type
    run: Callable[[Parsed], int]
    with_settings: bool = False
    arguments: int = 0


def train(parsed: Parsed[TrainFlags]) -> int:
    """Start or continue the run in the logdir."""
    # Spinning threads would starve the environments' threads.
    os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY") or "passive"
    config = with_file(parsed)
    written, logdir = config.logdir, config.run_dir()
    config = replace(config, logdir=str(logdir))
    try:
        if parsed.own.dry_run:
            from hdfast.commands.dry_run import dry_run
            dry_run(config)
        else:
            from hdfast import trainer
            trainer.train(config)
    except KeyboardInterrupt:
        same = "the same command" + (f" with --logdir {logdir}" if "{timestamp}" in written else "")
        continues = "" if parsed.own.dry_run else f"; {same} continues the run from its last checkpoint"
        print(f"\nhdfast: interrupted{continues}", file=sys.stderr)
        return INTERRUPTED
    return 0


def with_file(parsed: Parsed[TrainFlags]) -> Config:
    """The configuration of a train command, from presets or from --config."""
    if not parsed.own.config:
        return parsed.config()
    if parsed.presets:
        raise ConfigError(f"--config {parsed.own.config} names all settings, and so do the presets --configs "
                          f"{' '.join(parsed.presets)}; give one of them")
    file = expanded(parsed.own.config)
    try:
        return Config.from_flat(Config.from_json(file.read_text()).flat() | parsed.settings)
    except (OSError, UnicodeDecodeError, RunError) as error:
        preset = ", did you mean '--configs'?" if parsed.own.config in PRESETS else ""
        raise ConfigError(f"--config {file} cannot be used: {error}{preset}") from error


def evaluate(parsed: Parsed[EvalFlags]) -> int:
    """Play episodes with the agent of a run and print a table."""
    flags = parsed.own
    if not parsed.arguments:
        raise ConfigError("eval needs a run directory, as in `hdfast eval runs/atari_pong/0`")
    logdir = expanded(parsed.arguments[0])
    video = logdir / "eval.gif" if flags.video == "eval" else expanded(flags.video)
    if flags.video not in ("", "eval") and (video.suffix not in (".gif", ".mp4") or not is_folder(video.parent)):
        raise ConfigError(f"--video must name a .gif or .mp4 file in a directory that exists, got {video}")
    from hdfast.evaluation import evaluate_run
    result = evaluate_run(logdir, **vars(flags) | {"video": video if flags.video else None})
    human = result.human_normalized
    rows = {
        "run": logdir, "player": "random actions" if flags.random else "the run's agent",
        "task": result.task,
        "episodes": f"{len(result.scores)}" + (f", {result.cut} cut by a time limit" if result.cut else ""),
        "score mean": f"{result.score_mean:.2f}", "score std": f"{result.score_std:.2f}",
        "score min, max": f"{min(result.scores):g}, {max(result.scores):g}",
        "length mean": f"{sum(result.lengths) / len(result.lengths):.1f} steps",
        **({} if result.success is None else {"successful": f"{result.success:.0%} of the episodes"}),
        "human normalized": "no human score is known for these episodes" if human is None else f"{human:.3f}",
        **({"video": result.video} if result.video else {}),
    }
    print("\n".join(f"{name:<17} {value}" for name, value in rows.items()))
    return 0


def reproduce(parsed: Parsed[ReproduceFlags]) -> int:
    """Run the same settings again in another directory, and compare both runs at the end."""
    if not parsed.arguments:
        raise ConfigError("reproduce needs a run directory, as in `hdfast reproduce runs/atari_pong/0`")
    run = expanded(parsed.arguments[0]).absolute()
    from hdfast.commands.reproduce import reproduce
    new = expanded(parsed.own.logdir) if parsed.own.logdir else run.parent / f"{run.name}-again"
    return 0 if reproduce(run, new) else 1


def sweep(parsed: Parsed[SweepFlags]) -> int:
    """Train every task with every seed, several at once; the same command continues, and skips what is finished."""
    from hdfast.commands import sweep
    flags = parsed.own
    jobs = sweep.plan(parsed.presets, parsed.settings, flags.tasks, flags.seeds)
    try:
        done = sweep.sweep(jobs, retries=flags.retries, device=jobs[0].config.device, address=flags.ray_address,
                           cpus=flags.cpus, cpus_per_job=flags.cpus_per_job,
                           jobs_per_gpu=flags.jobs_per_gpu)
    except KeyboardInterrupt:
        print("\nhdfast: interrupted; the same command continues the sweep", file=sys.stderr)
        return INTERRUPTED
    return 0 if done else 1


def watch(parsed: Parsed[WatchFlags]) -> int:
    """Show the runs below a directory: state, step, score, speed and time left, until Ctrl-C."""
    from hdfast.commands import watch
    try:
        watch.watch(expanded(*(parsed.arguments or ("runs",))), once=parsed.own.once)
    except KeyboardInterrupt:
        pass
    return 0


def report(parsed: Parsed[ReportFlags]) -> int:
    """Write tables, figures and a page of the runs in some folders, beside random, human and published agents."""
    from hdfast.report import build
    flags = parsed.own
    paths = {name: expanded(text) if text else None
             for name, text in (("out", flags.out), ("export", flags.export))}
    build.report([expanded(word) for word in parsed.arguments], **paths, published=flags.published,
                 score_paths=[expanded(name) for name in flags.scores], unfinished=flags.unfinished,
                 samples=flags.bootstrap, watch=flags.watch)
    return 0


def configs(parsed: Parsed[ConfigsFlags]) -> int:
    """Print a resolved configuration, the difference of two, or every preset and setting."""
    flags, presets = parsed.own, parsed.presets + parsed.arguments
    if flags.diff:
        if len(flags.diff) != 2 or presets:
            raise ConfigError("--diff compares exactly two presets or stacks, as in "
                              "`hdfast configs --diff small atari100k+cpu`")
        old, new = (Config.preset(*stack.split("+"), **parsed.settings) for stack in flags.diff)
        return _print_differences(differences(old, new), as_json=flags.json)
    config = Config.preset(*presets, **parsed.settings)
    if flags.json:
        print(config.to_json(), end="")
        return 0
    if not presets and not parsed.settings:
        print("# presets, for --configs; later ones win")
        print("\n".join(f"{name:<16}  # {preset.about}" for name, preset in PRESETS.items()) + "\n")
    for group, values in grouped(config.flat()).items():
        print(f"# {group}")
        print("\n".join(_line(name, value, settings()[name].metadata["help"]) for name, value in values.items()) + "\n")
    print("# fixed by the method, no settings")
    print("\n".join(_line(name, value, about) for name, (value, about) in FIXED.items()))
    return 0


def _line(name: str, value: object, about: str) -> str:
    return f"{name} {value}".ljust(36) + f"  # {about}"


def _print_differences(found: dict, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(found, indent=2))
    elif found:
        print("\n".join(_line(name, f"{old} -> {new}", settings()[name].metadata["help"])
                        for name, (old, new) in found.items()))
    else:
        print("no differences")
    return 0


def doctor(parsed: Parsed[DoctorFlags]) -> int:
    """Report versions, devices and build, and check that they work."""
    from hdfast.commands import doctor as checks
    return checks.doctor()


def bench(parsed: Parsed[BenchFlags]) -> int:
    """Time the learner, its loops and its ops, each row in its own process, and print a table."""
    from hdfast.bench import run
    flags = parsed.own
    return run.bench(flags.preset, threads=flags.threads, with_peers=flags.peers, only=flags.only,
                     rounds=flags.rounds, backends=flags.backends, precision=flags.precision, json=flags.json,
                     check=flags.check, save=flags.save)


VERBS = {
    "train": Verb("train an agent, or continue a run", "hdfast train [--configs PRESET ...] [flags]",
                  TrainFlags, train, with_settings=True),
    "eval": Verb("play episodes with the agent of a run", "hdfast eval LOGDIR [flags]",
                 EvalFlags, evaluate, arguments=1),
    "reproduce": Verb("start the same run again, and compare", "hdfast reproduce LOGDIR [--logdir NEW]",
                      ReproduceFlags, reproduce, arguments=1),
    "sweep": Verb("train tasks x seeds, several runs at once",
                  "hdfast sweep --tasks TASK ... --seeds 0-4 [--configs PRESET ...] [flags]",
                  SweepFlags, sweep, with_settings=True),
    "watch": Verb("show all runs below a directory", "hdfast watch [DIR] [--once]", WatchFlags, watch, arguments=1),
    "report": Verb("tables and figures of many runs", "hdfast report DIR ... [--scores FILE ...] [flags]",
                   ReportFlags, report, arguments=10_000),
    "configs": Verb("print presets and resolved settings", "hdfast configs [PRESET ...] [flags]",
                    ConfigsFlags, configs, with_settings=True, arguments=len(PRESETS)),
    "bench": Verb("time the learner, its loops and its ops", "hdfast bench [--preset reduced|full] [flags]",
                  BenchFlags, bench),
    "doctor": Verb("report versions and devices, and check that they work", "hdfast doctor", DoctorFlags, doctor),
}


def _dispatch(args: list[str]) -> int:
    if args[:1] == ["help"]:
        args = [*args[1:2], "--help"]
    if not args or args[0] in ("-h", "--help"):
        verbs = "\n".join(f"  hdfast {name:<9}  {verb.about}" for name, verb in VERBS.items())
        print(f"{OVERVIEW}\n\nverbs:\n{verbs}")
        return 0
    name, *rest = args
    if name == "--version":
        print(f"hdfast {__version__}")
        return 0
    if name not in VERBS:
        if name.startswith("-"):
            raise ConfigError(f"a verb comes before the flags, as in `hdfast train {name} ...`; verbs: "
                              f"{', '.join(VERBS)}")
        raise ConfigError(f"unknown verb '{name}' (verbs: {', '.join(VERBS)}){nearest(name, VERBS)}")
    verb = VERBS[name]
    parsed = parse(rest, verb.flags, with_settings=verb.with_settings, arguments=verb.arguments)
    if parsed.help:
        print(f"usage: {verb.usage}\n\n{verb.run.__doc__}\n")
        print(help_text(verb.flags, with_settings=verb.with_settings, width=shutil.get_terminal_size().columns), end="")
        return 0
    return verb.run(parsed)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code; `argv` without the program's name, None reads the process's own."""
    _open_streams()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold bytes that are not text
    try:
        code = _dispatch(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("\nhdfast: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        if not _reader_went_away():
            raise
        _close_output()
        return NO_READER
    except (ConfigError, OSError, MemoryError, ImportError, RuntimeError) as error:
        said = str(error) if isinstance(error, (ConfigError, RunError)) else of_the_machine(error)
        if not said or os.environ.get("HDFAST_DEBUG") == "1":
            raise
        try:
            sys.stdout.flush()
        except OSError:
            _close_output()
        # On one line, with control characters and undecodable bytes from the command line spelled out.
        print(f"hdfast: error: {spelled_out(' '.join(said.split()))}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1


def _close_output() -> None:
    """Discard the rest of standard output: Python flushes once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_streams() -> None:
    """Open the null device for a closed standard input, output or error: the next opened file would take its number,
    and libraries would print into it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))


def _reader_went_away() -> bool:
    """Whether nobody reads our standard output any more: only then a broken pipe is not our fault."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except io.UnsupportedOperation:
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))
