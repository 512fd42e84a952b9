"""Observation and action spaces, and those a checkpoint was trained on."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hdfast.config import IMAGE_SIDES
from hdfast.errors import ConfigError, RunError

SIZE_LIMIT = 1 << 26  # numbers of an observation, and of an encoded action
MOST_PARTS = 12  # the kernel of harmony takes 16 losses, four of which are no part's
RESERVED = ("reward", "cont", "dyn", "rep", "kl")  # names of the other losses


@dataclass(frozen=True)
class Part:
    """One named part of an observation: a 'uint8' image (h, w, c) or a 'float32' vector (n,)."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def is_image(self) -> bool:
        return self.dtype == "uint8"


@dataclass(frozen=True)
class ObsSpace:
    """An observation: its parts, in the order in which the environment declares them."""

    parts: tuple[Part, ...]

    @classmethod
    def single(cls, shape: tuple[int, ...], dtype: str) -> "ObsSpace":
        """One array: the part 'image' or 'vector'."""
        return cls((Part("image" if dtype == "uint8" else "vector", tuple(shape), dtype),))

    @property
    def images(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.is_image)

    @property
    def vectors(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if not part.is_image)

    def __str__(self) -> str:
        return ", ".join(f"{part.name} {' x '.join(map(str, part.shape))} {part.dtype}" for part in self.parts)


@dataclass(frozen=True)
class MultiDiscrete:
    """One choice in each of several groups: integers (groups,), the choice of group i in 0..sizes[i]-1.

    `encode` gives what the networks read and the replay stores: the one-hot codes, one after the other.
    """

    sizes: tuple[int, ...]
    dtype: ClassVar[str] = "int64"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one action."""
        return (len(self.sizes),)

    @property
    def width(self) -> int:
        """Numbers of an encoded action."""
        return sum(self.sizes)

    def encode(self, action: np.ndarray) -> np.ndarray:
        """action (..., groups) -> (..., width) float32."""
        codes = [action[..., i, None] == np.arange(n) for i, n in enumerate(self.sizes)]
        return np.concatenate(codes, -1).astype(np.float32)

    def random(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """`count` uniformly random actions."""
        return rng.integers(0, self.sizes, (count, len(self.sizes)))

    def wrong(self, action: np.ndarray) -> np.ndarray:
        """Which of the actions (N, ...) are none of this space: (N,) bool."""
        return np.asarray(((action < 0) | (action >= self.sizes)).any(-1))

    def __str__(self) -> str:
        return f"choices among {', '.join(map(str, self.sizes))}"


@dataclass(frozen=True)
class Discrete:
    """One choice: an integer in 0..n-1. `encode` gives its one-hot code."""

    n: int
    dtype: ClassVar[str] = "int64"
    shape: ClassVar[tuple[int, ...]] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.n,)

    @property
    def width(self) -> int:
        return self.n

    def encode(self, action: np.ndarray) -> np.ndarray:
        """action (...) -> (..., n) float32."""
        return (action[..., None] == np.arange(self.n)).astype(np.float32)

    def random(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """`count` uniformly random actions."""
        return rng.integers(0, self.n, count)

    def wrong(self, action: np.ndarray) -> np.ndarray:
        """Which of the actions (N,) are none of this space: (N,) bool."""
        return (action < 0) | (action >= self.n)

    def __str__(self) -> str:
        return f"{self.n} actions"


@dataclass(frozen=True)
class Box:
    """`size` numbers, which an environment clips to [-1, 1] and maps to its own bounds. They are their own code."""

    size: int
    dtype: ClassVar[str] = "float32"
    sizes: ClassVar[tuple[int, ...]] = ()  # of groups to choose from: there are none

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

    @property
    def width(self) -> int:
        return self.size

    def encode(self, action: np.ndarray) -> np.ndarray:
        """action (..., size) -> the same in float32."""
        return action.astype(np.float32)

    def random(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """`count` actions, uniformly random in [-1, 1]."""
        return rng.uniform(-1, 1, (count, self.size)).astype(np.float32)

    def wrong(self, action: np.ndarray) -> np.ndarray:
        """Which of the actions (N, size) are none of this space: (N,) bool."""
        return (~np.isfinite(action)).any(-1)

    def __str__(self) -> str:
        return f"{self.size} continuous actions"


ActSpace = Discrete | MultiDiscrete | Box
KINDS = {"discrete": Discrete, "multi_discrete": MultiDiscrete, "box": Box}


def check_names(space: ObsSpace) -> None:
    """Raise ConfigError for parts whose names cannot be told from each other, from a loss or from an escape code."""
    names = [part.name for part in space.parts]
    if not names or len(set(names)) < len(names) or set(names) & set(RESERVED) or not all(map(str.isprintable, names)):
        raise ConfigError(f"an observation needs parts with different printable names, none of {', '.join(RESERVED)}; "
                          f"got {names}; rename them with a wrapper")


def check_parts(space: ObsSpace) -> None:
    """Raise ConfigError for observations that no network fits."""
    check_names(space)
    if len(space.parts) > MOST_PARTS:
        raise ConfigError(f"an observation may have {MOST_PARTS} parts, got {len(space.parts)}: {space}; join vectors "
                          "with a wrapper")
    for part in space.images:
        if not (part.shape[0] == part.shape[1] in IMAGE_SIDES and 1 <= part.shape[2] <= 4):
            raise ConfigError(f"images must be square with a side of {', '.join(map(str, IMAGE_SIDES))} and 1 to 4 "
                              f"channels, got {' x '.join(map(str, part.shape))}; resize them, as by --env.size 64 or "
                              "from_gymnasium(size=64)")
    if len({part.shape[0] for part in space.images}) > 1:
        raise ConfigError(f"all images of an observation must have one size, got {space}; resize them")


def described(obs_space: ObsSpace, act_space: ActSpace) -> dict[str, Any]:
    """The spaces as a checkpoint's manifest holds them."""
    kind = next(name for name, cls in KINDS.items() if isinstance(act_space, cls))
    return {"obs": [[part.name, list(part.shape), part.dtype] for part in obs_space.parts],
            "action": [kind, *(act_space.sizes or [act_space.width])]}


