"""Does a distracting background starve the reward loss, and do learned weights help? Catch in every mode, many seeds.

    python bench/learning/study.py --jobs 2            # train what is not finished, then write results, figures, page
    python bench/learning/study.py --draw              # figures and page again, from the committed results alone
    python bench/learning/study.py --arms off --seeds 0-1 --run.steps 4000 --logdir runs/try --results runs/try/out

Every run is `hdfast train` in its own process, on one thread, and the same command continues: a run whose record is in
the results is not trained again, on any machine. Other flags are settings of `hdfast train`, the same for all arms;
with settings other than those here, give --logdir and --results.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import study_figures
from study_arms import ARMS, Arm
from study_records import record, reward_error

from hdfast.commands import sweep
from hdfast.commands.sweep_ray import Ending
from hdfast.config import opt
from hdfast.errors import ConfigError, RunError
from hdfast.flags import parse
from hdfast.run.durable import regular
from hdfast.run.jsonl import plain, replace

ROOT = Path(__file__).resolve().parents[2]
BACKGROUND = "noise"
SETTINGS = {
    "run.threads": 1, "env.num_threads": 1, "device": "cpu", "run.video_every": 0, "run.log_every": 400,
    "run.eval_every": 2000, "run.steps": 12_000, "run.prefill": 2048, "optim.actor_lr": 1e-4,
    # The harmony scalars need thousands of updates to follow an image loss of 150; these make an update cheap.
    "run.train_ratio": 64.0, "behavior.horizon": 5, "model.deter": 64, "model.units": 64,
}
"""What the study changes about the preset `catch`; every arm adds its own presets and its background."""
QUIET = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1"}
POLL = 0.2  # seconds
RETRIES = 3


@dataclass(frozen=True)
class StudyFlags:
    arms: tuple = opt((), f"which comparisons: {', '.join(ARMS)}; empty: all")
    seeds: tuple = opt(("0-9",), "numbers and ranges: 0-9")
    jobs: int = opt(2, "runs at the same time, one thread each", low=1, high=1024)
    results: str = opt(str(ROOT / "bench" / "results" / "study"), "folder of the results, one file an arm")
    figures: str = opt("", "folder of the figures; empty: docs/figures, or that of other --results")
    page: str = opt("", "Markdown page whose table is written; empty: docs/harmony.md, or none for other --results")
    draw: bool = opt(False, "train nothing: draw from the results that are there")


@dataclass
class Run(sweep.Job):
    """One run of the study."""

    arm: str = ""

    @property
    def name(self) -> str:
        return f"{self.arm}, seed {self.config.seed}"

    @property
    def command(self) -> str:
        """Its command line, which names no place on a machine."""
        return " ".join(["hdfast", *(word for word in self.arguments if not word.startswith("--logdir="))])

    @property
    def facts(self) -> Path:
        """What a run's own files do not say: CPU seconds of its process, its errors on held-out episodes."""
        return self.logdir.with_name(f"{self.logdir.name}.json")


def plan(arms: Mapping[str, Arm], seeds: Sequence[str], logdir: str, settings: Mapping[str, Any]) -> list[Run]:
    """All runs, each seed of every arm before the next seed; ConfigError as for `hdfast sweep`."""
    runs = []
    for name, arm in arms.items():
        background = {"env.background": BACKGROUND} if arm.background else {}
        jobs = sweep.plan(("catch", *arm.presets), {**SETTINGS, **background, **settings,
                                                    "logdir": f"{logdir}/{name}/{{seed}}"}, (), seeds)
        runs += [Run(job.config, job.logdir, job.arguments, arm=name) for job in jobs]
    return sorted(runs, key=lambda run: run.config.seed)


class Processes:
    """Runs jobs as processes, `jobs` at a time: what `hdfast.commands.sweep` calls a scheduler.

    The CPU seconds of a process are added to its run's facts when it ends, however it ends.
    """

    def __init__(self, jobs: int):
        self.jobs = jobs
        self._waiting: deque[tuple[Run, list[str]]] = deque()
        self._running: list[tuple[Run, subprocess.Popen]] = []

    def start(self, key: Run, arguments: list[str], logdir: Path) -> None:
        """Queue a run."""
        self._waiting.append((key, arguments))

    def ended(self, timeout: float) -> list[tuple[Run, Ending]]:
        """The runs that ended, waiting up to `timeout` seconds for the first."""
        deadline = time.monotonic() + timeout
        while True:
            while self._waiting and len(self._running) < self.jobs:
                self._begin(*self._waiting.popleft())
            codes = [(run, _exit_code(run, child)) for run, child in self._running]
            found = [(run, Ending(code)) for run, code in codes if code is not None]
            self._running = [(run, child) for run, child in self._running if child.returncode is None]
            if found or time.monotonic() > deadline:
                return found
            time.sleep(POLL)

    def stop(self) -> None:
        """Ask every run to save and end, and wait for that."""
        self._waiting.clear()
        for _, child in self._running:
            child.terminate()
        while self._running:
            self.ended(POLL)

    def _begin(self, run: Run, arguments: list[str]) -> None:
        run.logdir.mkdir(parents=True, exist_ok=True)
        with open(run.logdir / "output.log", "ab", opener=regular) as output:
            child = subprocess.Popen([sys.executable, "-m", "hdfast", *arguments], stdin=subprocess.DEVNULL,
                                     stdout=output, stderr=output, env=os.environ | QUIET, start_new_session=True)
        self._running.append((run, child))


