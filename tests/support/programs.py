"""Programs that tests run as processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command(*words: str, code: int | None = 0, **environment: str) -> subprocess.CompletedProcess:
    """Run a command in the folder of the project, which must end with `code` (None: with any)."""
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert code in (None, done.returncode), done.stderr[-3000:]
    return done


def python(*words: str, **options) -> subprocess.CompletedProcess:
    """`command` with this interpreter."""
    return command(sys.executable, *words, **options)
