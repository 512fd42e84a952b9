"""The model state, and the parameters of the recurrence that makes it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


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


def one_hot(index: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """One-hot of index (...) -> (..., classes); unlike torch's it never looks at values on the host."""
    out = torch.empty(*index.shape, classes, dtype=dtype, device=index.device)
    return torch.eq(index.unsqueeze(-1), torch.arange(classes, device=index.device), out=out)


class Parameters(NamedTuple):
    """The parameters of the recurrence, with Z = S*K: initial (D,), then kernel, scale and bias of each LayerNorm, or
    kernel and bias. img_in (Z + A, U), gru (D + U, 3D), img_out (D, U), img_stats (U, Z), obs_out (D + E, U), obs_stats
    (U, Z)."""

    initial: Tensor
    img_in: Tensor
    img_in_scale: Tensor
    img_in_bias: Tensor
    gru: Tensor
    gru_scale: Tensor
    gru_bias: Tensor
    img_out: Tensor
    img_out_scale: Tensor
    img_out_bias: Tensor
    img_stats: Tensor
    img_stats_bias: Tensor
    obs_out: Tensor
    obs_out_scale: Tensor
    obs_out_bias: Tensor
    obs_stats: Tensor
    obs_stats_bias: Tensor

    @property
    def kernels(self) -> list[Tensor]:
        """The matrices, in the order of KERNELS."""
        return [getattr(self, name) for name in KERNELS]

    def operands(self, dtype: torch.dtype, copies: Sequence[Tensor] = ()) -> "Parameters":
        """The same with kernels as products read them: `copies`, those of KERNELS in this type, or new ones."""
        kernels = copies or [kernel.to(dtype) for kernel in self.kernels]
        return self._replace(**dict(zip(KERNELS, kernels, strict=True)))

    def constant(self) -> "Parameters":
        """The same without gradient; kernels keep their bfloat16 shadows."""
        parts = [x.detach() for x in self]
        for part, x in zip(parts, self, strict=True):
            if hasattr(x, "shadow"):
                part.shadow = x.shadow
        return Parameters(*parts)

    @property
    def deter(self) -> int:
        return self.img_out.shape[0]

    @property
    def units(self) -> int:
        return self.img_out.shape[1]

    @property
    def latent(self) -> int:
        return self.img_stats.shape[1]


KERNELS = ("img_in", "gru", "img_out", "img_stats", "obs_out", "obs_stats")
