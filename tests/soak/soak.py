"""Long runs: does a training process grow or slow down, and do closed environments leave anything behind?

    python tests/soak/soak.py --seconds 600
    python tests/soak/soak.py --updates 100000     that many updates, and nothing else

Half of the time goes to the native operations, a quarter to the reference ones, the rest to environment backends.
Prints one JSON line per part; exit code 1 if something grows beyond its limit. Linux with glibc only.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from measure import Sample, Twin, complaints, growth

from hdfast import machine, ops
from hdfast.agent import Agent
from hdfast.config import Config
from hdfast.envs import make_envs
from hdfast.evaluation import evaluate
from hdfast.trainer import Trainer

PERIOD = 200  # steps between samples: each period holds the same log rows, checkpoints, evaluation and pictures
ENOUGH = 8  # periods that tell a slower update from noise; fewer are reported and not judged
EVALUATIONS = 2  # between samples of a backend
UPDATE_BYTES, DOOR_BYTES, SLOWDOWN = 1024, 256 * 1024, 1.05
TINY = {"env.size": 8, "env.max_episode_frames": 40, "replay.capacity": 1000, "model.deter": 4, "model.units": 4,
        "model.stoch": 2, "model.classes": 2, "model.cnn_depth": 1, "model.bins": 3, "behavior.horizon": 1,
        "run.batch_size": 1, "run.batch_length": 2, "run.prefill": 10, "run.train_ratio": 2.0, "run.eval_episodes": 2,
        "run.eval_envs": 2}
BACKENDS = {"envpool": {"task": "atari_pong"}, "ale": {"task": "atari_pong", "env.backend": "ale"},
         "gym": {"task": "gym_CartPole-v1"}, "dummy": {"task": "dummy"}}


class Watched(Trainer):
    """Calls `each` once per `period` steps with the number of updates and the CPU seconds of one, with all its side
    work; the cost of `each` itself is left out."""

    def __init__(self, *args, period: int, each: Callable[[int, float], None], **options):
        super().__init__(*args, **options)
        self._period, self._each, self._mark = period, each, (time.process_time(), 0)

    def _report(self, before: int) -> None:
        super()._report(before)
        if self.step % self._period == 0:
            self._each(self.updates, (time.process_time() - self._mark[0]) / (self.updates - self._mark[1]))
            self._mark = time.process_time(), self.updates


class Record:
    """What a process holds after each period. In its first periods and when it is `late`: also what an update costs
    against a fresh process in turn. Machines slow down by tens of percent for minutes, and two processes of one program
    may differ by some percent from beginning to end."""

    def __init__(self, late: Callable[[int], bool], fresh: Callable[[], float]):
        self.samples: list[Sample] = []
        self.cost: list[float] = []  # CPU seconds of an update
        self.first: list[float] = []  # the same here over that in a fresh process
        self.last: list[float] = []
        self._late, self._fresh = late, fresh

    def __call__(self, updates: int, cost: float) -> None:
        self.cost.append(cost)
        if len(self.first) <= ENOUGH:
            self.first.append(cost / self._fresh())
        elif self._late(updates):
            self.last.append(cost / self._fresh())
        self.samples.append(Sample.now(updates, self.samples[-1] if self.samples else None))

    def findings(self) -> dict:
        """What the process held and what an update cost; `found` lists the faults."""
        found, slower = complaints(self.samples, UPDATE_BYTES), None
        if len(self.last) >= ENOUGH:
            slower = slowdown(self.first[1:], self.last)  # without the warm-up
            if slower[1] > SLOWDOWN:
                found.append(f"an update costs {slower[0]:.3f} times what it did at the start, and no less than "
                             f"{slower[1]:.3f}, limit {SLOWDOWN}")
        return {"samples": len(self.samples), "growth per update": growth(self.samples),
                "last": vars(self.samples[-1]), "ms per update": 1000 * statistics.mean(self.cost),
                "slowdown, with 95 %": slower, "pairs": [len(self.first) - 1, len(self.last)], "found": found}


def slowdown(first: Sequence[float], last: Sequence[float]) -> tuple[float, float, float]:
    """The ratio of two medians, and its 95 % interval by the bootstrap: periods vary by a tenth and more."""
    def ratio(first, last):
        return statistics.median(last) / statistics.median(first)
    rng = random.Random(0)
    drawn = sorted(ratio(rng.choices(first, k=len(first)), rng.choices(last, k=len(last))) for _ in range(2000))
    return ratio(first, last), drawn[50], drawn[-50]


def schedule(period: int) -> dict[str, int]:
    """Settings that put the same work into every period: four log rows, two checkpoints, an evaluation, pictures."""
    return {"run.log_every": period // 4, "run.save_every": period // 2, "run.eval_every": period,
            "run.video_every": period}


def train(backend: str, device: str = "cpu", period: int = PERIOD, *, steps: int = 10**9, seconds: float = 0) -> dict:
    """Train the tiny network for a number of steps or seconds: what it held, what it cost, what it wrote."""
    began = time.monotonic()

    def late(updates: int) -> bool:
        return 3 * (time.monotonic() - began) >= 2 * seconds if seconds else 3 * updates >= 2 * steps

    with Twin([sys.executable, __file__, "--twin", backend, "--device", device, "--period", str(period)]) as twin:
        record = Record(late, twin.cost)
        updates, written = run(backend, device, period, record, steps=steps, seconds=seconds)
    return {"part": f"train {backend}", "updates": updates, **record.findings(), "bytes written": written}


def run(backend: str, device: str, period: int, each: Callable[[int, float], None], *, steps: int = 10**9,
        seconds: float = 0) -> tuple[int, dict[str, int]]:
    """The training itself -> updates, bytes written."""
    settings = TINY | schedule(period) | {"run.steps": steps, "run.max_seconds": seconds}
    config = Config.preset("debug", task="dummy", device=device, **settings)
    chosen = machine.pick_device(device)
    envs = make_envs(config.task, config.env, seed=0)
    try:
        with tempfile.TemporaryDirectory() as folder, ops.use(backend):
            agent = Agent(envs.obs_space, envs.act_space, config, device=chosen)
            trainer = Watched(config, agent, envs, folder, period=period, each=each)
            trainer.run()
            return trainer.updates, sizes(Path(folder))
    finally:
        envs.close()


def answer(backend: str, device: str, period: int) -> None:
    """Be a twin: train a period for every line that comes in, and answer with the cost of an update."""
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1), os.dup2(nowhere, 2)

    def wait() -> None:
        if not sys.stdin.readline():
            raise SystemExit

    def each(updates: int, cost: float) -> None:
        print(cost, file=answers, flush=True)
        wait()

    wait()
    run(backend, device, period, each)


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file and folder of a run directory, by the first part of its name and its ending."""
    whole = {path: [path, *path.rglob("*")] for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
    return {path.name.split(".")[0] + path.suffix: sum(p.stat().st_size for p in inside if p.is_file())
            for path, inside in whole.items()}


def backends(name: str, seconds: float) -> dict:
    """Evaluate a tiny agent again and again, each time in new environments, closed afterwards."""
    config = Config.preset("debug", device="cpu", **TINY | BACKENDS[name])
    envs = make_envs(config.task, config.env, seed=0)
    agent = Agent(envs.obs_space, envs.act_space, config)
    envs.close()
    samples, end = [], time.monotonic() + seconds
    while time.monotonic() < end or len(samples) < 8:
        for _ in range(EVALUATIONS):
            evaluate(agent, config, episodes=2, seed=len(samples))
        samples.append(Sample.now(EVALUATIONS * (len(samples) + 1), samples[-1] if samples else None))
    return {"part": f"backend {name}", "evaluations": samples[-1].count, "growth per evaluation": growth(samples),
            "last": vars(samples[-1]), "found": complaints(samples, DOOR_BYTES)}


def parts(seconds: float, updates: int | None, device: str) -> Iterator[dict]:
    if updates is not None:
        yield train("native", device, steps=updates + TINY["run.prefill"])
        return
    yield train("native", device, seconds=seconds / 2)
    yield train("reference", device, seconds=seconds / 4)
    for name in BACKENDS:
        yield backends(name, seconds / 4 / len(BACKENDS))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600, help="wall time in all (default 600)")
    parser.add_argument("--updates", type=int, help="train natively for so many updates instead")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--twin", help=argparse.SUPPRESS)
    parser.add_argument("--period", type=int, default=PERIOD, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine.keep_memory()
    if options.twin:
        answer(options.twin, options.device, options.period)
    found = []
    for part in parts(options.seconds, options.updates, options.device):
        found += [f"{part['part']}: {text}" for text in part["found"]]
        print(json.dumps(part), flush=True)
    print("\n".join(found) or "nothing grows")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
