"""How losses in a precision are compared with official ones."""

import golden_digest
from golden_case import Runner


def assert_official_losses(name: str, precision: str, device: str = "cpu") -> None:
    """Compare means of the official losses; some samples flip in bfloat16, so single figures may differ."""
    case, want = golden_digest.load(name)
    got = Runner(case, device, precision).world_model()
    keys = [key for key in want if key in got and key.endswith("_loss_mean")]
    assert len(keys) >= 5
    for key in keys:
        assert abs(got[key] - want[key]) <= 1e-2 * max(1, abs(want[key])), key
