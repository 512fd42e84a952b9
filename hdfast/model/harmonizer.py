"""The harmonizer: learned scalars that balance the reward, observation and dynamics losses of the world model."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hdfast import ops


class Harmonizer(nn.Module):
    """Weighted sum of the world-model losses. HarmonyDream paper, section 4; official nets.py, class Harmonizer.

    Modes: 'rectified' (Eq. 6, e^-s L + log(1 + e^s)), 'plain' (Eq. 4, L / sigma + log sigma with s = log sigma) and
    'off' (fixed DreamerV3 scales, no learned scalar). `scales` holds the fixed weights by name: of 'reward', 'dyn',
    'rep', 'cont' and each part of the observation. With harmony on, 'reward', the KL and a part 'image' have learned
    scalars, and those of `more`; the others are added with weight one, and of the scales only the ratio of dyn to rep
    is used. The optimizer moves s / speed: Adam's steps do not grow with the gradient, so s moves `speed` times the
    learning rate a step.
    """

    def __init__(self, mode: str, scales: dict[str, float], speed: float = 1.0, more: Sequence[str] = ()):
        super().__init__()
        self.mode, self.scales, self.speed, self.names = mode, scales, speed, ("reward", "image", "kl", *more)
        if mode != "off":
            self.reward, self.image, self.kl = (nn.Parameter(torch.zeros(())) for _ in range(3))
            self.more = nn.ParameterList(torch.zeros(()) for _ in more)

    @property
    def dyn_share(self) -> float:
        return self.scales["dyn"] / (self.scales["dyn"] + self.scales["rep"])

    def s(self) -> Tensor:
        """The scalars as a vector, in the order of `names`."""
        s = torch.stack([self.reward, self.image, self.kl, *self.more])
        return s if self.speed == 1 else s * self.speed

    def forward(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """losses by the names of `scales`, each (T, B) -> total (), metrics by name, each ()."""
        assert set(losses) == set(self.scales), (set(losses), set(self.scales))
        if self.mode == "off":
            return ops.weighted_loss(losses, self.scales)[0], {}
        s = self.s()
        total, terms = ops.harmony_loss(losses, s, harmonized=self.names, mode=self.mode, dyn_share=self.dyn_share)
        values = {"s": s.detach(), "coeff": torch.exp(-s.detach()), "term": terms.detach()}
        return total, {f"harmony/{'rew' if name == 'reward' else name}_{what}": x[i]
                       for i, name in enumerate(self.names) for what, x in values.items()}
