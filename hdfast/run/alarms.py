"""Alarms: what in a log row says that the numbers of a run are going wrong. docs/reliability.md says what to do."""

import math
from collections.abc import Mapping, Sequence

HARMONY_S = 10.0  # a weight of e^-10 or e^10: balance with losses as large as e^10, or as small as e^-20
TERMS = 1e3  # one harmonized term against the two others together; in balance all are of one size
RANGE_LARGEST = 1e7  # points; the return range of any Atari game is far below
RANGE_JUMP = 100.0  # from one log row to the next, or down from the largest so far
OPTIMIZERS = ("model", "actor", "critic")
SCALARS = ("rew", "image", "kl")


class Alarms:
    """Watches the scalars of one log row after another.

    `skipped` is the number of updates that were not taken, since the last row without any.
    """

    def __init__(self) -> None:
        self.skipped = 0
        self._raised: dict[str, str] = {}
        self._range: float | None = None
        self._largest = 0.0

    def check(self, row: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
        """The scalars `alarm/NAME`, 0 or 1, of a row of `train/*`, and a sentence for each alarm the last row had not.

        Nothing for a row without updates.
        """
        if not row:
            return {}, []
        found = {"skipped": self._skipped(row), "harmony_s": _harmony_s(row), "harmony_balance": _balance(row),
                 "return_range": self._return_range(row)}
        new = [f"alarm {name}: {text}" for name, text in found.items() if text and not self._raised.get(name)]
        self._raised = found
        return {f"alarm/{name}": float(bool(text)) for name, text in found.items()}, new

    def verdict(self, step: int, limit: int, found: str, sound: bool, checkpoints: Sequence[str]) -> str:
        """Why a run ends at `step`, as `found` tells; `sound`: its parameters are finite and were saved."""
        return (f"{self.skipped} updates up to step {step} were not taken because numbers were not finite "
                f"(run.max_skipped {limit}): {found or 'nothing more is known'}. "
                + (f"All parameters are finite and saved at step {step}" if sound else
                   "Parameters are not finite either, so nothing was saved")
                + (f"; the checkpoint before is {checkpoints[-1]}" if checkpoints else "")
                + '. The same command goes on from the newest one; docs/reliability.md, "Numbers going wrong", says '
                "what to look at first")

    def _skipped(self, row: Mapping[str, float]) -> str:
        counts = {name: int(row.get(f"train/opt/{name}_skipped", 0)) for name in OPTIMIZERS}
        most = max(counts.values())
        self.skipped = self.skipped + most if most else 0
        told = ", ".join(f"{name} {n}" for name, n in counts.items() if n)
        return f"updates not taken because loss or gradient is not finite: {told}" if most else ""

    def _return_range(self, row: Mapping[str, float]) -> str:
        scale, before, largest = row.get("train/ret_scale", math.nan), self._range, self._largest
        if not math.isfinite(scale):
            return ""
        self._range, self._largest = scale, max(largest, scale)
        if scale > RANGE_LARGEST:
            return f"the return range is {scale:.3g}, above {RANGE_LARGEST:g}"
        if before is not None and scale > RANGE_JUMP * before:
            return f"the return range went from {before:.3g} to {scale:.3g} within one log row"
        if scale < largest / RANGE_JUMP:
            return f"the return range is down to {scale:.3g} from {largest:.3g}"
        return ""


def _harmony_s(row: Mapping[str, float]) -> str:
    far = {name: s for name in SCALARS if abs(s := row.get(f"train/harmony/{name}_s", 0.0)) > HARMONY_S}
    told = ", ".join(f"{name} {s:.2f}" for name, s in far.items())
    return f"harmony scalars beyond {HARMONY_S:g}: {told}" if far else ""


def _balance(row: Mapping[str, float]) -> str:
    terms = {name: abs(row.get(f"train/harmony/{name}_term", math.nan)) for name in SCALARS}
    name = max(terms, key=terms.__getitem__)
    others = sum(terms.values()) - terms[name]
    return f"the {name} term is {terms[name]:.3g}, the others together {others:.3g}" \
        if terms[name] > TERMS * others else ""
