"""Pictures: what is in the files, pixel by pixel where it can be said, and what a learning curve shows."""

import builtins
import io
import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from hdfast.errors import RunError
from hdfast.run.pictures import (
    GREEN,
    RED,
    gif_bytes,
    learning_curve,
    openloop_grid,
    png_bytes,
    save_animation,
    strip_image,
)
from hdfast.scores import reference


def decode(data):
    """Frames of a GIF as RGB (T, H, W, 3) and their durations in ms."""
    image = Image.open(io.BytesIO(data))
    found = [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(image)]
    return np.stack([pixels for pixels, _ in found]), [ms for _, ms in found]


def moving(steps=6, size=64, channels=3):
    """A bright square on a background, one pixel further to the right in every frame."""
    frames = np.full((steps, size, size, channels), 60, np.uint8)
    for t in range(steps):
        frames[t, 10:12, t:t + 2] = 255 - np.arange(channels) * 90
    return frames


# Animations

@pytest.mark.parametrize("channels", [1, 3])
def test_gif_is_lossless_up_to_256_colors_and_large_enough_to_see(tmp_path, channels):
    frames = moving(channels=channels)
    path = save_animation(tmp_path / "deep" / "video.gif", frames, fps=15)
    shown, durations = decode(path.read_bytes())
    assert shown.shape == (6, 256, 256, 3) and durations == [70] * 6
    np.testing.assert_array_equal(shown[:, 1::4, 2::4], np.broadcast_to(frames, (6, 64, 64, 3)))
    assert Image.open(path).info["loop"] == 0 and [p.name for p in path.parent.iterdir()] == ["video.gif"]


def test_gif_of_many_colors_stays_close_and_keeps_what_is_frequent():
    rng = np.random.default_rng(0)
    frames = np.linspace(0, 255, 64)[None, :, None, None] * np.ones((4, 64, 64, 3))
    frames = np.clip(frames + rng.normal(0, 12, frames.shape), 0, 255).astype(np.uint8)
    frames[:, :, :8] = GREEN
    frames[2, 30:32, 40:42] = (250, 20, 240)  # rare, and far from all others
    assert len(np.unique(frames.reshape(-1, 3), axis=0)) > 5000
    shown, _ = decode(gif_bytes(frames, scale=1))
    np.testing.assert_array_equal(shown[:, :, :8], frames[:, :, :8])
    error = np.abs(shown.astype(int) - frames)
    assert error.mean() < 12 and error[2, 30:32, 40:42].max() < 40


def test_gif_of_noise_is_bounded_work():
    frames = np.random.default_rng(0).integers(0, 256, (8, 96, 96, 3), np.uint8)  # nearly every pixel its own color
    shown, _ = decode(gif_bytes(frames, scale=1))
    assert shown.shape == frames.shape and np.abs(shown.astype(int) - frames).mean() < 40


@pytest.mark.parametrize(("fps", "ms"), [(15, 70), (30, 30), (60, 20), (1000, 20), (2, 500)])
def test_gif_speed(fps, ms):
    assert decode(gif_bytes(moving(2, 16), fps=fps))[1] == [ms, ms]


def test_single_frame_and_scale():
    assert decode(gif_bytes(moving(1, 8), scale=3))[0].shape == (1, 24, 24, 3)
    assert decode(gif_bytes(moving(1, 300)))[0].shape == (1, 300, 300, 3)
    assert Image.open(io.BytesIO(png_bytes(moving(1, 8, 1)[0]))).mode == "L"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(moving()[3])))), moving()[3])


@pytest.mark.parametrize("frames", [
    np.zeros((4, 8, 8), np.uint8), np.zeros((4, 8, 8, 5), np.uint8), np.zeros((4, 8, 8, 3), np.float32),
    np.zeros((0, 8, 8, 3), np.uint8)])
def test_bad_frames(frames):
    with pytest.raises(ValueError, match="frames must be uint8 .T, h, w, c. with c from 1 to 4, got"):
        gif_bytes(frames)


def test_bad_endings_and_places(tmp_path):
    with pytest.raises(ValueError, match="ends in .gif or .mp4, got 'video.avi'"):
        save_animation(tmp_path / "video.avi", moving())
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write .*video.gif"):
        save_animation(tmp_path / "file" / "video.gif", moving())


def test_mp4_without_encoder_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("imageio_ffmpeg"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RunError, match="pip install imageio-ffmpeg.*ends in .gif"):
        save_animation(tmp_path / "video.mp4", moving())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("channels", "size", "side", "scale"), [(3, 64, 256, 4), (1, 63, 316, 5)])
