"""Distracting backgrounds: textures or films behind the images of any task, which have nothing to do with it.

What they add to the reconstruction loss says nothing about rewards: the case for which HarmonyDream was made.
"""

from pathlib import Path
from typing import Any

import numpy as np

from hdfast.envs.stream import Backend, Parts, Record
from hdfast.errors import ConfigError
from hdfast.spaces import ObsSpace, Part

BLOBS = 4  # of one color each, along either side of the image
PALETTE = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]],
                   np.uint8)
"""Every corner of the color cube but white, the color of the cells of Catch, so that every cell can be seen."""
FASTEST = 8  # an image's side over the largest shift of a record along one axis
VIDEOS = "videos:"
STILLS, MOVING = (".png", ".jpg", ".jpeg"), (".gif", ".mp4", ".avi", ".mkv", ".webm")
_STREAM = 1  # beside an environment's own seed: its texture is no function of its game's random numbers


class BackgroundBackend:
    """A backend whose images have something behind them: `kind` is the setting env.background.

    Every image becomes RGB. What counts as background is the blue of dm_control's sky and floor, if `blue` is set:
    pixels of which blue is the largest color; else the pixels of the border's median color. ConfigError without images.
    """

    def __init__(self, backend: Backend, kind: str, seeds: list[int], *, blue: bool):
        self._backend, self._blue = backend, blue
        images = backend.obs_space.images
        if not images or any(part.shape[0] != part.shape[1] or part.shape[2] not in (1, 3) for part in images):
            raise ConfigError(f"env.background {kind} needs square images, gray or RGB, got {backend.obs_space}; leave "
                              "it out")
        self.obs_space = ObsSpace(tuple(Part(part.name, (*part.shape[:2], 3), part.dtype) if part.is_image else part
                                        for part in backend.obs_space.parts))
        side = images[0].shape[0]
        self._behind = (Videos(Path(kind.removeprefix(VIDEOS)), side, seeds) if kind.startswith(VIDEOS) else
                        Textures(kind, side, seeds))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def reset(self) -> Parts:
        self._over = np.zeros(self._backend.num_envs, bool)
        return self._seen(self._backend.reset(), ~self._over)

    def recv(self) -> Record:
        found = self._backend.recv()
        fresh, self._over = self._over, found.terminated | found.truncated
        return found._replace(obs=self._seen(found.obs, fresh))

    def _seen(self, obs: Parts, fresh: np.ndarray) -> Parts:
        behind = self._behind.next(fresh)
        return {part.name: np.where(self._free(obs[part.name])[..., None], behind, obs[part.name])
                if part.is_image else obs[part.name] for part in self.obs_space.parts}

    def _free(self, image: np.ndarray) -> np.ndarray:
        """Which pixels of images (N, h, w, c) belong to the background: (N, h, w) bool."""
        if self._blue:
            return image[..., 2] > image[..., :2].max(-1)
        border = np.concatenate([image[:, 0], image[:, -1], image[:, 1:-1, 0], image[:, 1:-1, -1]], 1)
        return (image == np.median(border, 1)[:, None, None]).all(-1)


class Textures:
    """One texture an environment, record by record, (side, side) pixels.

    kind 'noise': a fresh texture every record. 'moving': one texture an episode, which drifts by a whole number of
    pixels a record and comes back in at the other side; the first record's place, direction and speed are new per
    episode. Textures of an environment follow from its seed and the records it has had, not from actions.
    """

    def __init__(self, kind: str, side: int, seeds: list[int]):
        self._moving, self._side, self._most = kind == "moving", side, max(1, side // FASTEST)
        self._rng = [np.random.default_rng([seed, _STREAM]) for seed in seeds]
        self._color = np.zeros((len(seeds), BLOBS, BLOBS), np.int64)  # places in PALETTE
        self._at, self._velocity = np.zeros((2, len(seeds), 2), np.int64)  # pixels down and to the right
        self._row = np.arange(len(seeds))[:, None, None]

    def next(self, is_first: np.ndarray) -> np.ndarray:
        """is_first (N,) bool of the next records -> their textures (N, side, side, 3) uint8."""
        self._at += self._velocity
        for row in np.flatnonzero(is_first) if self._moving else range(len(self._rng)):
            self._color[row] = self._rng[row].integers(0, len(PALETTE), (BLOBS, BLOBS))
            if self._moving:
                self._at[row] = self._rng[row].integers(0, self._side, 2)
                self._velocity[row] = self._drawn_velocity(self._rng[row])
        blob = (np.arange(self._side) - self._at[..., None]) % self._side * BLOBS // self._side  # (N, 2, side)
        return PALETTE[self._color[self._row, blob[:, 0, :, None], blob[:, 1, None, :]]]

    def _drawn_velocity(self, rng: np.random.Generator) -> tuple[int, int]:
        """Pixels a record, never (0, 0)."""
        steps = 2 * self._most + 1
        place = int(rng.integers(0, steps * steps - 1))
        down, right = divmod(place + (place >= steps * steps // 2), steps)  # the middle one would not move
        return down - self._most, right - self._most


class Videos:
    """The films of a folder, one an episode, from a random frame on and around again, a frame a record.

    A film is a GIF or video file, or all pictures of one folder in the order of their names. Environments draw theirs
    by their seeds. ConfigError if there is none.
    """

    def __init__(self, folder: Path, side: int, seeds: list[int]):
        films: dict[Path, list[Path]] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in STILLS + MOVING:
                films.setdefault(path if path.suffix.lower() in MOVING else path.parent, []).append(path)
        if not films:
            raise ConfigError(f"env.background: no {', '.join(STILLS + MOVING)} file in {folder}; name another folder")
        self._films = [np.concatenate([_frames(path, side) for path in paths]) for paths in films.values()]
        self._rng = [np.random.default_rng([seed, _STREAM]) for seed in seeds]
        self._film, self._frame = np.zeros((2, len(seeds)), np.int64)

    def next(self, is_first: np.ndarray) -> np.ndarray:
        """is_first (N,) bool of the next records -> their frames (N, side, side, 3) uint8."""
        self._frame += 1
        for row in np.flatnonzero(is_first):
            self._film[row] = self._rng[row].integers(len(self._films))
            self._frame[row] = self._rng[row].integers(len(self._films[self._film[row]]))
        films = [self._films[film] for film in self._film]
        return np.stack([film[frame % len(film)] for film, frame in zip(films, self._frame, strict=True)])


def _frames(path: Path, side: int) -> np.ndarray:
    """The frames (T, side, side, 3) of a picture or film; ConfigError if it cannot be read."""
    from PIL import Image, ImageSequence
    try:
        if path.suffix.lower() in (*STILLS, ".gif"):
            with Image.open(path) as image:
                frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
        else:
            import imageio.v3
            frames = [Image.fromarray(frame) for frame in imageio.v3.imiter(path)]
        return np.stack([np.asarray(frame.resize((side, side), Image.Resampling.BOX)) for frame in frames])
    except (ImportError, OSError, ValueError) as error:
        raise ConfigError(f"env.background: {path} cannot be read ({error}); films other than GIF need `pip install "
                          "hdfast[video]`") from error
