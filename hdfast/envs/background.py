"""A distracting background: a colored texture behind the board, which has nothing to do with the task.

What the texture adds to the reconstruction loss says nothing about rewards: the case for which HarmonyDream was made.
"""

import numpy as np

BLOBS = 4  # of one color each, along either side of the image
PALETTE = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]],
                   np.uint8)
BOARD = np.array([255, 255, 255], np.uint8)
"""Color of the lit cells: the one corner of the color cube that no texture has, so that every cell can be seen."""
FASTEST = 8  # an image's side over the largest shift of a record along one axis
_STREAM = 1  # beside an environment's own seed: its texture is no function of its game's random numbers


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
