"""Where else the rows of a run go: Weights & Biases, MLflow. Both are imported here alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from hdfast.errors import RunError
from hdfast.run.jsonl import is_number, read_object, replace

ID_FILE = "tracker.json"  # the run's name in the tracker, so that a resumed run continues there


class Tracker(Protocol):
    """Takes the rows of a run; one more kind is a class with these two methods and a line in TRACKERS."""

    def log(self, row: Mapping[str, float]) -> None:
        """Take one row: step (frames), agent_step, update, seconds, and the scalars of docs/metrics.md."""

    def close(self) -> None:
        """Send what is left."""


class WandB:
    """Weights & Biases; WANDB_MODE=offline, WANDB_PROJECT and the other variables of wandb work as documented there."""

    def __init__(self, logdir: Path, settings: Mapping[str, Any]):
        import wandb

        known = read_object(logdir / ID_FILE).get("wandb")
        self._run = wandb.init(dir=str(logdir), name=str(logdir), config=dict(settings), id=known, resume="allow")
        replace(logdir / ID_FILE, f'{{"wandb": "{self._run.id}"}}\n'.encode())

    def log(self, row: Mapping[str, float]) -> None:
        self._run.log(dict(row), step=int(row["step"]))

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """MLflow, at MLFLOW_TRACKING_URI, by default the folder mlruns here."""

    def __init__(self, logdir: Path, settings: Mapping[str, Any]):
        import mlflow

        known = read_object(logdir / ID_FILE).get("mlflow")
        self._mlflow = mlflow
        self._run = mlflow.start_run(run_id=known, run_name=None if known else str(logdir)).info.run_id
        if not known:
            mlflow.log_params(settings)
            replace(logdir / ID_FILE, f'{{"mlflow": "{self._run}"}}\n'.encode())

    def log(self, row: Mapping[str, float]) -> None:
        numbers = {name: float(value) for name, value in row.items() if is_number(value)}
        self._mlflow.log_metrics(numbers, step=int(row["step"]), run_id=self._run)

    def close(self) -> None:
        self._mlflow.end_run()


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {"wandb": WandB, "mlflow": MLflow}


def tracker(name: str, logdir: Path, settings: Mapping[str, Any]) -> Tracker:
    """The tracker of the setting `logger`; RunError if its package is missing or it cannot start."""
    try:
        return TRACKERS[name](logdir, settings)
    except ImportError as error:
        raise RunError(f"--logger {name} needs a package that cannot be imported ({error}); run `pip install "
                       f"hdfast[{name}]`, or leave the flag out: metrics.jsonl and TensorBoard have the same "
                       "numbers") from error
    except Exception as error:  # a server, a login or a disk: each has errors of its own
        raise RunError(f"--logger {name} cannot start: {type(error).__name__}: {error}; correct it, or leave the flag "
                       "out") from error