def spaces(manifest: dict[str, Any]) -> tuple[ObsSpace, ActSpace]:
    """Observation and action space that a checkpoint was trained on; RunError for impossible or huge ones."""
    try:
        if "obs_shape" in manifest:  # format 1: one array, discrete actions
            obs_space = ObsSpace.single(tuple(manifest["obs_shape"]), manifest["obs_dtype"])
            kind, numbers = "discrete", [manifest["actions"]]
        else:
            obs_space = ObsSpace(tuple(Part(name, tuple(shape), dtype) for name, shape, dtype in manifest["obs"]))
            kind, *numbers = manifest["action"]
        shapes = [part.shape for part in obs_space.parts]
        fine = (all(type(n) is int and n > 0 for shape in (*shapes, numbers) for n in shape) and shapes and numbers
                and max(sum(map(math.prod, shapes)), sum(numbers)) <= SIZE_LIMIT
                and all(type(part.name) is str and part.name.isprintable() and len(part.shape) ==
                        {"uint8": 3, "float32": 1}.get(part.dtype) for part in obs_space.parts)
                and kind in KINDS and (kind == "multi_discrete" or len(numbers) == 1))
        if not fine:
            raise RunError(f"the checkpoint's manifest has impossible spaces, {str(obs_space)!r:.80}, action "
                           f"{kind!r:.20} {numbers!r:.60}; take another checkpoint or start a new run with another "
                           "--logdir")
        act_space: ActSpace = MultiDiscrete(tuple(numbers)) if kind == "multi_discrete" else KINDS[kind](numbers[0])
        return obs_space, act_space
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"the checkpoint's manifest lacks {error}: another program wrote it; start a new run with "
                       "another --logdir") from error
