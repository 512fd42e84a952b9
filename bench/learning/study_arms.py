"""What the study compares."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Arm:
    """One side of the comparison: presets on top of `catch`, with the study's background or without."""

    presets: tuple[str, ...] = ()
    background: bool = True


ARMS = {
    "rectified": Arm(), "plain": Arm(("plain",)), "off": Arm(("baseline",)), "reward10": Arm(("reward10",)),
    "reward100": Arm(("reward100",)), "observation_only": Arm(("observation_only",)),
    "rectified_no_background": Arm(background=False), "off_no_background": Arm(("baseline",), background=False),
}
TERMS = ("reward", "image", "dynamics", "continue")
"""The terms of the world model's loss; the two KL losses, whose values are equal, are one."""
