"""Pictures of a run: animations (GIF, MP4), open-loop prediction grids and strips, the learning curve.

Images are uint8 (h, w, c) with c = 1 (gray) or 3 (RGB); of 2 channels the third color is left dark, of 4 the last is
not shown. Pillow, imageio and matplotlib are imported here alone.
"""

import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hdfast.errors import RunError
from hdfast.run.durable import disk_errors
from hdfast.run.jsonl import is_number, read_object, read_rows, replace
from hdfast.run.progress import points, short
from hdfast.scores import curve_frames, reference

GREEN, RED = (0, 200, 80), (230, 60, 50)  # border of context frames, border of predicted frames
VIEWABLE = 256  # pixels on the short side that an animation is enlarged to
ROWS = ("truth", "model", "error")
RANDOM_PLAY = "random.json"


def save_animation(path: Path, frames: np.ndarray, *, fps: float = 15) -> Path:
    """Write frames (T, h, w, c) uint8 as .gif or .mp4, enlarged to 256 pixels or more.

    Raises ValueError for other shapes or endings, RunError where the file or the MP4 encoder is missing.
    """
    if path.suffix == ".gif":
        replace(path, gif_bytes(frames, fps=fps))
    elif path.suffix == ".mp4":
        _save_mp4(path, _check_frames(frames), fps)
    else:
        raise ValueError(f"an animation ends in .gif or .mp4, got '{path.name}'; rename it")
    return path


def gif_bytes(frames: np.ndarray, *, fps: float = 15, scale: int | None = None) -> bytes:
    """Endless GIF of frames (T, h, w, c) uint8; one palette for all frames, lossless up to 256 colors."""
    from PIL import Image

    frames = _check_frames(frames)
    scale = scale or _viewable(frames)
    index, palette = _palette(frames)

    def images() -> Iterator[Any]:
        for frame in index:
            image = Image.fromarray(_enlarge(frame, scale))
            image.putpalette(palette)
            yield image

    stream, out = images(), io.BytesIO()
    first = next(stream)
    # GIF counts in hundredths of a second, and viewers slow anything under two of them down to ten.
    first.save(out, "GIF", save_all=True, append_images=stream, duration=max(20, round(100 / fps) * 10), loop=0,
               optimize=False)
    return out.getvalue()


