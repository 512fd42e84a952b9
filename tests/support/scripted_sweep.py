"""Made-up run directories for tests of the report, from the run's own writers."""

import json
from pathlib import Path

import numpy as np

from hdfast import scores
from hdfast.config import Config
from hdfast.protocol import frames_per_step
from hdfast.run.jsonl import replace
from hdfast.run.logger import Logger
from hdfast.tasks import ATARI26


def write_run(folder: Path, task: str, seed: int, *, presets=("atari100k",), gain: float = 1.0, share: float = 1.0,
              finished: bool = True, evaluations: bool = True, **settings) -> Path:
    """One run: scores along HarmonyDream's published curve times `gain`, with noise, up to `share` of its steps."""
    config = Config.preset(*presets, task=task, seed=seed, **settings)
    path, rng = folder / config.task / str(seed), np.random.default_rng([seed, len(config.task)])
    row = scores.reference(config.task)
    curve = np.array(row["harmonydream"]["curve_mean"] if row else np.linspace(0, 10, 20))
    floor = row["random"] if row else 0.0
    curve = floor + (curve - floor) * gain * rng.uniform(0.75, 1.25)
    last = int(config.run.steps * share)
    path.mkdir(parents=True)
    replace(path / "config.json", config.to_json().encode())
    repeat = frames_per_step(config)
    with Logger(path, action_repeat=repeat) as log:
        for step in np.linspace(0, config.run.steps, 21)[1:].round().astype(int).tolist():
            if step > last:
                break
            mean = float(np.interp(step / config.run.steps, np.linspace(0.05, 1, 20), curve))
            noise = 0.1 * abs(mean - floor) + 1e-3
            log.episode(mean + rng.normal(0, noise), 100, step, step)
            if config.harmony.mode != "off":
                log.scalars({f"train/harmony/{name}_coeff": float(np.exp(rng.normal(low, 0.1) * step / last))
                             for name, low in (("rew", 1.0), ("image", -3.5), ("kl", -1.0))}
                            | {"train/loss/rew": 0.4, "train/loss/image": 90.0, "train/loss/dyn": 3.0,
                               "train/loss/rep": 3.0}, step, step)
            if evaluations:
                found = rng.normal(mean, noise, 10).tolist()
                log.evaluation(found, [100] * 10, step, step)
    replace(path / "meta.json", json.dumps({"status": "finished" if finished else "interrupted",
                                            "finished": last if finished else None, "starts": []}).encode())
    return path


def write_sweep(folder: Path, *, games: int = 26, seeds: int = 5, **settings) -> Path:
    """`games` games with `seeds` runs each below `folder`."""
    for task in ATARI26[:games]:
        for seed in range(seeds):
            write_run(folder, task, seed, **settings)
    return folder
