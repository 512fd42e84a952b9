"""The model state: its deterministic part, its one-hot part, and the index of that."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hdfast.ops.execution import usable


@dataclass(frozen=True)
class State:
    """Model state: deter (..., D), stoch (..., S, K) one-hot (with straight-through gradient), index (..., S) int64."""

    deter: Tensor
    stoch: Tensor
    index: Tensor

    def feat(self) -> Tensor:
        """Input of every head, deter first: (..., D + S*K)."""
        return torch.cat([self.deter, self.stoch.flatten(-2)], -1)

    def map(self, change: Callable[[Tensor], Tensor]) -> "State":
        """The state with its three tensors changed alike."""
        return State(change(self.deter), change(self.stoch), change(self.index))

    def detach(self) -> "State":
        """The same state without gradient."""
        return self.map(Tensor.detach)

    def heads(self) -> "State | Tensor":
        """What heads read: the state itself where the native ops take it apart, else its features."""
        return self if usable(self.deter) else self.feat()
