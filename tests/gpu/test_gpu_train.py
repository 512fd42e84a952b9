"""bench/gpu_train.sh on a CPU with a tiny network: wheels, the limit, what it leaves, and a run that continues."""

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from hdfast.errors import RunError
from hdfast.evaluation import evaluate_run, load_agent

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "bench" / "gpu_train.sh"
FILES = {"summary.json", "summary.txt", "curve.csv", "curve.png", "records.tar.gz", "run.tar.gz.0"}

CLOCK = """
import itertools
from hdfast.run import stopping
reads = itertools.count()
stopping.monotonic = lambda: next(reads) / 300
"""  # of every Python that the script starts: a run gets as far in a second on every machine


def start(tmp_path, *arguments, **environment):
    """Run the script with an interpreter `python` of this one's folder."""
    env = os.environ | {"PYTHON": sys.executable, "CONFIGS": "atari100k cpu debug", "RUN": str(tmp_path / "run"),
                        "WHEELS": str(tmp_path / "wheels"), "SITE": str(tmp_path / "site"), **environment}
    return subprocess.run(["bash", SCRIPT, *map(str, arguments)], env=env, capture_output=True, text=True, timeout=300)


def wheel(folder: Path, text: str) -> None:
    """A wheel of one module `carried` that says `text`, and of the clock."""
    folder.mkdir()
    info = "carried-1.0.dist-info"
    with zipfile.ZipFile(folder / "carried-1.0-py3-none-any.whl", "w") as file:
        file.writestr("carried.py", f"text = {text!r}\n")
        file.writestr("sitecustomize.py", CLOCK)
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.mark.parametrize("name", ["gpu.sh", "gpu_library.sh", "gpu_train.sh"])
def test_the_scripts_are_clean(name):
    beside = Path(sys.executable).parent  # where pip puts it, also if the environment is not active
    program = shutil.which("shellcheck", path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([program, SCRIPT.with_name(name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def sourced(tmp_path, answer: str, then: str) -> subprocess.CompletedProcess:
    """bench/gpu_library.sh with an interpreter that gives one answer, and without nvcc."""
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{answer}\n")
    fake.chmod(0o755)
    program = f"set -e; python={fake}; source bench/gpu_library.sh; find_nvcc() {{ return 1; }}; {then}"
    return subprocess.run(["bash", "-c", program], cwd=ROOT, capture_output=True, text=True)


def test_a_gpu_without_nvcc_and_without_a_library_is_an_error_never_slow_training(tmp_path):
    done = sourced(tmp_path, "echo 9.0", "build _ops")
    assert done.returncode == 1 and "there is a GPU here and no nvcc: carry the built library" in done.stderr


@pytest.mark.parametrize("code", [0, 1])
def test_whether_there_is_a_library_is_asked_of_the_interpreter(tmp_path, code):
    assert sourced(tmp_path, f"exit {code}", "if has_library; then exit 0; else exit 1; fi").returncode == code


@pytest.mark.parametrize("arguments", [(), ("out",), ("out", "ten"), ("out", "-5")])
def test_bad_arguments_are_refused(tmp_path, arguments):
    done = start(tmp_path, *arguments)
    assert done.returncode == 2 and "usage: bench/gpu_train.sh OUT SECONDS" in done.stderr


@pytest.mark.slow
def test_a_run_stops_in_time_and_goes_on_from_what_it_left(tmp_path, monkeypatch):
    out, steps = tmp_path / "out", []
    wheel(tmp_path / "wheels", "from a wheel")
    for turn in range(2):
        done = start(tmp_path, out, 1, "--device", "cpu", "--run.steps", "100_000", "--run.eval_every", "0")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "stopped by run.max_seconds, saved at step" in done.stdout
        assert ("resumed from" in done.stdout) == (turn == 1)
        assert {path.name for path in out.iterdir()} == FILES
        found = json.loads((out / "summary.json").read_text())
        assert found["kept"] == "run" and found["starts"] == turn + 1 and found["task"] == "atari_pong"
        steps.append(int(done.stdout.split("saved at step ")[1].split()[0].replace(",", "")))
        if turn == 0:
            shutil.rmtree(tmp_path / "run")
    assert (tmp_path / "site" / "carried.py").read_text() == "text = 'from a wheel'\n"
    assert 0 < steps[0] < steps[1]
    # If OUT is emptied between two calls the run continues from where it is stored. Now nothing of it may come back.
    shutil.rmtree(out)
    done = start(tmp_path, out, 1, "--device", "cpu", "--run.steps", "100_000", KEEP_MIB="0")
    found = json.loads((out / "summary.json").read_text())
    assert "resumed from" in done.stdout and found["kept"] == "nothing" and found["starts"] == 3, done.stderr
    assert {path.name for path in out.iterdir()} == FILES - {"run.tar.gz.0"}
    # A run and a checkpoint that are too large leave the policy, which can be played.
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import gpu_policy
    import gpu_results
    assert gpu_results.keep(tmp_path / "run", out, 100_000) == "policy"
    file = out / "policy.safetensors"
    assert file.stat().st_size <= 100_000 and gpu_results.keep(tmp_path / "run", tmp_path, 1000) == "nothing"
    subprocess.run([sys.executable, SCRIPT.with_name("gpu_policy.py"), file, tmp_path / "played"], check=True,
                   env=os.environ | {"PYTHONPATH": str(ROOT)})
    whole, played = (load_agent(tmp_path / name, "cpu").state_dict() for name in ("run", "played"))
    same = {name for name, x in played.items() if torch.equal(x, whole[name].half().to(x.dtype))}
    wanted = {name for name in whole if name.startswith(gpu_policy.PARTS)}
    assert wanted and wanted <= same and {name for name in whole if name.startswith("model/decoder.")} - same
    assert len(evaluate_run(tmp_path / "played", episodes=1, seed=0, device="cpu").scores) == 1
    with pytest.raises(RunError, match="is there already"):
        gpu_policy.unpack(file, tmp_path / "played")


@pytest.mark.slow
def test_a_finished_run_is_summed_up(tmp_path):
    done = start(tmp_path, tmp_path / "out", 200, "--device", "cpu", "--run.steps", "110")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (found["status"], found["agent_steps"], found["frames"], found["updates"]) == ("finished", 110, 440, 7)
    assert found["steps_per_second"] > 0 and found["updates_per_second"] > 0 and found["wall_seconds"] > 0
    assert found["evaluation"]["episodes"] == 2 and found["published"]["human"] == 14.6
    rows = list(csv.DictReader((tmp_path / "out" / "curve.csv").open()))
    assert [row["frames"] for row in rows] == ["20000"]
    assert float(rows[0]["evaluation"]) == found["evaluation"]["score"] and float(rows[0]["dreamerv3"]) == -20.65
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES | {"policy.gif"}
