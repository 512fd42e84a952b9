"""The two diagrams of docs/how_it_works.md: one update, and how data flow through a run. `make figures` draws them."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hdfast.report.style import INK, METHODS, MUTED, OTHERS
from hdfast.run.jsonl import replace

MODEL, BEHAVIOR, DATA, DISK = OTHERS[0], METHODS["HarmonyDream"], OTHERS[1], MUTED
HEIGHT = 0.62  # of a box; places are in the same units, about an inch


class Box(NamedTuple):
    """A box around (x, y), with a title in bold and a line below it."""

    x: float
    y: float
    title: str
    line: str
    color: str
    width: float = 1.72


class Arrow(NamedTuple):
    """From one box to another; `curve` bends it, `label` is written at its middle, moved by `at`."""

    start: str
    end: str
    label: str = ""
    at: tuple[float, float] = (0.0, 0.12)
    curve: float = 0.0


UPDATE_BOXES = {
    "batch": Box(1.0, 2.3, "batch", "T steps of B sequences", DATA),
    "encoder": Box(3.1, 2.3, "encoder", "frames to embeddings", MODEL),
    "rssm": Box(5.2, 2.3, "RSSM", "T steps of the GRU and latents", MODEL, 1.9),
    "heads": Box(7.5, 2.3, "decoder and heads", "image, reward, continue", MODEL, 1.8),
    "harmony": Box(9.7, 2.3, "harmony loss", "3 learned weights", MODEL),
    "adam": Box(11.8, 2.3, "Adam", "of the world model", MODEL),
    "imagine": Box(5.2, 0.9, "imagination", "H steps of RSSM and actor", BEHAVIOR, 1.9),
    "predict": Box(7.5, 0.9, "predictions", "reward, continue, value", BEHAVIOR),
    "returns": Box(9.7, 0.9, "lambda-returns", "and their range", BEHAVIOR),
    "actor": Box(11.8, 1.3, "actor loss, Adam", "policy gradient, entropy", BEHAVIOR, 1.8),
    "critic": Box(11.8, 0.45, "critic loss, Adam", "two-hot, slow critic", BEHAVIOR, 1.8),
}
UPDATE_ARROWS = (
    Arrow("batch", "encoder"), Arrow("encoder", "rssm"), Arrow("rssm", "heads"), Arrow("heads", "harmony"),
    Arrow("harmony", "adam"),
    Arrow("rssm", "harmony", "KL of posterior and prior", (0.0, 0.6), -0.33),
    Arrow("rssm", "imagine", "every posterior state\nis a start: N = T B", (-0.85, 0.0)),
    Arrow("imagine", "predict"), Arrow("predict", "returns"), Arrow("returns", "actor"), Arrow("returns", "critic"),
)
FLOW_BOXES = {
    "envs": Box(1.2, 2.9, "environments", "on their own thread", DATA),
    "record": Box(3.7, 2.9, "record", "frame, reward, flags", DATA),
    "replay": Box(6.2, 2.9, "replay", "in GPU or host memory", DATA),
    "batch": Box(8.7, 2.9, "batch", "windows of T steps", DATA),
    "update": Box(11.2, 2.9, "update", "the learner, see above", MODEL),
    "act": Box(3.7, 1.5, "act", "filter, policy, sample", BEHAVIOR),
    "parameters": Box(8.7, 1.5, "parameters", "one arena for each optimizer", MODEL, 2.0),
    "chunks": Box(6.2, 0.4, "replay/", "chunks with CRC-32", DISK),
    "ckpt": Box(8.7, 0.4, "ckpt/", "parameters, optimizers", DISK),
    "rows": Box(11.2, 0.4, "*.jsonl, videos/", "metrics, scores, pictures", DISK),
    "eval": Box(1.2, 0.4, "evaluation", "whole episodes, fresh seeds", DISK, 1.9),
}
FLOW_ARROWS = (
    Arrow("envs", "record"), Arrow("record", "replay", "append"), Arrow("replay", "batch", "draw"),
    Arrow("batch", "update"), Arrow("update", "parameters", "Adam", (0.4, -0.05)),
    Arrow("parameters", "act", "read by the next step", (-0.75, 0.12)),
    Arrow("record", "act", "observe", (0.4, 0.0)), Arrow("act", "envs", "action", (-0.25, -0.2)),
    Arrow("replay", "chunks"), Arrow("parameters", "ckpt"), Arrow("update", "rows"), Arrow("act", "eval"),
)


def figures(out: Path) -> None:
    """Write update.png and data_flow.png into a folder; RunError if the disk refuses."""
    replace(out / "update.png", draw(UPDATE_BOXES, UPDATE_ARROWS, (12.9, 3.2)))
    replace(out / "data_flow.png", draw(FLOW_BOXES, FLOW_ARROWS, (12.4, 3.4)))


def draw(boxes: Mapping[str, Box], arrows: Sequence[Arrow], size: tuple[float, float]) -> bytes:
    """A diagram as PNG."""
    import matplotlib
    from matplotlib.figure import Figure

    out = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must change nothing
        figure = Figure(figsize=size, dpi=110)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, size[0]), ylim=(0, size[1]))
        axes.axis("off")
        patches = {name: _box(axes, box) for name, box in boxes.items()}
        for arrow in arrows:
            _arrow(axes, arrow, boxes, patches)
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _box(axes: Any, box: Box) -> Any:
    from matplotlib.patches import FancyBboxPatch

    corner = (box.x - box.width / 2, box.y - HEIGHT / 2)
    patch = FancyBboxPatch(corner, box.width, HEIGHT, boxstyle="round,pad=0,rounding_size=0.08", linewidth=1.6,
                           edgecolor=box.color, facecolor="white", zorder=2)
    axes.add_patch(patch)
    axes.text(box.x, box.y + 0.12, box.title, ha="center", va="center", fontsize=11, fontweight="bold", color=INK)
    axes.text(box.x, box.y - 0.14, box.line, ha="center", va="center", fontsize=8.5, color=MUTED)
    return patch


def _arrow(axes: Any, arrow: Arrow, boxes: Mapping[str, Box], patches: Mapping[str, Any]) -> None:
    start, end = boxes[arrow.start], boxes[arrow.end]
    axes.annotate("", (end.x, end.y), (start.x, start.y), zorder=1, arrowprops={
        "arrowstyle": "-|>", "color": INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 2,
        "connectionstyle": f"arc3,rad={arrow.curve}", "patchA": patches[arrow.start], "patchB": patches[arrow.end]})
    axes.text((start.x + end.x) / 2 + arrow.at[0], (start.y + end.y) / 2 + arrow.at[1], arrow.label, ha="center",
              va="center", fontsize=8.5, color=MUTED)
