"""A slice of `make faults`: real runs with kills, failing disks and spoiled files; a planted bug that it must find."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parent / "faults" / "run.py"
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="the shim is compiled with g++")


def run(*words):
    return subprocess.run([sys.executable, str(HARNESS), *words], capture_output=True, text=True, timeout=300)


@needs_compiler
@pytest.mark.slow
def test_a_struck_run_goes_on_as_promised(tmp_path):
    done = run("--quick", "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["violations"] == []
    struck = {name: row["times"] for name, row in found["rows"].items()}
    assert sum(times for name, times in struck.items() if "kill" in name.lower() or name.startswith("power cut")) >= 6
    assert found["rows"]["undisturbed twin, bit for bit"]["survived"] == 1
    assert any(name.startswith("spoiled") for name in found["rows"])


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("bug", "only"), [("an update twice", ""), ("no folder synced", "power cut")])
def test_the_harness_finds_a_planted_bug(bug, only):
    done = run("--kills", "4", "--failures", "0", "--damages", "0", "--disks", "0", "--sabotage", bug, "--only", only)
    assert done.returncode == 1 and "VIOLATION" in done.stdout, done.stdout + done.stderr
