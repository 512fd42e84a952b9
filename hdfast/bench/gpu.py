"""The measurements of bench/gpu.sh: `python -m hdfast.bench.gpu STEP OUT [--device cuda] [--preset full] [--rung ...]`.

Each step appends its rows to OUT/rows.jsonl. On the CPU (`--device cpu`) everything runs, without graphs;
its times say nothing about a GPU.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hdfast import cuda_graph, ops
from hdfast.bench import gpu_peers, micro, rows, stages, workload
from hdfast.bench.ours import agent_and_batch, build_learner, compile_parts, tensors
from hdfast.bench.serve import Work
from hdfast.config import Config
from hdfast.envs import Step
from hdfast.learner import Uniforms
from hdfast.machine import facts, keep_memory, set_precision, usable_cores
from hdfast.ops import library, products

ENOUGH = 0.05  # seconds that one timed round takes at least
LONG = 8  # times that, for what is reported: clocks have settled
ROUNDS = 5
PRECISIONS = ("fp32", "tf32", "bf16")
RUNGS = {"reference": ("reference", False), "compile": ("reference", False), "native": ("native", False),
         "graphs": ("native", True), "tuned": ("native", True)}
ACTING = (1, 16, 100)  # environments


@dataclass
class Bench:
    """Where, at which sizes and on which rung of the ladder is measured, and where rows go."""

    step: str
    out: Path
    device: torch.device
    preset: str
    rung: str = ""

    def row(self, case: str, precision: str, unit: str, value: float | None, expected: float | None = None,
            note: str = "") -> None:
        if self.device.type != "cuda" or self.preset != "full":
            expected = None  # predictions are of the official sizes on a GPU
        row = {"step": self.step, "case": case, "precision": precision, "value": value, "unit": unit,
               "expected": expected, "note": note}
        with (self.out / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        shown = "failed" if value is None else f"{value:.6g} {unit}"
        shown += "" if expected is None else f", expected {expected:g}"
        print(f"{self.step}: {case} {precision}: {shown} {note}", flush=True)

    def attempt(self, case: str, precision: str, unit: str, measure: Callable[[], tuple]) -> None:
        """A row of what `measure` returns, (value, expected, note), or one that says why there is none."""
        try:
            found = measure()
        except Exception as error:  # the next case may work
            found = None, None, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self.row(case, precision, unit, *found)

    def config(self, precision: str, **overrides: Any) -> Config:
        """The settings of the preset; the precision is put in force too, 'tf32' being float32 on the CPU."""
        name = "fp32" if precision == "tf32" and self.device.type == "cpu" else precision
        return workload.sized(self.preset, device=str(self.device), precision=set_precision(name, self.device),
                              **overrides)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run: Work) -> float:
        """Of one run: the median of rounds of ENOUGH seconds or more, by the host's clock."""
        return self.rounds(run, ENOUGH)[ROUNDS // 2]

    def rounds(self, run: Work, enough: float) -> list[float]:
        """Seconds of one run in ROUNDS rounds of `enough` seconds or more, the fastest first; a graph is captured
        before."""
        for _ in range(cuda_graph.WARMUP + 2):
            run()
        self.wait()
        found, count = [], 1
        while len(found) < ROUNDS:
            start = time.perf_counter()
            for _ in range(count):
                run()
            self.wait()
            taken = time.perf_counter() - start
            if taken < enough and not found:
                count *= 2 if taken > enough / 4 else 8
            else:
                found.append(taken / count)
        return sorted(found)

    def captured(self, run: Work) -> Work:
        """`run` as a graph, which has no cost on the host; on the CPU itself."""
        if self.device.type != "cuda":
            return run
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(cuda_graph.WARMUP):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph, _ = cuda_graph.record(lambda: (run(), ())[1], (), device=self.device, pool=None, generators=())
        return graph.replay


def measure_facts(bench: Bench) -> None:
    """What the machine is, into facts.json."""
    found = facts(bench.device) | {"build": library.build_info(), "torch": torch.__version__}
    (bench.out / "facts.json").write_text(json.dumps(found, indent=2) + "\n")
    bench.row("native library has CUDA code", "", "", float(library.runs_on(torch.device("cuda"))))
    bench.row("torch adds bfloat16 products to float32", "bf16", "", float(products.accumulates(bench.device)))


def measure_micro(bench: Bench) -> None:
    """The assumptions of the performance model."""
    for name, it in micro.all_micro(bench.device, small=bench.preset != "full").items():
        precision = next((p for p in micro.DTYPES if p in name), "fp32")
        bench.config(precision)
        bench.attempt(name, precision, it.unit, lambda it=it: (
            it.figure(bench.seconds(bench.captured(it.run)) / it.repeats), it.assumed, ""))


def measure_stages(bench: Bench) -> None:
    """Each stage of an update in a graph of its own, beside its prediction."""
    for precision in PRECISIONS:
        config = bench.config(precision)
        learner = build_learner(config, bench.device)
        image, sequences = tensors(config, bench.device)
        data = sequences(image)
        u = Uniforms.draw(*data.reward.shape, config.behavior.horizon, config.model.stoch,
                          learner.actor_critic.actor,
                          generator=torch.Generator(bench.device).manual_seed(workload.SEED))
        learner.update(data, u)
        seconds: dict[str, float] = {}
        for name, stage in (stages.model_stages(learner, image, data, u)
                            | stages.behavior_stages(learner, data, u)).items():
            def measure(name=name, stage=stage, precision=precision, seconds=seconds) -> tuple:
                seconds[name] = bench.seconds(bench.captured(stage.run))
                return 1e6 * (seconds[name] - seconds.get(stage.less, 0.0)), stage.predicted.get(precision), ""

            bench.attempt(name, precision, "us", measure)


def measure_update(bench: Bench) -> None:
    """ms of a whole update on one rung of the ladder, in each precision; `tuned`: cuDNN times its algorithms first."""
    rung = bench.rung
    backend, graphs = RUNGS[rung]
    torch.backends.cudnn.benchmark = rung == "tuned"
    ops.set_backend(backend, bench.device)

    for precision in PRECISIONS:
        def measure(precision=precision) -> tuple:
            gc.collect()  # the agent before, whose memory would count
            agent, batch = agent_and_batch(bench.config(precision, backend=backend, cuda_graphs=graphs), bench.device)
            if rung == "compile":
                compile_parts(agent.learner)
            if bench.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            rounds = bench.rounds(lambda: agent.update(batch), LONG * ENOUGH)
            memory = torch.cuda.max_memory_allocated() / 2**20  # 0 on the CPU
            nodes = agent.update_step.nodes() if isinstance(agent.update_step, cuda_graph.Graph) else []
            expected = stages.UPDATE.get(precision) if rung == "graphs" else None
            return (1e3 * rounds[ROUNDS // 2], expected and expected / 1e3, f"{1e3 * rounds[0]:.2f} to "
                    f"{1e3 * rounds[-1]:.2f}, peak {memory:.0f} MiB allocated, graph nodes {nodes}")

        bench.attempt(f"update, {rung}", precision, "ms", measure)


def measure_policy(bench: Bench) -> None:
    """ms of an acting step, image in host memory to action in host memory."""
    for graphs in (False, True):
        for count in ACTING:
            def measure(graphs=graphs, count=count) -> tuple:
                agent, _ = agent_and_batch(bench.config("tf32", cuda_graphs=graphs), bench.device)
                obs = {"image": np.zeros((count, *agent.obs_space.parts[0].shape), np.uint8)}
                no = np.zeros(count, bool)
                step, state = Step(obs, np.zeros(count, np.float32), no, no, no), [agent.init_policy(count)]

                def act() -> None:
                    state[0] = agent.act(step, state[0])[1]

                rounds = bench.rounds(act, LONG * ENOUGH)
                return (1e3 * rounds[ROUNDS // 2], 0.1 if count == 1 and graphs else None,
                        f"{1e3 * rounds[0]:.3f} to {1e3 * rounds[-1]:.3f}")

            way = "graphs" if graphs else "calls"
            bench.attempt(f"acting step, {count} environments, {way}", "tf32", "ms", measure)


def measure_peers(bench: Bench) -> None:
    """ms of a whole update, ours and of the peers that are installed here, in turns."""
    def failed(program: rows.Program, why: str) -> None:
        bench.row(f"update, {program.name}", program.precision, "ms", None, None, why)

    threads = usable_cores()
    with ExitStack() as stack:
        processes = rows.started(stack, gpu_peers.programs(bench.preset, bench.device.type), threads, failed)
        *_, found = rows.measure(processes, "update", preset=bench.preset, threads=threads, rounds=ROUNDS)
    for row in rows.with_ratios(found):
        note = "" if row.ratio is None else f"{row.ratio:.3f} of {row.against}; "
        bench.row(f"update, {row.name}", row.precision, "ms", 1e3 * row.median_s, None,
                  note + ", ".join(f"{name} {version}" for name, version in row.versions.items()))


STEPS: dict[str, Callable[[Bench], None]] = {
    "facts": measure_facts, "micro": measure_micro, "stages": measure_stages, "update": measure_update,
    "policy": measure_policy, "peers": measure_peers}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m hdfast.bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--preset", default="full", choices=tuple(workload.SIZES))
    parser.add_argument("--rung", default="graphs", choices=tuple(RUNGS))
    given = parser.parse_args(words)
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("hdfast.bench.gpu: no usable CUDA device; --device cpu runs everything without one")
    device = torch.device(given.device)
    ops.set_backend("auto", device)
    if device.type == "cpu":
        keep_memory()  # as training does
    STEPS[given.step](Bench(given.step, given.out, device, given.preset, given.rung))


if __name__ == "__main__":
    main()
