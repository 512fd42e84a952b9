"""Folders as runs leave them, for their readers."""

import json
import os
import platform
from pathlib import Path

from hdfast.config import Config


def make_run(path: Path, status="running", *, pid=None, host=None, finished=None, rows=(), evals=(),
             **overrides) -> Path:
    path.mkdir(parents=True)
    config = Config.preset("debug", task="pong", **overrides)
    (path / "config.json").write_text(config.to_json())
    start = {"pid": pid or os.getpid(), "host": host or platform.node()}
    (path / "meta.json").write_text(json.dumps(
        {"method": "HarmonyDream", "status": status, "finished": finished, "starts": [start]}))
    for name, content in (("metrics", rows), ("eval", evals)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def rows(steps, *, rate=10.0, **more):
    return [{"step": 4 * n, "agent_step": n, "update": 0, "seconds": n / rate} | more for n in steps]
