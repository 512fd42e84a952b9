"""One run as the report sees it, wherever it was read from."""

from dataclasses import dataclass, field

import numpy as np

OURS = "hdfast "
"""How the name of every method of ours begins; what score files in a report's folders call otherwise is a peer's."""
TERMS = {"rew": "reward", "image": "observation", "kl": "dynamics"}
"""Loss terms by the name they have in train/harmony/*_coeff, and the paper's words for them."""

Curve = tuple[np.ndarray, np.ndarray]  # environment frames (n,), values (n,)


@dataclass(frozen=True)
class Run:
    """One run of one method on one task; `final` is None where no episode has ended yet, and `how` says what it is.

    `frames` is how far the run came, `total` what it is meant to reach (0 where unknown); `harmony` has the coefficient
    of each loss term as a curve, `shares` its part, 0 to 1, in the sum of the terms times their coefficients; `success`
    is the share of successful episodes of each evaluation, where the environment says so; `episodes` are the scores of
    the last evaluation, `random` those of random play by the same evaluation, both empty where they are not known.
    """

    task: str
    method: str
    seed: str
    final: float | None
    how: str
    curve: Curve
    frames: int
    total: int
    finished: bool
    path: str
    harmony: dict[str, Curve] = field(default_factory=dict)
    shares: dict[str, Curve] = field(default_factory=dict)
    episodes: tuple[float, ...] = ()
    random: tuple[float, ...] = ()
    success: Curve = (np.empty(0), np.empty(0))

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1."""
        return 1.0 if self.finished else min(1.0, self.frames / self.total) if self.total else 0.0


def evaluated(count: int, frames: float) -> str:
    """What a final score is that is the mean of one evaluation; `count` 0 is an unknown number of episodes."""
    return f"evaluation{f' over {count} episodes' if count else ''} at {frames:,.0f} frames"
