"""What type checkers and editors see of `hdfast.ops`: every public function of the specification, and the controls."""

from contextlib import AbstractContextManager

import torch

from hdfast.ops.reference import *  # noqa: F403  (as the package does: each of its public functions is an op)

NAMES: tuple[str, ...]
CONTROLS: tuple[str, ...]
BACKENDS: tuple[str, ...]

def backend() -> str:
    """Name of the implementation behind the ops: 'native' or 'reference' (plain PyTorch)."""

def native_families() -> dict[str, tuple[str, ...]]:
    """Families that the loaded library holds, with the public ops of each."""

def set_backend(name: str, device: torch.device | str | None = None) -> str:
    """Choose the implementation of all ops: 'auto', 'reference' or 'native'; returns backend().

    'auto' is 'native' if the library was built, for `device` too if one is given, else 'reference'. Raises ConfigError
    if 'native' is asked for and was not built.
    """

def use(name: str) -> AbstractContextManager[None]:
    """`with ops.use("reference"):` chooses another implementation for a while."""
