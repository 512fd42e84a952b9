"""The settings of the run in a directory, and whether another start may continue it. Standard library only."""

import os
from pathlib import Path

from hdfast.config import RESUME_MAY_CHANGE, Config, differences
from hdfast.errors import ConfigError, RunError
from hdfast.run.durable import read_bounded


def check_settings(path: Path, config: Config) -> bool:
    """Whether `path` holds a run; ConfigError naming every setting in which it differs from `config`.

    Settings that say where, how long and how often (RESUME_MAY_CHANGE) may differ; env.backend auto is the run's.
    """
    saved = saved_config(path)
    if saved is None:
        if any(path.glob("ckpt/*")):
            raise RunError(f"{path} holds checkpoints but no config.json, so their settings are unknown; bring the "
                           "file back from a copy, or choose another --logdir")
        _check_place(path)
        return False
    own = {"env.backend"} if config.env.backend == "auto" else set()
    if found := differences(saved, config, ignore=RESUME_MAY_CHANGE | own):
        listed = ", ".join(f"{name} (there {old}, now {new})" for name, (old, new) in found.items())
        raise ConfigError(f"{path} holds a run with other settings, says its config.json: {listed}; give the same "
                          "settings to continue it, or another --logdir to start a new run")
    return True


def saved_config(path: Path) -> Config | None:
    """What the config.json in a folder says, None where there is none; RunError where it cannot be used."""
    file = path / "config.json"
    try:
        return Config.from_json(read_bounded(file).decode())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError, ConfigError, RunError) as error:
        raise RunError(f"{file} cannot be used: {error}; restore the file, or choose another --logdir") from error


def _check_place(path: Path) -> None:
    """ConfigError where a new run would lie within another one or around others: no report looks inside a run."""
    place = Path(os.path.realpath(path))
    below = (meta.parent for depth in ("*", "*/*") for meta in place.glob(f"{depth}/meta.json"))
    for how, runs in (("around", place.parents), ("in", below)):
        for run in runs:
            if all((run / name).is_file() for name in ("config.json", "meta.json")):
                raise ConfigError(f"{path} cannot be a run directory: another run lies {how} it, in {run}; choose "
                                  "another --logdir")
