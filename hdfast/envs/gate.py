"""What an environment of a user's own may return: every value is checked and converted here, and nowhere else."""

import operator
from typing import Any

import numpy as np

from hdfast.errors import ConfigError
from hdfast.spaces import ObsSpace


class Fault(Exception):
    """What an environment did against its own spaces or Gymnasium's protocol: "gave the reward None, expected ..."."""


class Gate:
    """Observations of one Gymnasium space, as rows of `space`, and rewards and flags as plain numbers.

    Box of uint8 (h, w) or (h, w, c), c <= 4: an image, area-resized to `size`, gray if asked for. Box of any other
    numbers with at most one dimension: a float32 vector. Discrete: one-hot. ConfigError for every other space, and for
    `gray` where there is no color.
    """

    def __init__(self, space: Any, size: tuple[int, int] | None, gray: bool):
        from gymnasium.spaces import Box, Discrete
        self._given = space
        self._values = self._image = None
        if isinstance(space, Discrete):
            self._values = np.arange(space.start, space.start + space.n)
            self.space = ObsSpace.single(self._values.shape, "float32")
        elif isinstance(space, Box) and len(space.shape) <= 1:
            self.space = ObsSpace.single(space.shape or (1,), "float32")
        elif isinstance(space, Box) and space.dtype == np.uint8 and (*space.shape, 1)[2] <= 4 and len(space.shape) <= 3:
            height, width, channels = (*space.shape, 1)[:3]
            self._image = Resize((height, width, channels), size, gray)
            self.space = ObsSpace.single(self._image.shape, "uint8")
        else:
            raise ConfigError(f"observations must be uint8 images (h, w) or (h, w, c) with c <= 4, vectors, or "
                              f"Discrete; got {space}; convert them with a Gymnasium wrapper such as "
                              "FlattenObservation or TransformObservation")
        if gray and (self._image is None or space.shape[2:] != (3,)):
            raise ConfigError(f"env.grayscale has no effect on observations {space}: it turns RGB images gray; leave "
                              "it out")

    def observation(self, value: Any) -> dict[str, np.ndarray]:
        return {self.space.parts[0].name: self._part(value)}

    def _part(self, value: Any) -> np.ndarray:
        """The observation as a new array of `space`; Fault for one that is not in the environment's own space.

        Bounds of vectors are not checked: many environments leave theirs by rounding.
        """
        if self._values is not None:
            index = _number(value, "observation", operator.index)
            if index not in self._values:
                raise Fault(f"gave the observation {index}, which is not in its space {self._given}")
            return (self._values == index).astype(np.float32)
        try:
            found = np.asarray(value)
        except ValueError:  # a list of lists of different lengths
            found = np.array(None)
        if found.dtype.kind not in "fiub" or (self._image and found.dtype != np.uint8):
            raise Fault(f"gave an observation of {_kind(value, found)}, expected {self._given.dtype} numbers, "
                            f"as its space {self._given} says")
        if found.shape != self._given.shape:
            raise Fault(f"gave an observation of shape {found.shape}, expected {self._given.shape}, as its "
                            f"space {self._given} says")
        if self._image:
            return self._image(found)
        with np.errstate(over="ignore"):  # beyond float32: infinite, and refused with the other infinite numbers
            return found.astype(np.float32).reshape(self.space.parts[0].shape)

    @staticmethod
    def first(result: Any) -> Any:
        """The observation of what `reset` returned; its info is not looked at."""
        if not isinstance(result, tuple) or len(result) != 2:
            raise Fault(f"returned {_shape(result)} from reset(), expected the pair (observation, info); an "
                            "environment of the old gym API needs a wrapper")
        return result[0]

    @staticmethod
    def step(result: Any) -> tuple[Any, float, bool, bool]:
        """Observation, reward, terminated and truncated of what `step` returned; its info is not looked at."""
        if not isinstance(result, tuple) or len(result) != 5:
            raise Fault(f"returned {_shape(result)} from step(), expected (observation, reward, terminated, "
                            "truncated, info); an environment of the old gym API needs a wrapper")
        obs, reward, terminated, truncated, _ = result
        return obs, _number(reward, "reward", float), _flag(terminated, "terminated"), _flag(truncated, "truncated")


class Resize:
    """Area resize of one image (h, w, c) uint8, and RGB to gray before it if wanted."""

    def __init__(self, given: tuple[int, int, int], size: tuple[int, int] | None, gray: bool):
        self._given, self._gray = given, gray
        height, width = size or given[:2]
        self.shape = (height, width, 1 if gray else given[2])
        same = (height, width) == given[:2]
        self._weights = None if same else (area_weights(given[0], height), area_weights(given[1], width))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        image = image.reshape(self._given)
        if self._gray:
            image = np.rint(image @ np.array([0.299, 0.587, 0.114], np.float32))[..., None].astype(np.uint8)
        return image.copy() if self._weights is None else area_resize(image, *self._weights)


def area_weights(n_in: int, n_out: int) -> np.ndarray:
    """(n_out, n_in) float32: the share of every input cell in each output cell of an area resize."""
    edge = np.arange(n_out + 1) * (n_in / n_out)
    cell = np.arange(n_in)
    overlap = np.minimum(edge[1:, None], cell + 1) - np.maximum(edge[:-1, None], cell)
    return (overlap.clip(0) * (n_out / n_in)).astype(np.float32)


def area_resize(image: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """(h, w, c) uint8 -> (h', w', c) uint8 with the weights (h', h) and (w', w) of `area_weights`."""
    height, width, channels = image.shape
    rows = down @ image.reshape(height, width * channels).astype(np.float32)
    return np.rint(across @ rows.reshape(len(down), width, channels)).clip(0, 255).astype(np.uint8)


def _number(value: Any, what: str, convert: Any) -> Any:
    """A number from a number or an array of one."""
    try:
        return convert(value.item() if isinstance(value, np.ndarray) and value.size == 1 else value)
    except (TypeError, ValueError, OverflowError):
        raise Fault(f"gave the {what} {value!r:.80}, expected a number") from None


def _flag(value: Any, what: str) -> bool:
    value = value.item() if isinstance(value, (np.ndarray, np.generic)) and value.size == 1 else value
    if not isinstance(value, (bool, int)) or value not in (0, 1):
        raise Fault(f"gave {what}={value!r:.80}, expected True or False")
    return bool(value)


def _kind(value: Any, found: np.ndarray) -> str:
    return f"{found.dtype} numbers" if found.dtype.kind in "fiub" else f"type {type(value).__name__}"


def _shape(result: Any) -> str:
    return f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
