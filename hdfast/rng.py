"""States of torch's generators in checkpoints, also for a run that continues on another kind of device."""

import hashlib

import torch
from torch import Tensor

from hdfast.errors import RunError

STATE_BYTES = {"cpu": 5056, "cuda": 16}


def to_text(generator: torch.Generator) -> str:
    """The generator's state as hexadecimal digits."""
    return generator.get_state().numpy().tobytes().hex()


def from_text(text: str) -> Tensor:
    """The state that `to_text` wrote; RunError for anything else."""
    try:
        return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
    except (TypeError, ValueError) as error:
        raise RunError(f"the checkpoint's random generator state is damaged ({type(error).__name__}: {error}). Delete "
                       "that checkpoint to continue from the one before.") from error


def restore(generator: torch.Generator, state: Tensor) -> None:
    """Continue from a state; one of another kind of device reseeds the generator.

    Raises RunError for anything else; the generator is then as before.
    """
    state = state.cpu()
    try:
        if state.numel() == STATE_BYTES[generator.device.type]:
            generator.set_state(state)
        elif state.numel() in STATE_BYTES.values():
            generator.manual_seed(int.from_bytes(hashlib.blake2b(state.numpy(), digest_size=8).digest()) >> 1)
        else:
            raise RuntimeError(f"{state.numel()} bytes")
    except RuntimeError as error:
        raise RunError(f"the checkpoint's random generator state is damaged ({error}). Delete that checkpoint to "
                       "continue from the one before.") from error
