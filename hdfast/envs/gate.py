"""What an environment of a user's own may return: every value is checked and converted here, and nowhere else."""

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hdfast.errors import ConfigError
from hdfast.spaces import ObsSpace, Part, check_names


class Fault(Exception):
    """What an environment did against its own spaces or Gymnasium's protocol: "gave the reward None, expected ..."."""


class Gate:
    """Observations of one Gymnasium space, as parts of `space`, and rewards and flags as plain numbers.

    The spaces of a Dict are parts under their keys, in its order; those of a Dict within it under both keys, joined by
    '_'. Integers and booleans without a dimension are left out of a Dict, as in the official code. ConfigError for
    spaces that no part fits, and for `gray` where there is no color.
    """

    def __init__(self, space: Any, size: tuple[int, int] | None, gray: bool):
        from gymnasium.spaces import Dict
        self._given = space
        self._leaves: dict[tuple, Leaf] = {}  # by their keys in the observation
        if isinstance(space, Dict):
            self._leaves = {keys: Leaf("_".join(map(str, keys)), found, size, gray) for keys, found in _inner(space)}
        else:
            self._leaves[()] = Leaf("", space, size, gray)
        self.space = ObsSpace(tuple(leaf.part for leaf in self._leaves.values()))
        check_names(self.space)
        if gray and not any(leaf.gray for leaf in self._leaves.values()):
            raise ConfigError(f"env.grayscale has no effect on observations {space}: it turns RGB images gray; leave "
                              "it out")

    def observation(self, value: Any) -> dict[str, np.ndarray]:
        """The parts as new arrays; Fault for an observation that is not in the environment's own space.

        Bounds of vectors are not checked: many environments leave theirs by rounding.
        """
        return {leaf.part.name: leaf(self._at(keys, value)) for keys, leaf in self._leaves.items()}

    def _at(self, keys: tuple, value: Any) -> Any:
        for key in keys:
            if not isinstance(value, Mapping) or key not in value:
                found = f"the keys {list(value)}" if isinstance(value, Mapping) else f"type {type(value).__name__}"
                raise Fault(f"gave an observation of {found:.80}, expected a dict with {key!r}, as its space "
                            f"{self._given} says")
            value = value[key]
        return value

    @staticmethod
    def first(result: Any) -> Any:
        """The observation of what `reset` returned; its info is not looked at."""
        if not isinstance(result, tuple) or len(result) != 2:
            raise Fault(f"returned {_shape(result)} from reset(), expected the pair (observation, info); an "
                            "environment of the old gym API needs a wrapper")
        return result[0]

    @staticmethod
    def step(result: Any) -> tuple[Any, float, bool, bool, bool | None]:
        """Observation, reward, terminated, truncated of what `step` returned, and whether its info says success: None
        where it says nothing of it, whatever else it is."""
        if not isinstance(result, tuple) or len(result) != 5:
            raise Fault(f"returned {_shape(result)} from step(), expected (observation, reward, terminated, "
                            "truncated, info); an environment of the old gym API needs a wrapper")
        obs, reward, terminated, truncated, info = result
        success: Any = dict.get(info, "success") if isinstance(info, dict) else None
        return (obs, _number(reward, "reward", float), _flag(terminated, "terminated"), _flag(truncated, "truncated"),
                bool(success > 0) if isinstance(success, int | float | np.number | np.bool_) else None)


class Leaf:
    """One array of an observation, as `part`: under `name`, or image or vector where there is no other.

    Box of uint8 (h, w) or (h, w, c), c <= 4: an image, area-resized to `size`, gray if asked for. Box of any other
    numbers with at most one dimension: a float32 vector. Discrete: one-hot. ConfigError for every other space.
    """

    def __init__(self, name: str, space: Any, size: tuple[int, int] | None, gray: bool):
        from gymnasium.spaces import Box, Discrete
        self._given, self._what = space, f"observation {name}".rstrip()
        self._values = self._image = None
        self.gray = False
        if isinstance(space, Discrete):
            self._values = np.arange(space.start, space.start + space.n)
            self.part = Part(name or "vector", self._values.shape, "float32")
        elif isinstance(space, Box) and len(space.shape) <= 1:
            self.part = Part(name or "vector", space.shape or (1,), "float32")
        elif isinstance(space, Box) and space.dtype == np.uint8 and (*space.shape, 1)[2] <= 4 and len(space.shape) <= 3:
            height, width, channels = (*space.shape, 1)[:3]
            self.gray = gray and space.shape[2:] == (3,)
            self._image = Resize((height, width, channels), size, self.gray)
            self.part = Part(name or "image", self._image.shape, "uint8")
        else:
            raise ConfigError("observations must be uint8 images (h, w) or (h, w, c) with c <= 4, vectors, Discrete, "
                              f"or a Dict of these; got {space}{name and f' under {name}'}; convert them with a "
                              "Gymnasium wrapper such as FlattenObservation or TransformObservation"
                              f"{name and ', or leave them out with FilterObservation'}")

    def __call__(self, value: Any) -> np.ndarray:
        """The value as a new array of `part`; Fault for one that is not in the environment's own space."""
        if self._values is not None:
            index = _number(value, self._what, operator.index)
            if index not in self._values:
                raise Fault(f"gave the {self._what} {index}, which is not in its space {self._given}")
            return (self._values == index).astype(np.float32)
        try:
            found = np.asarray(value)
        except ValueError:  # a list of lists of different lengths
            found = np.array(None)
        if found.dtype.kind not in "fiub" or (self._image and found.dtype != np.uint8):
            raise Fault(f"gave an {self._what} of {_kind(value, found)}, expected {self._given.dtype} numbers, "
                        f"as its space {self._given} says")
        if found.shape != self._given.shape:
            raise Fault(f"gave an {self._what} of shape {found.shape}, expected {self._given.shape}, as its "
                        f"space {self._given} says")
        if self._image:
            return self._image(found)
        with np.errstate(over="ignore"):  # beyond float32: infinite, and refused with the other infinite numbers
            return found.astype(np.float32).reshape(self.part.shape)


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


def _inner(space: Any, *before: Any) -> Iterator[tuple[tuple, Any]]:
    """The keys and the space of each part of a Dict."""
    from gymnasium.spaces import Box, Dict
    for key, found in space.spaces.items():
        if isinstance(found, Dict):
            yield from _inner(found, *before, key)
        elif not isinstance(found, Box) or found.shape or found.dtype.kind == "f":
            yield (*before, key), found


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
