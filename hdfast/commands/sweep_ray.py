"""Ray for `hdfast sweep`: places every run on CPU cores and a share of a GPU. Ray is imported here alone.

A run is a process of its own below a Ray worker, so that a crash takes nothing else down. Nodes of a cluster need the
same hdfast and the logdir under the same path.
"""

import math
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdfast.errors import ConfigError, RunError
from hdfast.run.durable import is_held, regular

OBJECT_STORE = 80 << 20  # bytes, near Ray's smallest: no tensors travel through it
LOCK_SECONDS = 120.0  # a run that lost its parent needs this long at most to save and go
STOP_SECONDS = 120.0
POLL = 0.2
# The run ends with SIGTERM, saved, when its worker dies: prctl(PR_SET_PDEATHSIG), which survives exec.
FOLLOW = ("import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0); "
          "signal.pthread_sigmask(signal.SIG_SETMASK, ()); "
          "os.getppid() == int(sys.argv[1]) and os.execv(sys.executable, [sys.executable, *sys.argv[2:]])")


@dataclass(frozen=True)
class Ending:
    """How a run's process ended: its exit code, None where Ray lost it, and what Ray says."""

    code: int | None
    reason: str = ""

    @property
    def died(self) -> bool:
        """Whether it was killed from outside, so that it is worth starting again: it goes on where it was saved."""
        return self.code is None or self.code < 0 or self.code > 128


def run_child(arguments: list[str], logdir: str, threads: int) -> int:
    """Run `python -m hdfast <arguments>` to its end, its output appended to output.log; returns its exit code.

    Canceled or interrupted, it asks the run to save and end, and waits for that.
    """
    folder = Path(logdir)
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_SECONDS
    while is_held(folder) and time.monotonic() < deadline:
        time.sleep(POLL)
    with open(folder / "output.log", "ab", opener=regular) as output:
        child = subprocess.Popen([sys.executable, "-c", FOLLOW, str(os.getpid()), "-m", "hdfast", *arguments],
                                 stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                                 env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"})
    try:
        while child.poll() is None:  # not wait(): Ray's cancellation reaches Python code only
            time.sleep(POLL)
        return child.returncode
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()


class Pool:
    """Runs on a Ray cluster: one of this process's own, or the one at `address`.

    The own cluster has `cpus` cores, 0 all of this machine's; every run takes `cpus_per_job` of them and, unless
    `device` is cpu or there is none, 1 / `jobs_per_gpu` of a GPU. Raises ConfigError where Ray is missing or the
    cluster has too little for one run, RunError where it does not start.
    """

    def __init__(self, *, address: str, cpus: int, cpus_per_job: int, jobs_per_gpu: int, device: str):
        os.environ["RAY_USAGE_STATS_ENABLED"] = os.environ.get("RAY_USAGE_STATS_ENABLED") or "0"
        if not address:  # the own cluster's ports answer only processes that know a word made for this sweep
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        try:
            import ray  # it reads these variables here
        except ImportError as error:
            raise ConfigError("sweep schedules its runs with Ray, which is not installed; pip install 'hdfast[sweep]', "
                              "or start single runs with `hdfast train`") from error
        from hdfast.machine import usable_cores  # and with it torch, for which a finished sweep does not wait
        self._ray = ray
        own = dict(num_cpus=cpus or usable_cores(), include_dashboard=False, object_store_memory=OBJECT_STORE)
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level="error",
                     **({} if address else own))
        except Exception as error:
            first, *_ = str(error).splitlines() or [""]
            raise RunError(f"Ray did not start ({type(error).__name__}: {first}); "
                           + (f"check that a cluster runs at --ray.address {address}" if address else
                              "see its logs below /tmp/ray, or name a running cluster with --ray.address")) from error
        self._threads = cpus_per_job
        self._refs: dict[Any, Any] = {}
        try:
            gpu_share = self._gpu_share(jobs_per_gpu, device, cpus_per_job)
        except BaseException:
            ray.shutdown()
            raise
        self._submit: Callable = ray.remote(num_cpus=cpus_per_job, num_gpus=gpu_share, max_retries=0)(run_child).remote

    def _gpu_share(self, jobs_per_gpu: int, device: str, cpus_per_job: int) -> float:
        found = self._ray.cluster_resources()
        if found.get("CPU", 0) < cpus_per_job:
            raise ConfigError(f"a run takes --cpus_per_job {cpus_per_job}, but the cluster has "
                              f"{found.get('CPU', 0):g} CPU cores; lower it, or raise --cpus")
        if device == "cuda" and not found.get("GPU"):
            raise ConfigError("--device cuda asks for GPUs, but Ray finds none; see `hdfast doctor`, or use --device "
                              "auto")
        return math.floor(1e4 / jobs_per_gpu) / 1e4 if found.get("GPU") and device != "cpu" else 0

    def start(self, key: Any, arguments: list[str], logdir: Path) -> None:
        """Queue one run under a key, by which `ended` names it."""
        self._refs[self._submit(arguments, str(logdir), self._threads)] = key

    def ended(self, timeout: float) -> list[tuple[Any, Ending]]:
        """Runs that ended since the last call; waits up to `timeout` seconds for the first of them."""
        if not self._refs:
            return []
        ready, _ = self._ray.wait(list(self._refs), num_returns=1, timeout=timeout)
        return [(self._refs.pop(ref), self._ending(ref)) for ref in ready]

    def _ending(self, ref: Any) -> Ending:
        errors = self._ray.exceptions
        try:
            return Ending(self._ray.get(ref))
        except errors.RayTaskError as error:  # raised by run_child itself: trying again would not help
            return Ending(1, f"cannot be started: {error.cause}")
        except errors.RayError as error:
            return Ending(None, type(error).__name__)

    def stop(self) -> None:
        """End every run, saved, and the own cluster; nothing is left of it."""
        try:
            for ref in self._refs:
                self._ray.cancel(ref)
            if self._refs:
                self._ray.wait(list(self._refs), num_returns=len(self._refs), timeout=STOP_SECONDS)
        finally:
            self._ray.shutdown()
