"""How figures of ours are compared with official ones."""

import numpy as np

LEARNING_RATE = {"agent/wm/": 1e-4, "agent/task_behavior/": 3e-5}
# Largest allowed |ours - official| / max|official| of a tensor; the first matching part of a name decides. Origins are
# in docs/parity.md: forward and losses 1e-5, values and returns 5e-5, gradients 2e-4; sixteen entries
# have no tensor maximum to be measured by, and figures of updates 2 and 3 carry Adam's rounding of the ones before.
RELATIVE = (
    ("upd2/", 2e-4), ("upd3/", 2e-4), ("grad_entries", 5e-4), ("grad_norm", 5e-5), ("gradnorm", 5e-5), ("grad", 2e-4),
    ("reward_mean", 5e-5), ("reward_max_pred", 5e-5), ("wm/recon", 5e-5),
    ("imag/deter", 1e-5), ("imag/logit", 1e-5), ("imag/", 5e-5), ("ac/", 5e-5), ("actor/", 5e-5), ("critic/", 5e-5),
    ("upd", 5e-5), ("", 1e-5))
EXACT = ("in/", "u/", "n/", "param/", "is_first", "index", "grad_steps", "stoch_index")


def tolerance(key: str, want: np.ndarray, official: dict) -> float:
    """Largest absolute difference allowed for a figure.

    Means and extremes of signed values are measured against the largest magnitude that went into them (`_mag`; for the
    actor loss, a mean of advantages, their spread): what cancels in a mean has no digits left to compare.
    """
    if key.startswith("margin/"):
        return float(1e-4 + 1e-5 * np.abs(want).max())  # a distance of logits or probabilities from a threshold
    relative = next(value for part, value in RELATIVE if part in key)
    scale = np.abs(want).max()
    for end in ("_mean", "_min", "_max", "_std"):
        if key.endswith(end) and (mag := key.removesuffix(end) + "_mag") in official:
            scale = max(scale, np.abs(official[mag]))
    if key.endswith("reward_pred"):
        scale = max(scale, official[key.replace("reward_pred", "reward_max_pred")])
    if key.endswith("actor_opt_loss") or key == "actor/loss":
        phase = "ac/metric/" if key == "actor/loss" else key.removesuffix("actor_opt_loss")
        scale = max(scale, np.abs(official[f"{phase}adv_mean"]) + official[f"{phase}adv_std"])
    return float(relative * scale)


def check_params(key: str, got: np.ndarray, want: np.ndarray, official: dict) -> str | None:
    """Parameters after update k: 1e-5 for 99.9 % of the entries, 2 lr k for all (Adam amplifies the rounding of
    gradients that are almost zero); for the change since the start its norm and four projections, within 1e-2 of its
    length or what one such entry makes of them."""
    update = int(key[3])
    name = key[key.index("agent/"):]
    rate = next(value for prefix, value in LEARNING_RATE.items() if name.startswith(prefix))
    error = np.abs(got - want)
    if "param_delta" in key:
        length = float(official[f"upd{update}/param_delta_norm/{name}"])
        limit = max(1e-2 * length, 2 * rate * update)
        return None if error.max() <= limit else f"{key}: differs by {error.max():.3g}, allowed {limit:.3g}"
    few = (error > 1e-5).mean()
    if error.max() > 2 * rate * update or few > 1e-3 and (error > 1e-5).sum() > 1:
        return f"{key}: worst {error.max():.3g} (allowed {2 * rate * update:.3g}), {100 * few:.3f} % over 1e-5"
    return None


def compare(got: dict, official: dict) -> list[str]:
    """One sentence per figure that is missing or differs."""
    problems = []
    for key, want in official.items():
        if key not in got:
            problems.append(f"{key}: not computed here")
            continue
        ours, want = np.asarray(got[key]), np.asarray(want)
        if ours.shape != want.shape:
            problems.append(f"{key}: shape {ours.shape}, official {want.shape}")
        elif key.startswith("upd") and "/param" in key:
            problem = check_params(key, ours.astype(np.float64), want.astype(np.float64), official)
            problems += [problem] if problem else []
        elif key.startswith(EXACT) or any(part in key for part in EXACT[4:]) or _one_hot(key, want):
            if not np.array_equal(ours, want):
                problems.append(f"{key}: not equal, {np.mean(ours != want):.1%} of the entries differ")
        else:
            error, limit = np.abs(ours.astype(np.float64) - want).max(initial=0), tolerance(key, want, official)
            if not error <= limit:
                problems.append(f"{key}: differs by {error:.3g}, allowed {limit:.3g}")
    return problems


def _one_hot(key: str, want: np.ndarray) -> bool:
    """Whether a figure is a chosen action of the policy, which is right or wrong."""
    return key in ("policy0/action", "policy1/action") and bool(np.isin(want, (0, 1)).all())


def assert_official(got: dict, official: dict) -> None:
    problems = compare(got, official)
    assert not problems, "\n".join([f"{len(problems)} figures differ from the official code:", *problems[:40]])
