"""The learning runs: games x seeds x harmony modes by `hdfast sweep`, one thread a run.

    python bench/learning/run.py --tasks krull,boxing --seeds 0-2 --modes rectified,off --logdir runs/learning

Every run is in LOGDIR/MODE/TASK/SEED; the presets are atari100k and cpu, --configs names others. A run ends with 100
episodes of evaluation, and as many of random play are measured. All other flags are those of `hdfast sweep` and its
settings, as --run.steps 10000 or --cpus 2, and win over those here. The same command continues stopped runs and skips
finished ones; seed 0 of everything comes first.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY") or "passive"  # before torch is imported

from hdfast.cli import SweepFlags
from hdfast.commands import sweep
from hdfast.config import opt
from hdfast.errors import ConfigError, RunError
from hdfast.flags import HARMONY_MODE, parse
from hdfast.machine import usable_cores

PRESETS = ("atari100k", "cpu")
SETTINGS = {"device": "cpu", "run.threads": 1, "env.num_threads": 1,
            "run.eval_every": 0, "run.eval_episodes": 100, "run.eval_random": True}
"""One thread a run; one evaluation at the end, long enough to tell scores apart, and random play by the same."""


@dataclass(frozen=True)
class LearningFlags(SweepFlags):
    modes: tuple = opt(("rectified", "off"), "harmony modes, each a method of its own: rectified, off, plain")


def jobs(arguments: list[str]) -> tuple[list[sweep.Job], LearningFlags]:
    """The runs of a command line, all of the first seed first; ConfigError for what cannot be used."""
    parsed = parse(arguments, LearningFlags, with_settings=True)
    own, settings = parsed.own, SETTINGS | parsed.settings
    if parsed.help or not own.tasks:
        raise ConfigError(f"name the games with --tasks, as in\n{__doc__.splitlines()[2].strip()}")
    if HARMONY_MODE in settings:
        raise ConfigError("the harmony modes are --modes here, which may name several, instead of --harmony")
    logdir = str(settings.pop("logdir", "runs/learning"))
    found = [job for mode in own.modes for job in sweep.plan(
        parsed.presets or PRESETS,
        settings | {HARMONY_MODE: mode, "logdir": f"{logdir}/{mode}/{{task}}/{{seed}}"}, own.tasks, own.seeds)]
    return sorted(found, key=lambda job: job.config.seed), own


def main(arguments: list[str]) -> int:
    """Run them all; 0 if every run is finished, 1 if one failed or was stopped, 2 for a wrong command."""
    try:
        found, own = jobs(arguments)
        done = sweep.sweep(found, retries=own.retries, device="cpu", address=own.ray_address,
                           cpus=own.cpus or usable_cores(), cpus_per_job=own.cpus_per_job,
                           jobs_per_gpu=own.jobs_per_gpu)
    except (ConfigError, RunError) as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