def _exit_code(run: Run, child: subprocess.Popen) -> int | None:
    """Exit code of a process that has just ended, its CPU seconds noted; None while it runs."""
    pid, status, used = os.wait4(child.pid, os.WNOHANG)
    if pid == 0:
        return None
    child.returncode = os.waitstatus_to_exitcode(status)
    add_facts(run, cpu_seconds=facts(run).get("cpu_seconds", 0.0) + used.ru_utime + used.ru_stime)
    return child.returncode


def facts(run: Run) -> dict[str, Any]:
    """The notes next to a run's directory; empty at first."""
    try:
        return json.loads(run.facts.read_bytes())
    except FileNotFoundError:
        return {}


def add_facts(run: Run, **found: Any) -> None:
    """Note more of a run."""
    replace(run.facts, json.dumps(plain(facts(run) | found)).encode())


def train(runs: list[Run], jobs: int) -> list[Run]:
    """Bring every run to its end; returns those that failed. Ctrl-C and SIGTERM end them with their state saved."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    print(sweep.announcement(runs), flush=True)
    processes = Processes(jobs)
    try:
        return sweep.Sweep(runs, processes, retries=RETRIES).run()
    finally:
        processes.stop()


def collect(runs: list[Run], results: Path) -> None:
    """Add the records of finished runs to the results, one file an arm.

    A record that is there stays, if nothing but the seed tells its command from a new one's.
    """
    before = study_figures.load(results)
    for name in dict.fromkeys(run.arm for run in runs):
        records = {}
        for run in runs:
            if run.arm != name or run.settled != "finished":
                continue
            if "held_out" not in facts(run):
                add_facts(run, held_out=reward_error(run.logdir))
            records[run.config.seed] = record(name, run.logdir, facts(run), run.command)
        settings = {_but_seed(new) for new in records.values()}
        records = {int(old["seed"]): old for old in before.get(name, ()) if _but_seed(old) in settings} | records
        if records:
            text = ",\n".join(json.dumps(plain(records[seed]), separators=(",", ":")) for seed in sorted(records))
            replace(results / f"{name}.json", f"[{text}]\n".encode())


def _but_seed(record: Mapping[str, Any]) -> str:
    return " ".join(word for word in record["command"].split() if word != f"--seed={record['seed']}")


def main(words: list[str]) -> int:
    """Run the command line; returns the exit code."""
    parsed = parse(words, StudyFlags, with_settings=True)
    if parsed.help:
        print(__doc__)
        return 0
    flags, settings = parsed.own, dict(parsed.settings)
    if parsed.presets or "env.background" in settings:
        raise ConfigError("the study chooses --configs and --env.background by its arms; leave them out")
    results, failed = Path(flags.results).resolve(), []
    ours = results == Path(StudyFlags().results).resolve()
    if not flags.draw:
        unknown = [name for name in flags.arms if name not in ARMS]
        if unknown:
            raise ConfigError(f"--arms must be of {', '.join(ARMS)}, got {', '.join(unknown)}")
        logdir = settings.pop("logdir", "runs/study")
        known = {record["command"] for records in study_figures.load(results).values() for record in records}
        planned = plan({name: ARMS[name] for name in flags.arms or ARMS}, flags.seeds, logdir, settings)
        runs = [run for run in planned if run.command not in known]
        print(f"{len(planned) - len(runs)} of {len(planned)} runs have their records in {results}")
        failed = train(runs, flags.jobs) if runs else []
        collect(runs, results)
    figures = Path(flags.figures) if flags.figures else ROOT / "docs" / "figures" if ours else results
    for path in study_figures.figures(results, figures):
        print(f"wrote {path}")
    page = Path(flags.page) if flags.page else ROOT / "docs" / "harmony.md" if ours else None
    if page is None:
        print(study_figures.table(results))
    else:
        study_figures.write_page(page, results)
        print(f"wrote {page}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ConfigError, RunError) as error:
        print(f"study: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        print("\nstudy: interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)
