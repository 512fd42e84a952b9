"""What a run leaves: `python bench/gpu_results.py RUN OUT KEEP_MIB`. At most eight files in OUT, none above 15 MiB.

    summary.json, summary.txt   machine, wall time, steps and updates per second, scores beside the published ones
    curve.csv, curve.png        score over frames beside the published curves
    policy.gif                  the newest evaluated episode
    records.tar.gz              every record and the settings, without checkpoints, replay and videos
    run.tar.gz.0, .1            the run, to be continued, if it packs into KEEP_MIB; else as checkpoint.tar.gz.0, .1
                                what `hdfast eval` needs, if that does; else policy.safetensors, the policy in half
                                precision (bench/gpu_policy.py), if that does; else nothing

At the official sizes that is the policy: a checkpoint has 215 MiB and is no part of a run's evidence.
"""

import csv
import io
import json
import shutil
import statistics
import sys
import tarfile
from pathlib import Path
from typing import Any

from gpu_policy import pack

from hdfast import scores
from hdfast.run.jsonl import read_rows
from hdfast.run.pictures import learning_curve

PART = 15 << 20  # bytes
PARTS = 2
RECORDS = ("config.json", "meta.json", "metrics.jsonl", "scores.jsonl", "eval.jsonl", "console.log")


def mean(rows: list[dict], key: str) -> float | None:
    """Mean of a number over the rows that have it."""
    found = [row[key] for row in rows if key in row]
    return statistics.fmean(found) if found else None


def summary(run: Path, task: str) -> dict[str, Any]:
    """Numbers of the whole run; rates are means over the log intervals with updates, without time for evaluations."""
    meta = json.loads((run / "meta.json").read_text())
    metrics, episodes, evals = (read_rows(run / f"{name}.jsonl") for name in ("metrics", "scores", "eval"))
    last, start = (metrics or [{}])[-1], meta["starts"][-1]
    repeat = last["step"] // last["agent_step"] if metrics else 1
    training = [row for row in metrics if row.get("fps/train")]
    frames_rate = mean(training, "fps/policy")
    timers = sorted({key for row in training for key in row if key.startswith("timer/")})
    row, final = scores.reference(task), evals[-1] if evals else {}
    return {
        "task": task, "status": meta["status"], "gpu": start["gpu"], "cpu": start["cpu"], "backend": start["backend"],
        "versions": {name: start["versions"][name] for name in ("python", "hdfast", "torch")}, "git": start["git"],
        "wall_seconds": meta["seconds"], "starts": len(meta["starts"]),
        "agent_steps": last.get("agent_step", 0), "frames": last.get("step", 0), "updates": last.get("update", 0),
        "steps_per_second": frames_rate and frames_rate / repeat, "updates_per_second": mean(training, "fps/train"),
        "gpu_memory_gib": last.get("usage/gpu_mem"),
        "share_of_time": {name: mean(training, name) for name in timers},
        "episodes": len(episodes), "score_last_10_episodes": mean(episodes[-10:], "episode/score"),
        "evaluation": {key: final.get(f"eval/{key}") for key in ("score", "score_std", "human_normalized")}
        | {"frames": final.get("step"), "episodes": len(final.get("scores", []))},
        "published": row and {"random": row["random"], "human": row["human"],
                              **{method: row[method]["final_mean"] for method in scores.METHODS}}}


def curve(run: Path, task: str) -> list[dict[str, Any]]:
    """One row per published point that the run reached: scores since the point before, and the published means."""
    episodes, evals = read_rows(run / "scores.jsonl"), read_rows(run / "eval.jsonl")
    reached = max([row["step"] for row in episodes + evals], default=0)
    row, before, out = scores.reference(task), 0, []
    for i, frames in enumerate(scores.curve_frames()):
        if before < reached:
            here = [[r for r in rows if before < r["step"] <= frames] for rows in (episodes, evals)]
            out.append({"frames": frames, "training": mean(here[0], "episode/score"),
                        "evaluation": mean(here[1], "eval/score"),
                        **({method: row[method]["curve_mean"][i] for method in scores.METHODS} if row else {})})
        before = frames
    return out


def packed(run: Path, names: list[str]) -> bytes:
    """The named files and folders of a run as tar.gz."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz", compresslevel=4) as tar:
        for name in names:
            tar.add(run / name, name)
    return data.getvalue()


def keep(run: Path, out: Path, limit: int) -> str:
    """Leave the run in OUT, or its checkpoint, or its policy, as far as `limit` bytes allow; says what was left."""
    checkpoints = sorted(run.glob("ckpt/[0-9]*"))
    if not checkpoints:
        return "nothing"
    records = [name for name in RECORDS if (run / name).exists()]
    for what, names in (("run", ["ckpt", "replay"]), ("checkpoint", [f"ckpt/{checkpoints[-1].name}"])):
        files = [path for name in names for path in (run / name).rglob("*") if path.is_file()]
        if sum(path.stat().st_size for path in files) > 20 * limit:
            continue  # frames pack well, but not that well
        data = packed(run, records + names)
        if len(data) <= limit:
            for i in range(0, len(data), PART):
                (out / f"{what}.tar.gz.{i // PART}").write_bytes(data[i:i + PART])
            return what
    policy = out / "policy.safetensors"
    pack(run, policy)
    if policy.stat().st_size <= min(limit, PART):
        return "policy"
    policy.unlink()
    return "nothing"


def main(run: Path, out: Path, keep_mib: str) -> None:
    task = json.loads((run / "config.json").read_text())["task"]
    for path in [*out.glob("run.tar.gz.*"), *out.glob("checkpoint.tar.gz.*"), *out.glob("policy.safetensors")]:
        path.unlink()
    found = summary(run, task)
    found["kept"] = keep(run, out, min(PARTS * PART, int(keep_mib) << 20))
    (out / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [f"{name:<24} {value}" for name, value in found.items()]
    points = curve(run, task)
    with (out / "curve.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["frames", "training", "evaluation", *scores.METHODS])
        writer.writeheader()
        writer.writerows(points)
    (out / "summary.txt").write_text("\n".join(lines) + "\n\n" + (out / "curve.csv").read_text())
    (out / "records.tar.gz").write_bytes(packed(run, [name for name in RECORDS if (run / name).exists()]))
    learning_curve(out / "curve.png", run, task=task)
    for gif in sorted(run.glob("videos/eval-policy-*.gif"))[-1:]:
        if gif.stat().st_size <= PART:
            shutil.copy(gif, out / "policy.gif")
    print("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
