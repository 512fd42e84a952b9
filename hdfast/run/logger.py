"""Records of a run: JSON lines always, TensorBoard where it is installed, the progress line, videos.

`step` is environment frames (agent steps times action repeat) on every axis. Scalar names: docs/metrics.md.
TensorBoard is imported here alone.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hdfast.run.durable import disk_errors, sync_directory
from hdfast.run.jsonl import RECORDS, JsonLines, is_number, read_rows, replace, rewind
from hdfast.run.pictures import gif_bytes, png_bytes, strip_image
from hdfast.run.progress import ProgressLine

CHARTS = {  # TensorBoard's page "Custom scalars": {section: {chart: the scalars in it, as patterns}}
    "score": {"score": ("episode/score", "eval/score"), "human-normalized": ("eval/human_normalized",)},
    "world model": {"losses": (r"train/loss/(rew|con|image)",), "KL": (r"train/(kl|loss/dyn|loss/rep)",),
                    "harmony coefficients": (r"train/harmony/\w+_coeff",),
                    "harmonized terms": (r"train/harmony/\w+_term",)},
    "behavior": {"return and value": (r"train/(ret|val|slowval)",), "entropy": ("train/rand/action",)},
    "speed": {"frames and updates per second": (r"fps/\w+",), "where the time goes": (r"timer/\w+",)},
}
MOST_PICTURES = 50  # of each kind in videos/; older ones are deleted
BOARD_BYTES = 512 << 20  # of all event files of a run; beyond it they get numbers, but no more pictures
PAUSES = ("eval", "save")  # timers whose time does not count against fps/*


class Logger(AbstractContextManager):
    """Writes metrics.jsonl, scores.jsonl, eval.jsonl, console.log, events.out.tfevents* and videos/ of a run directory.

    `resume_step` is the agent step of the checkpoint that the run goes on from, `marks` what `mark` returned for it:
    rows written after it are dropped, so nothing counts twice, and a file that is not what it was then is named. With
    None the run starts over, and records that are there are set aside as *.jsonl.old. On a terminal it shows a live
    line, elsewhere plain lines; console.log is written always. `listeners` are called with every row of metrics.jsonl.
    Every method that writes raises RunError, with the remedy, where the disk refuses. Usable as a context manager; not
    thread-safe. `progress`, `message` and `finish` are those of the progress line.
    """

    def __init__(self, logdir: Path, *, action_repeat: int, resume_step: int | None = None,
                 marks: Mapping[str, Any] | None = None, task: str = "",
                 listeners: Sequence[Callable[[dict[str, Any]], None]] = ()):
        self.logdir = logdir
        self.action_repeat, self._listeners = action_repeat, listeners
        with disk_errors("create", self.logdir):
            self.logdir.mkdir(parents=True, exist_ok=True)
        notes = _prepare(self.logdir, None if resume_step is None else resume_step * action_repeat, marks)
        before = [seconds for row in read_rows(self.logdir / RECORDS[0]) if is_number(seconds := row.get("seconds"))]
        self._began = time.monotonic() - max(before, default=0.0)
        self._metrics, self._scores, self._evals = (JsonLines(self.logdir / name) for name in RECORDS)
        self._line = ProgressLine(self.logdir / "console.log", task=task, action_repeat=action_repeat)
        self.progress, self.message, self.finish = self._line.show, self._line.message, self._line.finish
        self._timers: dict[str, float] = {}
        self._mark = None if resume_step else (time.monotonic(), 0, 0)  # when, agent step, update of the last row
        self._board: TensorBoardFile | None = None
        try:
            self._board = TensorBoardFile(self.logdir, 0 if resume_step is None else resume_step * action_repeat + 1)
        except ImportError as error:
            self.message(f"TensorBoard is not written: {error}; `pip install tensorboard` adds it, metrics.jsonl has "
                         "the same numbers")
        for note in notes:
            self.message(note)

    def __exit__(self, *_: object) -> None:
        self.close()

    def scalars(self, values: Mapping[str, float], agent_step: int, update: int) -> dict[str, float]:
        """Record the scalars of one log interval; call it once per interval.

        Adds fps/policy, fps/train, timer/* since the last call and usage/ram, and returns all of them.
        """
        row = {**values, **self._rates(agent_step, update), **_memory()}
        self._record(row, agent_step, update)
        return row

    def episode(self, score: float, length: int, agent_step: int, update: int) -> None:
        """Record a finished training episode: sum of rewards, number of actions."""
        row = {"episode/score": score, "episode/length": length}
        self._scores.append({"step": agent_step * self.action_repeat, **row})
        self._record(row, agent_step, update)

    def evaluation(self, scores: Sequence[float], lengths: Sequence[int], agent_step: int, update: int, *,
                   cut: int = 0, human_normalized: float | None = None, success: float | None = None) -> None:
        """Record one evaluation: score and length of each of its episodes (one or more), of which a time limit ended
        `cut`, and the share of successful ones where it is known; again at a step replaces it.
        """
        row = {"eval/score": float(np.mean(scores)), "eval/score_std": float(np.std(scores)),
               "eval/length": float(np.mean(lengths))}
        if human_normalized is not None:
            row["eval/human_normalized"] = human_normalized
        if success is not None:
            row["eval/success"] = success
        self._repeat_evaluation(agent_step)
        self._evals.append({**self._where(agent_step, update), **row, "scores": scores, "lengths": lengths,
                            "cut": cut})
        self._record(row, agent_step, update)

    def video(self, name: str, frames: np.ndarray, agent_step: int, *, fps: float = 15) -> Path:
        """Save frames (T, h, w, c) uint8 as videos/<name>-<frames>.gif and show them in TensorBoard; returns the path.
        """
        shown = gif_bytes(frames, fps=fps, scale=1)
        return self._picture(name, "gif", gif_bytes(frames, fps=fps), name, shown, frames.shape[1:], agent_step)

    def openloop(self, grid: np.ndarray, agent_step: int, *, context: int) -> Path:
        """Save open-loop predictions (T, 3*h, n*w, c) uint8 as report-openloop GIF and PNG strip; returns the PNG."""
        name, strip = "report/openloop/image", strip_image(grid, context=context)
        self.video(name, grid, agent_step, fps=10)
        data = png_bytes(strip)
        return self._picture(name, "png", data, "report/openloop/strip", data, strip.shape, agent_step)

    @contextmanager
    def timer(self, name: str) -> Iterator[None]:
        """Count the time of the block towards timer/<name>, a share (0 to 1) of the log interval's wall time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._timers[name] = self._timers.get(name, 0.0) + time.perf_counter() - start

    def mark(self) -> dict[str, dict[str, int]]:
        """Put every record on the disk; returns what `marks` takes when the run goes on from here."""
        with disk_errors("write", self.logdir):
            sync_directory(self.logdir)
        return {file.path.name: file.mark() for file in (self._metrics, self._scores, self._evals)}

    def close(self) -> None:
        """Leave the last progress line standing and close every file; a second call does nothing."""
        self._line.close()
        for file in (self._metrics, self._scores, self._evals, self._board):
            if file is not None:
                file.close()

    def _where(self, agent_step: int, update: int) -> dict[str, float]:
        return {"step": agent_step * self.action_repeat, "agent_step": agent_step, "update": update,
                "seconds": round(time.monotonic() - self._began, 3)}

    def _record(self, row: Mapping[str, float], agent_step: int, update: int) -> None:
        whole = {**self._where(agent_step, update), **row}
        self._metrics.append(whole)
        for listener in self._listeners:
            listener(dict(whole))
        if self._board:
            self._board.scalars(row, agent_step * self.action_repeat)

    def _repeat_evaluation(self, agent_step: int) -> None:
        """Drop an evaluation of the same step, made before a crash that came ahead of the next checkpoint."""
        path, step = self._evals.path, agent_step * self.action_repeat
        if any(row.get("step", 0) >= step for row in read_rows(path)):
            self._evals.close()
            rewind(path, None, step - 1)
            self._evals = JsonLines(path)

    def _rates(self, agent_step: int, update: int) -> dict[str, float]:
        """fps/* and timer/* since the last call; a resumed run has them from its second call on."""
        now, timers, mark = time.monotonic(), self._timers, self._mark
        self._timers, self._mark = {}, (now, agent_step, update)
        if mark is None or now <= mark[0]:
            return {}
        wall = now - mark[0]
        busy = max(1e-9, wall - sum(timers.get(name, 0.0) for name in PAUSES))
        frames = (agent_step - mark[1]) * self.action_repeat
        return {"fps/policy": frames / busy, "fps/train": (update - mark[2]) / busy,
                **{f"timer/{name}": seconds / wall for name, seconds in timers.items()}}

    def _picture(self, name: str, ending: str, data: bytes, tag: str, shown: bytes, shape: Sequence[int],
                 agent_step: int) -> Path:
        """Put `data` into videos/, of whose kind the newest MOST_PICTURES stay, and `shown` into TensorBoard under
        `tag`; what has no step in its name is not ours. Returns the path."""
        step, folder, name = agent_step * self.action_repeat, self.logdir / "videos", name.replace("/", "-")
        path, kind = folder / f"{name}-{step:09d}.{ending}", re.compile(rf"{name}-([0-9]{{9,}})\.{ending}")
        replace(path, data)
        with disk_errors("delete old pictures in", folder):
            there = [(int(found[1]), one) for one in folder.iterdir() if (found := kind.fullmatch(one.name))]
            for _, old in sorted(there)[:-MOST_PICTURES]:
                old.unlink()
        if self._board and self._board.size() + len(shown) <= BOARD_BYTES:
            self._board.picture(tag, shown, shape, step)
        return path


def _prepare(logdir: Path, last_step: int | None, marks: Mapping[str, Any] | None) -> list[str]:
    """Cut the records back to the checkpoint at `last_step` frames, or set them aside for a new run; returns what to
    tell."""
    if last_step is not None:
        marks = marks or {}
        counts, wrong = zip(*(rewind(logdir / name, marks.get(name), last_step) for name in RECORDS), strict=True)
        dropped = f"dropped {sum(counts)} record rows written after the checkpoint at frame {last_step:,}"
        return [*[dropped] * any(counts), *(f"warning: {what}" for what in wrong if what)]
    moved = [path for path in (logdir / name for name in RECORDS) if path.is_file() and path.stat().st_size]
    with disk_errors("rename records in", logdir):
        for path in moved:
            path.replace(path.with_name(path.name + ".old"))
    return [f"no checkpoint here: earlier {', '.join(p.name for p in moved)} kept as *.old"] if moved else []


def _memory() -> dict[str, float]:
    """usage/ram: resident memory of this process in GiB; empty where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return {}
    import resource

    return {"usage/ram": pages * resource.getpagesize() / 2**30}


class TensorBoardFile:
    """One TensorBoard event file, written and flushed at once. Raises ImportError where tensorboard is missing.

    Points of older files at `purge_step` or beyond disappear from the display. torch's SummaryWriter would do, but its
    thread answers a full disk with a traceback beside our error.
    """

    def __init__(self, logdir: Path, purge_step: int):
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
            from torch.utils.tensorboard.summary import custom_scalars
        except Exception as error:  # a protobuf that does not fit raises its own kinds
            raise ImportError(f"tensorboard cannot be imported ({error})") from error
        self._event, self._summary = Event, Summary
        files = list(logdir.glob("events.out.tfevents.*.hdfast"))
        older = [path.name.split(".")[3] for path in files]
        stamp = max([int(time.time()), *(int(s) + 1 for s in older if s.isdecimal())])  # files are read by name
        self.path = logdir / f"events.out.tfevents.{stamp}.hdfast"
        with disk_errors("open", self.path):
            self._older_bytes = sum(path.stat().st_size for path in files)
            self._file = open(self.path, "xb")
        self._writer = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))
        self._write(summary=custom_scalars({section: {
            chart: ["Multiline", [f"^{tag}$" for tag in tags]] for chart, tags in charts.items()}
            for section, charts in CHARTS.items()}))

    def size(self) -> int:
        """Bytes of all event files of the run."""
        return self._older_bytes + self._file.tell()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point per scalar at `step` frames."""
        self._write(step=step, summary=self._summary(
            value=[self._summary.Value(tag=name, simple_value=float(x)) for name, x in values.items()]))

    def picture(self, name: str, data: bytes, shape: Sequence[int], step: int) -> None:
        """A PNG or GIF (which TensorBoard animates) of shape (h, w, c) at `step` frames."""
        image = self._summary.Image(height=shape[0], width=shape[1], colorspace=shape[2], encoded_image_string=data)
        self._write(step=step, summary=self._summary(value=[self._summary.Value(tag=name, image=image)]))

    def _write(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        with disk_errors("write", self.path):
            self._writer.write(event.SerializeToString())
            self._file.flush()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with disk_errors("write", self.path):
            self._file.close()
