"""The method a configuration trains, by the name under which its scores are grouped. Standard library only."""

from hdfast.config import Config


def method_name(config: Config) -> str:
    """'HarmonyDream', 'HarmonyDream (plain)', 'DreamerV3', 'DreamerV3 (reward x100)', ...: how the world model's
    losses are balanced. Sizes, protocol and everything else are not in the name."""
    loss, fixed = config.loss, config.harmony.mode == "off"
    notes = ["plain"] if config.harmony.mode == "plain" else []
    if not loss.reward_grad:
        notes.append("observation only")
    for name, scale in (("reward", loss.reward_scale), ("image", loss.image_scale)) if fixed else ():
        if scale != 1:
            notes.append("reward only" if (name, scale) == ("image", 0) else f"{name} x{scale:g}")
    return ("DreamerV3" if fixed else "HarmonyDream") + (f" ({', '.join(notes)})" if notes else "")
