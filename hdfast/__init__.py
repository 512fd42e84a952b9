"""hdfast: a fast trainer for HarmonyDream (ICML 2024) on Atari 100K.

    config = hdfast.Config.preset("atari100k", task="atari_pong", seed=0)
    hdfast.train(config)                        # the command `hdfast train`, from Python
    agent = hdfast.load("runs/atari_pong/0")    # rebuilt from the run's own configuration
    hdfast.evaluate(agent, episodes=100).score_mean

The names below are loaded at first use, so `import hdfast` is quick and needs nothing but Python. Type checkers read
`__init__.pyi`.
"""

from importlib import import_module
from typing import Any

from hdfast import processor

__version__ = "0.1.0"

_HOME = {"Agent": "agent.Agent", "Config": "config.Config", "ConfigError": "errors.ConfigError",
         "EnvError": "errors.EnvError", "Evaluation": "evaluation.Evaluation", "Result": "trainer.Result",
         "RunError": "errors.RunError", "Trainer": "trainer.Trainer", "evaluate": "evaluation.evaluate",
         "load": "evaluation.load_agent", "make_envs": "envs.make_envs", "ops": "ops", "train": "trainer.train"}

__all__ = [*_HOME, "__version__"]


processor.limit_torch()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hdfast' has no attribute '{name}'; it has {', '.join(__all__)}")
    module, _, attribute = _HOME[name].partition(".")
    found = import_module(f"hdfast.{module}")
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted(__all__)