def png_bytes(image: np.ndarray) -> bytes:
    """PNG of one image (h, w, c) uint8."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(_check_frames(image[None])[0].squeeze(-1) if image.shape[-1] == 1 else image).save(out, "PNG")
    return out.getvalue()


def openloop_grid(truth: np.ndarray, model: np.ndarray, context: int) -> np.ndarray:
    """Truth, model and error of n sequences as frames: (T, n, h, w, c) float 0..1 twice -> (T, 3*h, n*w, 3) uint8.

    The rows are truth, model and (model - truth + 1) / 2, where gray means right. The columns are the sequences; each
    has a green border while the model sees the truth (`context` steps) and a red one where it predicts alone. Gray
    images become RGB so that the borders have a color. As `report` of the official agent.
    """
    truth, model = colors(truth), colors(model)
    if truth.shape != model.shape or truth.ndim != 5 or truth.shape[-1] not in (1, 3):
        raise ValueError("truth and model must both be (T, n, h, w, c) with c from 1 to 4, got "
                         f"{truth.shape} and {model.shape}; pass the two image tensors unchanged")
    steps, n, h, w, _ = truth.shape
    rows = np.stack([truth, model, (model - truth + 1) / 2], 2)  # (T, n, 3, h, w, c)
    tiles = (np.clip(rows, 0, 1) * 255).round().astype(np.uint8).reshape(steps, n, 3 * h, w, -1)
    tiles = np.repeat(tiles, 3, -1) if tiles.shape[-1] == 1 else tiles
    edge = np.ones((3 * h, w), bool)
    line = max(1, h // 64)
    edge[line:-line, line:-line] = False
    tiles[:context, :, edge] = GREEN
    tiles[context:, :, edge] = RED
    return tiles.transpose(0, 2, 1, 3, 4).reshape(steps, 3 * h, n * w, 3)


def strip_image(grid: np.ndarray, *, context: int, columns: int = 12, sequences: int = 2) -> np.ndarray:
    """Still of an open-loop grid for reading: (T, 3*h, n*h, 3) uint8 -> one labeled image (H, W, 3) uint8.

    Time steps run left to right, at equal distances after the last context step; a sequence is a block of three rows.
    """
    from PIL import Image, ImageDraw, ImageFont

    steps, height, width, _ = _check_frames(grid).shape
    side = height // 3
    count = min(sequences, width // side)
    chosen = _strip_steps(steps, context, columns)
    scale = max(1, -(-96 // side))
    tile, left, top, gap = side * scale, 88, 34, 10
    tall, group = 3 * tile, 8  # group: space between what was seen and what was predicted
    ahead = [group * (t >= context and context > 0) for t in chosen]
    canvas = Image.new("RGB", (left + len(chosen) * tile + max(ahead) + gap, top + count * (tall + gap)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=17)
    for column, t in enumerate(chosen):
        x = left + column * tile + ahead[column]
        text, color = (f"t={t}", _dark(GREEN)) if t < context else (f"+{t - context + 1}", _dark(RED))
        draw.text((x + tile / 2, top / 2), text, fill=color, font=font, anchor="mm")
        for n in range(count):
            image = _enlarge(grid[t, :, n * side:(n + 1) * side], scale)
            canvas.paste(Image.fromarray(image), (x, top + n * (tall + gap)))
    for n, (row, label) in itertools.product(range(count), enumerate(ROWS)):
        y = top + n * (tall + gap) + row * tile + tile / 2
        draw.text((left - 12, y), label, fill="black", font=font, anchor="rm")
    return np.asarray(canvas)


def colors(images: np.ndarray) -> np.ndarray:
    """Images (..., c) of up to 4 channels as gray or RGB."""
    if images.shape[-1] == 2:
        return np.concatenate([images, np.zeros_like(images[..., :1])], -1)
    return images[..., :3] if images.shape[-1] == 4 else images


def _check_frames(frames: np.ndarray) -> np.ndarray:
    frames = colors(frames)
    if frames.ndim != 4 or frames.dtype != np.uint8 or frames.shape[-1] not in (1, 3) or 0 in frames.shape:
        raise ValueError(f"frames must be uint8 (T, h, w, c) with c from 1 to 4, got {frames.dtype} {frames.shape}; "
                         "stack single images along a new first axis and scale floats to 0..255")
    return frames


def _viewable(frames: np.ndarray) -> int:
    return max(1, -(-VIEWABLE // min(frames.shape[1:3])))


def _enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    return image.repeat(scale, 0).repeat(scale, 1)


def _dark(color: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple(int(0.7 * channel) for channel in color)


def _strip_steps(steps: int, context: int, columns: int) -> list[int]:
    """First and last context step, then predicted steps at equal distances up to the last one."""
    context = min(context, steps)
    seen = sorted({0, context - 1}) if context else []
    if context == steps:
        return seen
    return seen + sorted({int(t) for t in np.linspace(context, steps - 1, max(1, columns - len(seen))).round()})


def _palette(frames: np.ndarray) -> tuple[np.ndarray, bytes]:
    """Palette indices (T, h, w) uint8 and the RGB palette for all frames: exact up to 256 colors, an octree beyond."""
    from PIL import Image

    rgb = np.broadcast_to(frames, (*frames.shape[:3], 3))
    image = Image.fromarray(rgb.reshape(-1, *rgb.shape[2:]))
    method = Image.Quantize.MEDIANCUT if image.getcolors(256) else Image.Quantize.FASTOCTREE
    image = image.quantize(256, method, dither=Image.Dither.NONE)
    return np.asarray(image).reshape(frames.shape[:3]), bytes(image.getpalette())


def _save_mp4(path: Path, frames: np.ndarray, fps: float) -> None:
    try:
        import imageio_ffmpeg  # noqa: F401 (the encoder imageio looks for)
        from imageio.v2 import get_writer
    except ImportError as error:
        raise RunError(f"cannot write {path}: MP4 needs the ffmpeg encoder; `pip install imageio-ffmpeg`, or choose a "
                       "name that ends in .gif") from error
    scale = _viewable(frames)
    beside = path.with_name(f".part.{path.name}")
    with disk_errors("write", path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.unlink(missing_ok=True)
            with get_writer(beside, fps=fps, codec="libx264", quality=8, macro_block_size=2) as writer:
                for frame in frames:
                    image = _enlarge(frame, scale)
                    odd = [(0, side % 2) for side in image.shape[:2]]  # the codec wants even sides
                    image = np.pad(image, [*odd, (0, 0)], mode="edge")
                    writer.append_data(np.broadcast_to(image, (*image.shape[:2], 3)))
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


# The colors of Okabe and Ito, told apart by color-blind readers; line styles differ as well.
BLUE, SKY, VERMILION, PURPLE, GRAY = "#0072B2", "#56B4E9", "#D55E00", "#AA4499", "#666666"
PUBLISHED = {"harmonydream": ("HarmonyDream", VERMILION, "-"), "dreamerv3": ("DreamerV3", PURPLE, "-")}


def learning_curve(path: Path, logdir: Path, *, task: str) -> Path:
    """Draw scores over environment frames from a run's scores.jsonl and eval.jsonl, as PNG.

    Where the task has reference scores, random and human play are
    horizontal lines and the published mean curves run along, cut to the frames of this run. Raises ImportError where
    matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, MaxNLocator
    except Exception as error:  # a broken installation, or an MPLBACKEND of a notebook, raises its own kinds
        raise ImportError(f"matplotlib cannot be imported ({error})") from error

    episodes = numeric(read_rows(logdir / "scores.jsonl"), "step", "episode/score")
    evals = numeric(read_rows(logdir / "eval.jsonl"), "step", "eval/score", "eval/score_std")
    figure = Figure(figsize=(9, 5.6), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    steps = np.concatenate([episodes[:, 0], evals[:, 0]])
    last = max(1.0, steps.max()) if len(steps) else 1000.0
    spans = [_draw_run(axes, episodes, evals)]
    row = reference(task)
    if row:
        spans += _draw_published(axes, row, last)
    low, high = _limits(np.concatenate(spans))
    played = random_scores(logdir)
    levels = ([("random play", row["random"], ":"), ("human play", row["human"], "--")] if row else []) + \
             ([("random play in this run", float(np.mean(played)), "-.")] if played else [])
    low, high = _draw_levels(axes, levels, low, high)
    axes.set(xlim=(0, last * 1.02), ylim=(low, high), xlabel="environment frames", ylabel="score of an episode")
    title = task.removeprefix("atari_").replace("_", " ").title() if task.startswith("atari_") else task
    axes.set_title(title, loc="left", fontweight="bold")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short(x)))
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 4, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.10g}"))
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if not len(steps):
        axes.text(0.5, 0.5, "no finished episode yet", transform=axes.transAxes, ha="center", color=GRAY)
    _legend(figure, axes)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    replace(path, out.getvalue())
    return path


