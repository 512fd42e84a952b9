"""bench/gpu.sh and its Python part without a GPU: all runs on the CPU, failures are recorded, errors are clear."""

import csv
import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench_case import TINY
from capture_safety_case import graphs_alive
from checkout import ROOT
from hdfast.bench import gpu, gpu_peers, micro, report, stages, workload
from hdfast.bench import rows as rows_of
from hdfast.bench.rows import Program
from hdfast.bench.workload import Size

SCRIPT = ROOT / "bench" / "gpu.sh"


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(workload.SIZES, "tiny", Size("for this test", TINY))
    monkeypatch.setattr(gpu, "ENOUGH", 0.0)
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setattr(micro, "REPEATS", 2)


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def run_script(out: Path, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run([str(SCRIPT), str(out)], env=os.environ | {"PYTHON": sys.executable} | env,
                          capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("step", sorted(gpu.STEPS.keys() - {"peers"}))
def test_every_step_runs_on_the_cpu_and_no_case_fails(tiny, tmp_path, step):
    gpu.main([step, str(tmp_path), "--device", "cpu", "--preset", "tiny"])
    found = rows(tmp_path)
    assert found and [row for row in found if row["value"] is None] == []
    assert all(row["expected"] is None for row in found)  # predictions are for a GPU
    report.report(tmp_path)
    with (tmp_path / "rows.csv").open() as file:
        assert [row["case"] for row in csv.DictReader(file)] == [row["case"] for row in found]
    text = (tmp_path / "report.txt").read_text()
    assert all(row["case"] in text for row in found)


SERVED = """\
import sys
from types import SimpleNamespace
from hdfast.bench import serve
now = [0.0]
def work():
    now[0] += float(sys.argv[1])
serve.time = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0])
serve.serve({"update": lambda: work}, {"thing": "1.0"})
"""


def test_peers_take_turns_with_us_and_one_that_fails_is_a_row(tmp_path, monkeypatch):
    def program(name: str, seconds: str, code: str = SERVED) -> Program:
        return Program(name, "torch", (sys.executable, "-c", code, seconds), "tf32")

    monkeypatch.setattr(rows_of, "TURN", 0.0)
    monkeypatch.setattr(gpu_peers, "programs", lambda *_: [
        program("hdfast", "0.001"), program("slow", "0.01"), program("gone", "0", "raise SystemExit('no such thing')")])
    gpu.main(["peers", str(tmp_path), "--device", "cpu"])
    gone, ours, slow = rows(tmp_path)
    assert gone["case"] == "update, gone" and gone["value"] is None and "no such thing" in gone["note"]
    assert ours["case"] == "update, hdfast" and ours["precision"] == "tf32"
    assert (ours["value"], slow["value"]) == (pytest.approx(1), pytest.approx(10))
    assert "0.100 of slow torch tf32; thing 1.0" in ours["note"] and slow["note"].startswith("1.000 of")


def test_peers_that_are_not_installed_are_left_out(monkeypatch, capsys):
    monkeypatch.setattr(gpu_peers, "NAMES", ("pytest", "no_such_peer"))
    found = gpu_peers.programs("full", "cpu")
    assert [(p.name, p.precision) for p in found] == [("hdfast", "tf32"), ("hdfast", "bf16"), ("pytest", "tf32")]
    assert "no_such_peer is left out" in capsys.readouterr().out


def test_our_update_beside_the_peers_is_a_whole_one(tiny):
    for precision in gpu_peers.PRECISIONS:
        gpu_peers.build("tiny", precision, "cpu")()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here: bench/gpu.sh runs the program")
def test_the_program_of_exchanges_compiles_and_wants_a_gpu(tmp_path):
    """For sm_80 and sm_90, through the gate on spills and stack frames."""
    for command in (["cmake", "-S", ROOT, "-B", tmp_path, "-G", "Ninja", "-DHDFAST_CUDA=1",
                     "-DHDFAST_ARCHS=8.0;9.0", f"-DHDFAST_PYTHON={sys.executable}"],
                    ["cmake", "--build", tmp_path, "--target", "micro"]):
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        assert done.returncode == 0 and "ptxas gate" not in done.stdout + done.stderr, done.stdout + done.stderr
    done = subprocess.run([tmp_path / "micro"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("micro: ") and done.stdout == ""


@pytest.mark.parametrize("rung", ["reference", "native", "graphs", "tuned"])
def test_every_rung_of_the_ladder_runs(tiny, tmp_path, rung, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    gpu.main(["update", str(tmp_path), "--device", "cpu", "--preset", "tiny", "--rung", rung])
    assert torch.backends.cudnn.benchmark == (rung == "tuned")
    assert [row["precision"] for row in rows(tmp_path) if row["value"]] == list(gpu.PRECISIONS)


def test_the_stages_predictions_are_those_of_the_update(tiny):
    """Stage by stage they add up to the whole, within the model's own rounding."""
    config = workload.sized("tiny")
    learner = gpu.build_learner(config)
    image, sequences = gpu.tensors(config)
    data = sequences(image)
    u = gpu.Uniforms.draw(3, 2, 2, 2, learner.actor_critic.actor, generator=torch.Generator())
    learner.update(data, u)
    found = stages.model_stages(learner, image, data, u) | stages.behavior_stages(learner, data, u)
    for precision in ("bf16", "tf32"):
        total = sum(stage.predicted.get(precision, 0.0) for stage in found.values())
        assert abs(total - stages.UPDATE[precision]) < 10
    assert all(stage.less in found for stage in found.values() if stage.less)
    gc.collect()
    for name, stage in found.items():  # what a kept graph does to a capture stands in test_capture_safety.py
        stage.run()
        assert graphs_alive() == [], name
    page = (ROOT / "docs" / "notes" / "gpu.md").read_text()
    for name, stage in found.items():
        assert not stage.predicted or f"| {name} | {stage.predicted['bf16']:,} | {stage.predicted['tf32']:,} |" in page


def test_a_case_that_fails_is_a_row_and_the_next_one_runs(tmp_path):
    bench = gpu.Bench("step", tmp_path, torch.device("cuda"), "full")
    bench.attempt("bad", "tf32", "ms", lambda: 1 / 0)
    bench.attempt("good", "tf32", "ms", lambda: (2.0, 4.0, "a note"))
    bad, good = rows(tmp_path)
    assert bad["value"] is None and bad["note"].startswith("ZeroDivisionError")
    assert good == {"step": "step", "case": "good", "precision": "tf32", "value": 2.0, "unit": "ms", "expected": 4.0,
                    "note": "a note"}
    report.report(tmp_path)
    text = (tmp_path / "report.txt").read_text()
    assert "failed" in text and "0.50  a note" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_gpu_the_script_and_the_module_say_so(tmp_path):
    done = run_script(tmp_path)
    assert done.returncode == 1 and "no torch with a usable CUDA device" in done.stderr
    assert "HDFAST_GPU_DEVICE=cpu" in done.stderr and list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit, match="no usable CUDA device"):
        gpu.main(["micro", str(tmp_path)])


def test_the_script_goes_on_after_failures_and_records_them(tmp_path):
    """With an interpreter that fails in one of them."""
    fake, out = tmp_path / "python", tmp_path / "out"
    fake.write_text(f"""#!/bin/sh
case "$*" in
*"gpu facts"*) echo broken; exit 3 ;;
*"bench.report"*) exec {sys.executable} "$@" ;;
*) echo "ran $*" ;;
esac
""")
    fake.chmod(0o755)
    done = run_script(out, PYTHON=str(fake), HDFAST_GPU_DEVICE="cpu")
    status = dict(line.split(",")[:2] for line in (out / "steps.csv").read_text().splitlines())
    assert done.returncode == 1 and status.pop("facts") == "failed with 3"
    assert set(status.values()) == {"ok"} and {"stages", "micro", "policy", "update native", "report"} <= set(status)
    log = (out / "log.txt").read_text()
    assert "broken" in log and "ran -m hdfast.bench.gpu stages" in log
    assert "facts,failed with 3" in (out / "report.txt").read_text() and len(list(out.iterdir())) <= 8


def test_the_memory_checker_sees_every_tensor_by_itself(tmp_path):
    """In one block of torch's cache an overrun would hit another tensor, which no tool can tell."""
    for name, text in (("python", "exit 0"), ("compute-sanitizer", 'echo "$2: ${PYTORCH_NO_CUDA_MEMORY_CACHING-no}"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    run_script(tmp_path / "out", PYTHON=str(tmp_path / "python"), HDFAST_GPU_ONLY="sanitizer",
               PATH=f"{tmp_path}:{os.environ['PATH']}")
    found = (tmp_path / "out" / "sanitizer.txt").read_text()
    assert "memcheck: 1" in found and "racecheck: no" in found and "synccheck: no" in found


def test_the_script_wants_one_folder():
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage:")
