"""What type checkers and editors see of `hdfast`: the public names, which `__init__.py` loads at first use."""

from hdfast import ops
from hdfast.agent import Agent
from hdfast.config import Config
from hdfast.envs import make_envs
from hdfast.errors import ConfigError, EnvError, RunError
from hdfast.evaluation import Evaluation, evaluate
from hdfast.evaluation import load_agent as load
from hdfast.trainer import Result, Trainer, train

__version__: str
__all__ = ["Agent", "Config", "ConfigError", "EnvError", "Evaluation", "Result", "RunError", "Trainer", "__version__",
           "evaluate", "load", "make_envs", "ops", "train"]