def _legend(figure: Any, axes: Any) -> None:
    """Below the plot in two columns: this run on the left, what it is held against on the right."""
    handles, labels = axes.get_legend_handles_labels()
    own = sum("training" in label or "evaluation" in label for label in labels)
    for _ in range(len(labels) - 2 * own if own else 0):
        handles.insert(own, axes.plot([], [], alpha=0)[0])
        labels.insert(own, "")
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def random_scores(logdir: Path) -> list[float]:
    """Scores of the random play that a run measured (run.eval_random); empty where there is none that can be read."""
    found = read_object(logdir / RANDOM_PLAY).get("scores")
    return [float(x) for x in found if is_number(x)] if isinstance(found, list) else []


def numeric(rows: Sequence[dict[str, Any]], *keys: str) -> np.ndarray:
    """(n, keys) floats of the rows that have finite numbers at all keys, by the first of them."""
    found = [values for row in rows if all(map(is_number, values := [row.get(key) for key in keys]))]
    table = np.array(found, float).reshape(len(found), len(keys))
    return table[np.argsort(table[:, 0], kind="stable")]


def _draw_run(axes: Any, episodes: np.ndarray, evals: np.ndarray) -> np.ndarray:
    """Draw this run; returns the scores that must be in view."""
    if len(episodes):
        size = 3 if len(episodes) > 20 else 5
        axes.plot(*episodes.T, "o", color=SKY, markersize=size, alpha=0.6, markeredgewidth=0, label="training episode")
        width = max(min(20, len(episodes) // 8), len(episodes) // 20)
        if width > 1:
            mean = [np.convolve(x, np.full(width, 1 / width), "valid") for x in episodes.T]
            axes.plot(*mean, color=SKY, linewidth=1.8, label=f"mean of {width} training episodes")
    if len(evals):
        steps, mean, std = evals.T
        axes.fill_between(steps, mean - std, mean + std, color=BLUE, alpha=0.15, linewidth=0)
        if len(evals) == 1:
            axes.errorbar(steps, mean, std, color=BLUE, alpha=0.4, capsize=4)
        axes.plot(steps, mean, "o-", color=BLUE, linewidth=2.2, markersize=4, zorder=3,
                  label=f"evaluation, mean ± std over episodes ({_score(mean[-1])} at {short(steps[-1])} frames)")
        return np.concatenate([episodes[:, 1], mean - std, mean + std])
    return episodes[:, 1]


def _draw_published(axes: Any, row: dict[str, Any], last: float) -> list[np.ndarray]:
    """Draw the published mean curves up to `last` frames; returns their scores in view."""
    frames, views = np.array(curve_frames(), float), []
    for method, (name, color, style) in PUBLISHED.items():
        curve = np.array(row[method]["curve_mean"])
        text = f"{name}, published ({_score(row[method]['final_mean'])} at {short(frames[-1])} frames"
        shown = np.unique(np.minimum(frames, last)) if last >= frames[0] else frames[:0]
        scores = np.interp(shown, frames, curve)
        text += ")" if len(shown) else ", outside the plot)"
        axes.plot(shown, scores, style, color=color, linewidth=1.4, label=text)
        views.append(scores)
    return views


def _draw_levels(axes: Any, levels: list[tuple[str, float, str]], low: float, high: float) -> tuple[float, float]:
    """Draw levels (name, score, line style) where they do not squash the rest; returns the widened limits."""
    reach = 1.5 * (high - low)
    for name, level, style in levels:
        near = low - reach <= level <= high + reach
        text = f"{name} ({_score(level)}{'' if near else ', outside the plot'})"
        if near:
            margin = 0.04 * (high - low)
            low, high = min(low, level - margin), max(high, level + margin)
            axes.axhline(level, color=GRAY, linestyle=style, linewidth=1.3, label=text)
        else:
            axes.plot([], [], color=GRAY, linestyle=style, linewidth=1.3, label=text)
    return low, high


def _limits(scores: np.ndarray) -> tuple[float, float]:
    if not len(scores):
        return 0.0, 1.0
    low, high = float(scores.min()), float(scores.max())
    margin = 0.06 * (high - low) or max(1.0, 0.1 * abs(high))
    return low - margin, high + margin


def _score(score: float) -> str:
    return f"{score:.3g}" if abs(score) < 10 else points(score)
