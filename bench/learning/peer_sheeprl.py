"""Train sheeprl's DreamerV3 by a configuration of hdfast, evaluate it, and write one record of scores and seconds.

    python bench/learning/peer_sheeprl.py --configs atari100k cpu baseline --task atari_krull --seed 0 \\
        --env.backend ale --logdir runs/peer/krull-0

Takes the presets and settings of `hdfast train`; both sides read one configuration, and `sheeprl_settings.py` says it
in sheeprl's terms. sheeprl's own trainer then runs unchanged in its environment (bench/peers/install.py) and plays in
hdfast's environments (`gym_atari.py`). What cannot be matched, after its source (0.8.4), is in `ALWAYS` there and
in every record: how steps count, when the slow critic moves, how weights begin. Matched by its options are networks,
learned initial state, losses, returns and their range, optimizers, when learning starts and how many updates follow; it
has no harmony, so the preset baseline is needed.

The record, `LOGDIR/record.json`: task, method, seed; xs, ys (frames played and score of each training episode);
episodes (scores of the final evaluation, with sampled actions as in training); wall_seconds, cpu_seconds of the
training process from its start to its end, evaluation_wall_seconds and evaluation_cpu_seconds of that of the
evaluation; steps, updates, command, version, notes (what is not the same on both sides), matched (settings that are).
An interrupted training starts over in a new folder; an interrupted evaluation is repeated by the same command.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sheeprl_settings
from export import without_logdir

from hdfast.bench import peers
from hdfast.config import Config, opt
from hdfast.errors import ConfigError, RunError
from hdfast.flags import parse
from hdfast.machine import cpu_name, git_revision
from hdfast.protocol import frames_per_step
from hdfast.report.collect import differs
from hdfast.run.jsonl import read_rows, replace
from hdfast.trainer import EVALUATION, TRAIN_ENVS, stream_seed

METHOD = "sheeprl DreamerV3"  # and in brackets the presets, as in the names of our methods
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class PeerFlags:
    episodes: int = opt(100, "episodes of the final evaluation", low=1, high=1_000_000)


def job(config: Config, episodes: int) -> dict[str, Any]:
    """The input of the peer's process; ConfigError if sheeprl cannot run the configuration."""
    run = config.run
    return {"settings": sheeprl_settings.translate(config), "task": config.task,
            "env": sheeprl_settings.environment(config), "threads": run.threads, "episodes": episodes,
            "eval_envs": run.eval_envs, "train_seed": stream_seed(config.seed, TRAIN_ENVS, 0),
            "eval_seed": stream_seed(config.seed, EVALUATION, run.steps)}


def prepare(logdir: Path, work: dict[str, Any]) -> bool:
    """Write the job; whether its training ended before. ConfigError if the folder holds anything else."""
    file, ended = logdir / "job.json", (logdir / "training.json").is_file()
    if ended and file.is_file() and json.loads(file.read_text()) == json.loads(json.dumps(work)):
        return True
    if logdir.exists() and any(logdir.iterdir()):
        raise ConfigError(f"{logdir} must be a new folder, or one in which the same command ended its training; "
                          "delete it, or name another --logdir")
    replace(file, json.dumps(work, indent=2).encode())
    return False


def measured(verb: str, logdir: Path) -> dict[str, float]:
    """Run one part in the peer's environment -> its wall and CPU seconds, children included; RunError if it fails.
    """
    path = os.pathsep.join(filter(None, [str(peers.ROOT), os.environ.get("PYTHONPATH")]))
    command = [str(peers.python("sheeprl")), str(HERE / "sheeprl_run.py"), verb, str(logdir)]
    start = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path, "OMP_WAIT_POLICY": "passive"},
                               stdout=2)  # ours holds only the record's path
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RunError(f"sheeprl's process ended with code {process.returncode} in `{verb}`; its output is above; "
                       "fix that and run the command again, in a new --logdir if it was training")
    return {"wall_seconds": time.perf_counter() - start, "cpu_seconds": usage.ru_utime + usage.ru_stime}


def record(config: Config, logdir: Path, training: dict[str, float], evaluation: dict[str, float],
           command: str) -> dict[str, Any]:
    """The record of a run, from the files of its processes in `logdir` and their seconds."""
    found = json.loads((logdir / "evaluation.json").read_text())
    rows, frames = read_rows(logdir / "episodes.jsonl"), frames_per_step(config)
    return {
        "task": config.task, "method": METHOD + differs(config), "seed": config.seed, "finished": True,
        "frames": found["steps"] * frames, "total": config.run.steps * frames,
        "xs": [row["step"] * frames for row in rows], "ys": [row["score"] for row in rows],
        "episodes": found["episodes"], **training, **{f"evaluation_{name}": x for name, x in evaluation.items()},
        "steps": found["steps"], "updates": found["updates"], "command": command,
        "commit": git_revision() or "", "processor": cpu_name(),
        "version": ", ".join(f"{name} {number}" for name, number in found["versions"].items()),
        "notes": sheeprl_settings.notes(config), "matched": sheeprl_settings.matched(config)}


def main(args: list[str]) -> int:
    """Train, evaluate, write the record; the exit codes are those of `hdfast train`."""
    try:
        parsed = parse(args, PeerFlags, with_settings=True)
        if parsed.help:
            print(__doc__)
            return 0
        config = parsed.config()
        logdir, work = config.run_dir(), job(config, parsed.own.episodes)
        if not peers.python("sheeprl").exists():
            raise ConfigError("sheeprl is not installed; run `python bench/peers/install.py sheeprl`, and name its "
                              "folder in HDFAST_PEERS if it is not in the cache")
        spent = logdir / "training.json"
        if not prepare(logdir, work):
            replace(spent, json.dumps(measured("train", logdir)).encode())
        evaluation = measured("evaluate", logdir)
        command = shlex.join(["python", "bench/learning/peer_sheeprl.py", *without_logdir(args)])
        whole = record(config, logdir, json.loads(spent.read_text()), evaluation, command)
        replace(logdir / "record.json", json.dumps(whole, indent=2).encode() + b"\n")
    except (ConfigError, RunError) as error:
        print(f"peer_sheeprl: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    print(logdir / "record.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