def test_mp4(tmp_path, channels, size, side, scale):
    pytest.importorskip("imageio_ffmpeg", reason="needs the optional MP4 encoder, imageio-ffmpeg")
    from imageio.v2 import get_reader

    frames = moving(12, size, channels)
    path = save_animation(tmp_path / "video.mp4", frames, fps=10)
    with get_reader(path) as reader:
        shown = np.stack(list(reader.iter_data()))
        assert reader.get_meta_data()["fps"] == 10
    assert shown.shape == (12, side, side, 3)
    wanted = np.broadcast_to(frames, (12, size, size, 3))[:, 20:60, :60].astype(int)
    assert np.abs(shown[:, ::scale, ::scale][:, 20:60, :60] - wanted).mean() < 4
    assert [p.name for p in tmp_path.iterdir()] == ["video.mp4"]


# Open-loop predictions

@pytest.mark.parametrize("channels", [1, 3])
def test_openloop_grid(channels):
    rng = np.random.default_rng(0)
    truth, model = rng.random((2, 5, 3, 8, 8, channels))
    model[0, 0] = 1.7  # outside 0..1
    grid = openloop_grid(truth, model, context=2)
    assert grid.shape == (5, 24, 24, 3) and grid.dtype == np.uint8
    inner = np.s_[1:-1]
    for n in range(3):
        column = grid[:, :, 8 * n:8 * n + 8]
        rows = column[:, :8], column[:, 8:16], column[:, 16:]
        error = np.clip((model[:, n] - truth[:, n] + 1) / 2, 0, 1)
        for found, wanted in zip(rows, (truth[:, n], np.clip(model[:, n], 0, 1), error), strict=True):
            wanted = np.broadcast_to(np.round(wanted * 255), (5, 8, 8, 3))
            np.testing.assert_array_equal(found[:, inner, inner], wanted[:, inner, inner])
        for t in range(5):
            color = GREEN if t < 2 else RED
            for edge in (column[t, 0], column[t, -1], column[t, :, 0], column[t, :, -1]):
                assert (edge == color).all()
    with pytest.raises(ValueError, match=r"must both be \(T, n, h, w, c\)"):
        openloop_grid(truth, model[:4], 2)
    with pytest.raises(ValueError, match=r"must both be"):
        openloop_grid(truth[0], model[0], 2)


def coded_grid(steps, sequences, side=8):
    """Every tile's red channel is its step, its green channel its sequence."""
    grid = np.zeros((steps, 3 * side, sequences * side, 3), np.uint8)
    grid[..., 0] = np.arange(steps)[:, None, None]
    grid[..., 1] = np.arange(sequences).repeat(side)
    grid[..., 2] = 200
    return grid


def tiles(image):
    """(sequence, step) of the coded tiles in a strip, by rows."""
    coded = image[image[..., 2] == 200].reshape(-1, 3)
    return sorted({(int(g), int(r)) for r, g, _ in coded if r < 64 and g < 8})


def test_strip_shows_the_last_context_step_and_the_end():
    image = strip_image(coded_grid(64, 6), context=5, columns=8, sequences=2)
    steps = [0, 4, 5, 17, 28, 40, 51, 63]
    assert tiles(image) == [(n, t) for n in (0, 1) for t in steps]
    assert image.shape[0] > 2 * 3 * 96 and image.shape[1] > 8 * 96
    for column, t in enumerate(steps):  # left to right
        x = 88 + column * 96 + 48 + (8 if t >= 5 else 0)
        assert image[34 + 48, x, 0] == t and image[34 + 3 * 96 + 10 + 48, x, 1] == 1
    assert (image[:34] < 128).any() and (image[:, :80] < 128).any()  # labels on top and on the left


@pytest.mark.parametrize(("steps", "context", "wanted"), [
    (1, 1, [0]), (3, 5, [0, 2]), (4, 0, [0, 1, 2, 3]), (8, 1, [0, 1, 2, 3, 4, 5, 6, 7]), (2, 1, [0, 1])])
def test_strips_of_short_sequences(steps, context, wanted):
    assert tiles(strip_image(coded_grid(steps, 1), context=context)) == [(0, t) for t in wanted]


# Learning curve

@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Writes a run, draws it, and returns the axes and the figure's legend texts."""
    kept = []
    real = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (kept.append(figure), real(figure, *a, **k))[1])

    def draw(task, episodes=(), evals=(), lines="", random=None):
        run = tmp_path / "run"
        run.mkdir()
        if random is not None:
            (run / "random.json").write_text(json.dumps({"scores": random}))
        rows = [json.dumps({"step": s, "episode/score": y, "episode/length": 1}) + "\n" for s, y in episodes]
        (run / "scores.jsonl").write_text("".join(rows) + lines)
        (run / "eval.jsonl").write_text("".join(
            json.dumps({"step": s, "eval/score": m, "eval/score_std": d}) + "\n" for s, m, d in evals))
        path = learning_curve(run / "curve.png", run, task=task)
        assert np.asarray(Image.open(path).convert("RGB")).std() > 5
        assert [p.name for p in run.iterdir() if p.suffix == ".part"] == []
        axes, = kept[-1].axes
        return axes, [t.get_text() for legend in kept[-1].legends for t in legend.get_texts() if t.get_text()]
    return draw


