"""`hdfast sweep`: tasks x seeds, each a run of its own, scheduled by Ray; resumable at any time by the same command."""

import re
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hdfast.commands.sweep_ray import Ending, Pool
from hdfast.commands.watch import HEADER, REFRESH, RunState, Table, read_run, table
from hdfast.config import Config
from hdfast.errors import ConfigError
from hdfast.run.jsonl import tail
from hdfast.run.progress import LiveTable, compact, duration, points, text_table
from hdfast.run.settings import check_settings
from hdfast.tasks import ATARI26

TAIL = 15  # lines of a failed run's output that are shown
MOST_RUNS = 10_000
NAMED = 8  # finished runs that the first line of a sweep names


@dataclass
class Job:
    """One run of a sweep: its configuration, its directory and the words of its train command."""

    config: Config
    logdir: Path
    arguments: list[str]
    settled: str = ""  # finished, failed, or stopped by its own time limit, once that is known
    tries: int = 0
    tenth: int = -1  # of its steps, that the last line about it told

    @property
    def name(self) -> str:
        return f"{self.config.task}, seed {self.config.seed}"

    def seen(self) -> RunState:
        """State of the run by its files, and by what the sweep knows better."""
        run = replace(read_run(self.logdir), total=self.config.run.steps)
        if self.settled:
            return replace(run, state=self.settled)
        if run.state == "running" or _finished(run):
            return run
        return replace(run, state="retried" if self.tries > 1 else "waiting", detail="")


def plan(presets: Sequence[str], settings: Mapping[str, Any], tasks: Iterable[str], seeds: Iterable[str]) -> list[Job]:
    """The runs of a sweep, all tasks of the first seed first.

    tasks: names, or atari26; empty takes the task of presets and settings. seeds: numbers and ranges such as 0-4. The
    logdir gets /{task}/{seed} where it names neither. Raises ConfigError where anything cannot be used, before
    anything starts: a run that lies there with other settings, too.
    """
    for name in ("task", "seed"):
        if name in settings:
            raise ConfigError(f"sweep takes --{name}s, which may name several, instead of --{name}")
    logdir = str(settings.get("logdir", "runs"))
    if "{timestamp}" in logdir:
        raise ConfigError(f"sweep continues its runs by their directory, so --logdir cannot hold {{timestamp}}, got "
                          f"{logdir}")
    if "{task}" not in logdir and "{seed}" not in logdir:
        logdir = str(Path(logdir) / "{task}" / "{seed}")
    given = [one for name in tasks for one in (ATARI26 if name == "atari26" else (name,))]
    given = given or [Config.preset(*presets, **settings).task]
    ranges = [seed_range(text) for text in seeds]
    if (runs := sum(map(len, ranges)) * len(given)) > MOST_RUNS:
        raise ConfigError(f"a sweep has at most {MOST_RUNS:,} runs, got {runs:,}; name fewer --seeds or --tasks")
    jobs: dict[tuple[str, int], Job] = {}
    for seed in (seed for found in ranges for seed in found):
        for task in given:
            config = Config.preset(*presets, **{**settings, "task": task, "seed": seed, "logdir": logdir})
            path = config.run_dir().absolute()
            config = replace(config, logdir=str(path))
            others = [f"--{name}={value}" for name, value in settings.items() if name != "logdir"]
            jobs[config.task, seed] = Job(config, path, [
                "train", *(["--configs", *presets] if presets else []), *others, f"--task={config.task}",
                f"--seed={seed}", f"--logdir={path}"])
    if len({job.logdir for job in jobs.values()}) < len(jobs):
        raise ConfigError(f"--logdir {logdir} is the same for several runs; put {{task}} and {{seed}} into it")
    for job in jobs.values():
        check_settings(job.logdir, job.config)
    return list(jobs.values())


def seed_range(text: str) -> range:
    """'3' -> 3; '0-4' -> 0, 1, 2, 3, 4. Raises ConfigError for anything else."""
    match = re.fullmatch(r"(\d{1,10})(?:-(\d{1,10}))?", text)
    if not match or int(match[2] or match[1]) < int(match[1]):
        raise ConfigError(f"--seeds takes numbers and ranges, as in --seeds 0-4 or --seeds 0,2,5-7, got '{text}'")
    return range(int(match[1]), int(match[2] or match[1]) + 1)


