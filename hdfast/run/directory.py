"""The run directory: its lock, config.json and meta.json."""

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from hdfast.config import Config
from hdfast.errors import ConfigError, RunError
from hdfast.machine import facts
from hdfast.protocol import Schedule, method_name
from hdfast.run import checkpoint, fields
from hdfast.run.durable import Lock, disk_errors, make_directory, read_bounded
from hdfast.run.jsonl import replace
from hdfast.run.settings import check_settings, saved_config

MOST_STARTS = 100  # that meta.json describes: the first one and the newest


class RunDir:
    """The directory of one run, held by one process at a time.

    Opening makes it, locks it, refuses settings that differ from the run that lies there, and writes config.json and
    meta.json; `warnings` says in full sentences what was wrong there. Raises ConfigError for a directory that cannot be
    used or other settings, RunError where another process trains in it.
    """

    def __init__(self, path: Path, config: Config, device: torch.device):
        self.path, self.warnings = path, []
        try:
            make_directory(self.path)
            self._lock = Lock(self.path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot write in the run directory {self.path}: "
                              f"{error}; choose another --logdir") from error
        try:
            check_settings(self.path, config)
            self._started, self._method = _clocks(), method_name(config)
            self._clear_up()
            meta = read_meta(self.path)
            self._starts = meta.get("starts", [])
            self._forgotten = {clock: meta.get(f"forgotten_{clock}") or 0.0 for clock in self._started}
            self._starts.append({"argv": sys.argv, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "pid": os.getpid(),
                                 "host": platform.node(), **facts(device)})
            while len(self._starts) > MOST_STARTS:
                gone = self._starts.pop(1)
                self._forgotten = {clock: round(total + (gone.get(clock) or 0.0), 1)
                                   for clock, total in self._forgotten.items()}
            replace(self.path / "config.json", config.to_json().encode())
            self.note("running")
        except BaseException:
            self._lock.close()
            raise

    def before(self, clock: str) -> float:
        """What the earlier starts of this run took: `seconds` of wall time, or `cpu_seconds`."""
        return self._forgotten[clock] + sum(start.get(clock) or 0.0 for start in self._starts[:-1])

    def _clear_up(self) -> None:
        """Remove half-written files of a killed process, set a damaged meta.json aside, and note what was wrong."""
        if self._lock.left and self._lock.left["host"] != platform.node():
            self.warnings.append(
                "the process before (pid {pid} on host {host}) was killed. Make sure that it is gone: locks of some "
                "network file systems do not reach other hosts.".format(**self._lock.left))
        with disk_errors("clear up", self.path):
            for half in (*self.path.glob(".*.part"), *self.path.glob("videos/.*.part")):
                half.unlink()
            meta = self.path / "meta.json"
            whole, said = _examined(self.path)
            if meta.is_file() and not whole:
                meta.replace(meta.with_name("meta.json.damaged"))
                self.warnings.append(f"{meta} is damaged and is recreated: earlier starts and their wall time are not "
                                     f"known. The file as it was is meta.json.damaged.{said and f' Its {said}.'}")
            elif not meta.exists() and checkpoint.existing(self.path / "ckpt", None):
                self.warnings.append(f"{meta} is missing and is recreated: earlier starts and their wall time are not "
                                     "known.")

    def note(self, status: str, *, step: int | None = None, finished: bool = False) -> None:
        """Write meta.json: the status, wall and CPU time so far, the step reached; `finished` marks a complete run."""
        spent = {clock: round(now - self._started[clock], 1) for clock, now in _clocks().items()}
        self._starts[-1] |= {"status": status, **spent}
        if step is not None:
            self._starts[-1]["step"] = step
        meta = {"method": self._method, "status": status,
                "finished": self._starts[-1].get("step") if finished else None,
                **{clock: round(self.before(clock) + seconds, 1) for clock, seconds in spent.items()},
                **{f"forgotten_{clock}": seconds for clock, seconds in self._forgotten.items()}, "starts": self._starts}
        meta["checksum"] = checkpoint.text_digest(meta)
        replace(self.path / "meta.json", json.dumps(meta, indent=2).encode() + b"\n")

    def close(self) -> None:
        """Give up the lock; a second call does nothing."""
        self._lock.close()


def _clocks() -> dict[str, float]:
    """Seconds by the wall clock, and CPU seconds of all threads of this process, by their names in meta.json."""
    return {"seconds": time.monotonic(), "cpu_seconds": time.process_time()}


def load_config(logdir: Path) -> Config:
    """The configuration of a run; ConfigError where `logdir` is no run directory, RunError where its file is damaged.
    """
    config = saved_config(logdir)
    if config is None:
        raise ConfigError(f"{logdir} is no run directory: it holds no config.json; give the --logdir of a `hdfast "
                          "train` command")
    return config


def finished_step(path: Path) -> int | None:
    """Environment steps of a run that ended with everything written, or None where it is not known to have ended."""
    return read_meta(path).get("finished")


def run_manifest(found: checkpoint.Checkpoint, schedule: Schedule, num_envs: int) -> dict[str, Any]:
    """The manifest of a run's checkpoint, checked; RunError naming the first field that the run cannot have written."""
    manifest = found.manifest
    said = fields.wrong(manifest, fields.MANIFEST)
    if not said:
        due = schedule.updates_due(found.step)
        played = manifest["replay"].get("steps")
        said = fields.wrong(manifest | {"replay.steps": played}, {
            "step": (f"{found.step}, as in the checkpoint's name", lambda x: x == found.step),
            "updates": (f"at most the {due} that are due by then", lambda x: x <= due),
            "evaluated": (f"at most step {found.step}", lambda x: x <= found.step),
            "replay.steps": (f"{found.step} steps of {num_envs} environments", lambda x: x == found.step / num_envs)})
    if said:
        raise RunError(f"{found.path / checkpoint.MANIFEST}: {said}. Delete that checkpoint to go on from the one "
                       "before, or choose another --logdir.")
    return manifest


def read_meta(path: Path) -> dict[str, Any]:
    """meta.json of the run at `path` without its checksum; empty where it cannot be used."""
    return _examined(path)[0]


def _examined(path: Path) -> tuple[dict[str, Any], str]:
    """meta.json of a run, or nothing and which field is of another kind, or '' where all of it is unreadable."""
    try:
        data = json.loads(read_bounded(path / "meta.json"))
        intact = data.pop("checksum", None) in (None, checkpoint.text_digest(data))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}, ""
    if not intact:
        return {}, ""
    said = fields.wrong(data, fields.META)
    return ({}, said) if said else (data | {"starts": data.get("starts") or []}, "")