def line(axes, start):
    """Points of the line whose label starts so, shape (2, n)."""
    found, = (x for x in axes.lines if x.get_label().startswith(start))
    return np.array([np.broadcast_to(values, len(found.get_xdata())) for values in found.get_data()], float)


def test_curve_of_a_whole_run(drawn):
    episodes = [(4000 * i, -20 + 0.3 * i) for i in range(1, 101)]
    evals = [(20_000 * i, -20.0 + 1.5 * i, 2.0) for i in range(1, 21)]
    axes, legend = drawn("atari_pong", episodes[::-1], evals)
    row = reference("atari_pong")
    np.testing.assert_allclose(line(axes, "training"), np.transpose(episodes))
    np.testing.assert_allclose(line(axes, "evaluation"), np.transpose(evals)[:2])
    np.testing.assert_allclose(line(axes, "HarmonyDream")[1], row["harmonydream"]["curve_mean"])
    np.testing.assert_allclose(line(axes, "DreamerV3")[0], 20_000 * np.arange(1, 21))
    smooth = line(axes, "mean of 12")
    np.testing.assert_allclose(smooth[1], -20 + 0.3 * smooth[0] / 4000)  # a straight line stays where it was
    assert line(axes, "human")[1][0] == row["human"] and line(axes, "random")[1][0] == row["random"]
    assert legend[:2] == ["training episode", "mean of 12 training episodes"]
    assert legend[2].endswith("(10.0 at 400K frames)")
    assert legend[3:] == [f"HarmonyDream, published ({row['harmonydream']['final_mean']:.1f} at 400K frames)",
                          f"DreamerV3, published ({row['dreamerv3']['final_mean']:.1f} at 400K frames)",
                          "random play (-20.7)", "human play (14.6)"]
    assert axes.get_title(loc="left") == "Pong" and axes.get_xlim() == (0, 408_000)


def test_curve_of_a_short_run_is_not_squashed(drawn):
    axes, legend = drawn("atari_pong", [(3000, -21.0), (6000, -20.0)], [(8000, -20.5, 0.5)])
    assert axes.get_xlim() == (0, 8160) and -23 < axes.get_ylim()[0] < axes.get_ylim()[1] < -18
    assert legend[-4].startswith("HarmonyDream, published (1")
    assert legend[-4].endswith("at 400K frames, outside the plot)")
    assert legend[-1] == "human play (14.6, outside the plot)" and legend[-2] == "random play (-20.7)"


def test_random_play_that_the_run_measured_is_a_line(drawn):
    axes, legend = drawn("catch_5x5", [(50, 1.0)], [(60, 0.5, 0.1)], random=[-0.5, -0.7, None])
    assert line(axes, "random play in this run")[1][0] == pytest.approx(-0.6)
    assert legend[-1] == "random play in this run (-0.6)"


def test_published_curves_are_cut_to_the_run(drawn):
    axes, _ = drawn("atari_pong", [(50_000, -20.0)])
    frames, scores = line(axes, "HarmonyDream")
    published = reference("atari_pong")["harmonydream"]["curve_mean"]
    assert frames.tolist() == [20_000, 40_000, 50_000] and scores[2] == pytest.approx(np.mean(published[1:3]))


def test_a_run_longer_than_the_published_curves(drawn):
    axes, _ = drawn("atari_pong", [(900_000, 20.0)])
    assert line(axes, "HarmonyDream")[0].tolist() == [20_000.0 * i for i in range(1, 21)]


@pytest.mark.parametrize("task", ["atari_breakout", "gym_CartPole-v1"])
def test_empty_curve(drawn, task):
    axes, _ = drawn(task)
    assert "no finished episode yet" in [t.get_text() for t in axes.texts]


def test_one_point_and_rows_that_cannot_be_drawn(drawn):
    axes, legend = drawn("catch_5x5", [(50, 1.0)],
                         lines='{"step": 60, "episode/score": null}\n{"step": 7\n{"step": 70}\n')
    assert line(axes, "training").tolist() == [[50.0], [1.0]] and legend == ["training episode"]
    assert axes.get_ylim()[0] < 1 < axes.get_ylim()[1] and axes.get_title(loc="left") == "catch_5x5"