@dataclass
class Sweep:
    """Brings every job to its end with a scheduler; one that is killed from outside is started again `retries` times
    and goes on from its last checkpoint, one that fails by itself is reported and left."""

    jobs: list[Job]
    scheduler: Pool | None
    retries: int
    live: LiveTable | None = None

    def run(self) -> list[Job]:
        """Start all jobs that are not finished, follow them, and return those that failed."""
        for job in self.jobs:
            if _finished(job.seen()):
                job.settled = "finished"
            else:
                self._start(job)
        while not all(job.settled for job in self.jobs):
            self._show()
            for job, ending in self.scheduler.ended(REFRESH):
                self._ended(job, ending)
        self._show()
        return [job for job in self.jobs if job.settled == "failed"]

    def _start(self, job: Job) -> None:
        job.tries += 1
        self.scheduler.start(job, job.arguments, job.logdir)

    def _ended(self, job: Job, ending: Ending) -> None:
        run, how = job.seen(), ending.reason or f"exit code {ending.code}"
        if ending.code == 0 and _finished(run):
            job.settled = "finished"
            score = run.score if run.evaluation is None else run.evaluation
            self._say(f"{job.name}: finished" + ("" if score is None else f", score {points(score)}"))
        elif ending.code == 0 and read_run(job.logdir).state == "stopped":
            job.settled = "stopped"
            self._say(f"{job.name}: saved at step {run.step} after run.max_seconds; the same command goes on")
        elif ending.died and job.tries <= self.retries:
            self._say(f"{job.name}: died ({how}); started again, retry {job.tries} of {self.retries}")
            self._start(job)
        else:
            job.settled, output = "failed", job.logdir / "output.log"
            end = b"\n    ".join([b"", *tail(output)[-TAIL:]]).decode(errors="replace")
            self._say(f"{job.name}: failed ({how}); the end of {output}:{end}")

    def _show(self) -> None:
        """Draw the table; where no terminal is, tell of each run that starts or has done another tenth of its steps."""
        if self.live:
            self.live.show(*self.summary())
            return
        for job in (job for job in self.jobs if not job.settled):
            run = job.seen()
            if run.state == "running" and job.tenth != (tenth := 10 * run.step // run.total):
                job.tenth = tenth
                self._say(f"{job.name}: running, step {compact(run.step)}/{compact(run.total)}"
                          + ("" if run.score is None else f", score {points(run.score)}"))

    def summary(self) -> Table:
        """Title with the time left for all, and the table of all runs."""
        states = [job.seen() for job in self.jobs]
        title, rows = table(_root(self.jobs), states)
        rate = sum(run.rate or 0 for run in states if run.state == "running")
        left = sum(max(0, run.total - run.step) for run in states if run.state not in ("finished", "failed"))
        return title + (f"; about {duration(left / rate)} left" if rate and left else ""), rows

    def _say(self, text: str) -> None:
        if self.live:
            self.live.message(text)
        else:
            print(text, flush=True)


def sweep(jobs: list[Job], *, retries: int, device: str, **resources: Any) -> bool:
    """Run the jobs of `plan` to their end, with a table of all; returns whether all are finished.

    `resources` are those of Pool. Ctrl-C and SIGTERM end every run with its state saved. Raises ConfigError where Ray
    is missing or a run does not fit, RunError where Ray does not start.
    """
    if all(_finished(job.seen()) for job in jobs):
        print(_text(Sweep(jobs, None, retries=0)))
        return True
    print(f"sweep: {announcement(jobs)}; starting Ray", flush=True)
    pool = Pool(device=device, **resources)
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        with LiveTable.on_terminal(HEADER) or nullcontext() as live:
            runs = Sweep(jobs, pool, retries=retries, live=live)
            failed = runs.run()
    except (KeyboardInterrupt, SystemExit):
        print("\nhdfast: stopping; every run saves its state", file=sys.stderr)
        raise
    finally:
        pool.stop()
    if not live:
        print(_text(runs))
    return not failed


def announcement(jobs: list[Job]) -> str:
    """What is about to happen: how many runs there are, where, and which of them are finished."""
    root = _root(jobs)
    done = [str(job.logdir.relative_to(root)) for job in jobs if _finished(job.seen())]
    names = ", ".join([*done[:NAMED], *([f"{len(done) - NAMED} more"] if len(done) > NAMED else [])])
    return (f"{len(jobs)} run{'s' * (len(jobs) != 1)} in {root}, "
            + (f"{len(done)} finished before ({names}), " if done else "") + f"{len(jobs) - len(done)} to run")


def _text(runs: Sweep) -> str:
    title, rows = runs.summary()
    return text_table([HEADER, *rows]) + "\n" + title


def _finished(run: RunState) -> bool:
    return run.state == "finished" and run.step >= run.total


def _root(jobs: list[Job]) -> Path:
    """The directory above all runs, and above the folders of their tasks."""
    parents = [set(job.logdir.parents[1:]) for job in jobs]
    return max(set.intersection(*parents), key=lambda path: len(path.parts))

