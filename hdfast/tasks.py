"""Task names: one canonical form for every spelling, and each library's own name. Standard library only."""

import re
from collections.abc import Callable
from typing import Any

from hdfast.errors import ConfigError, nearest

_ALL_GAMES = """
    adventure air_raid alien amidar assault asterix asteroids atlantis atlantis2 backgammon bank_heist basic_math
    battle_zone beam_rider berzerk blackjack bowling boxing breakout carnival casino centipede chopper_command
    crazy_climber crossbow darkchambers defender demon_attack donkey_kong double_dunk earthworld elevator_action enduro
    entombed et fishing_derby flag_capture freeway frogger frostbite galaxian gopher gravitar hangman haunted_house hero
    human_cannonball ice_hockey jamesbond journey_escape kaboom kangaroo keystone_kapers king_kong klax koolaid krull
    kung_fu_master laser_gates lost_luggage mario_bros miniature_golf montezuma_revenge mr_do ms_pacman name_this_game
    othello pacman phoenix pitfall pitfall2 pong pooyan private_eye qbert riverraid road_runner robotank seaquest
    sir_lancelot skiing solaris space_invaders space_war star_gunner superman surround tennis tetris tic_tac_toe_3d
    time_pilot trondead turmoil tutankham up_n_down venture video_checkers video_chess video_cube video_pinball
    wizard_of_wor word_zapper yars_revenge zaxxon
"""
ATARI_GAMES: tuple[str, ...] = tuple(_ALL_GAMES.split())

_GAMES_100K = """
    alien amidar assault asterix bank_heist battle_zone boxing breakout chopper_command crazy_climber demon_attack
    freeway frostbite gopher hero jamesbond kangaroo krull kung_fu_master ms_pacman pong private_eye qbert road_runner
    seaquest up_n_down
"""
ATARI26: tuple[str, ...] = tuple("atari_" + game for game in _GAMES_100K.split())
"""The 26 games of the Atari 100K benchmark, by canonical name."""

TASK_EXCEPTIONS: dict[str, dict[str, Any]] = {
    # The official README lowers this limit from 108,000: the agent gets stuck and training fails otherwise.
    "atari_chopper_command": {"env.max_episode_frames": 5400},
}

_WORDS = {"atari": "atari_<game>", "gym": "gym_<Gymnasium id>", "env": "env_<module>:<name>",
          "dmc": "dmc_<domain>_<task>", "metaworld": "metaworld_<name>", "catch": "catch_<H>x<W>", "dummy": "dummy"}
_ONLY = {**dict.fromkeys(("frame_skip", "noop_max", "sticky", "full_action_space"), ("atari",)),
         **dict.fromkeys(("workers", "max_episode_steps"), ("gym", "env", "dmc", "metaworld")),
         **dict.fromkeys(("observe", "camera"), ("dmc", "metaworld")),
         "action_repeat": ("gym", "env", "dmc"), "kwargs": ("gym", "env"),
         "grayscale": ("atari", "gym", "env", "dummy")}
"""Settings of an environment that some families of tasks have."""

MADE_HERE: dict[str, Callable[..., Any]] = {}
"""The classes and functions of environments that this process was given, by task."""

BOARD_SIDE = (3, 32)  # smallest and largest height or width of a Catch board
_FIXED = ("pendulum", "pendulum_vector", "dummy", "dummy_vector")
_GAME_BY_LETTERS = {game.replace("_", ""): game for game in ATARI_GAMES}


def canonical_task(name: str | Callable[..., Any]) -> str:
    """Return the one stored spelling of a task; a class or function that makes environments is one, too.

    Atari games take any of `pong`, `atari_pong`, `Pong-v5`, `ALE/Pong-v5`; `james_bond` is `atari_jamesbond`.
    `catch` is `catch_5x5`, `dmc_cup_catch` is `dmc_ball_in_cup_catch`, and Meta-World's names end in their version, 3
    where they have none: `metaworld_lever_pull` is `metaworld_lever-pull-v3`. `gym_<id>` and `env_<module>:<name>` stay
    as they are. ConfigError for any other name.
    """
    if callable(name):
        return task_of(name)
    if not isinstance(name, str):
        raise ConfigError(f"task must be a string such as 'atari_pong', got {type(name).__name__}")
    if name in _FIXED:
        return name
    if name == "catch":
        return "catch_5x5"
    if name.startswith("catch_"):
        height, width = board_shape(name)
        return f"catch_{height}x{width}"
    if name.startswith("gym_"):
        if not name.removeprefix("gym_").strip():
            raise ConfigError(f"task '{name}' names no Gymnasium environment; write gym_<id>, as in gym_CartPole-v1")
        return name
    if name.startswith("env_"):
        if not re.fullmatch(r"env_[\w.]+:[\w.<>]+", name):
            raise ConfigError(f"task '{name}' names no class or function that makes environments; write "
                              "env_<module>:<name>, as in env_my_game:Game")
        return name
    if re.fullmatch(r"dmc(_\w+){2,}", name):
        return name.replace("dmc_cup_", "dmc_ball_in_cup_")
    if re.fullmatch(r"metaworld_[\w-]+", name):
        words = name.removeprefix("metaworld_").lower().replace("_", "-")
        return f"metaworld_{words}" + ("" if re.search(r"-v\d+$", words) else "-v3")
    game = re.sub(r"^(atari_|ale/)|-v5$", "", name.lower())
    letters = re.sub(r"[_ ]", "", game)
    if letters not in _GAME_BY_LETTERS:
        hint = nearest(game, (*ATARI_GAMES, *_FIXED, "catch"))
        raise ConfigError(f"unknown task '{name}'; tasks are atari_<game> (as atari_ms_pacman), catch_<H>x<W>, "
                          "gym_<Gymnasium id>, env_<module>:<name>, dmc_<domain>_<task>, metaworld_<name>, "
                          f"{', '.join(_FIXED)}{hint}")
    return "atari_" + _GAME_BY_LETTERS[letters]


def task_of(make: Callable[..., Any]) -> str:
    """The task that a class or function of environments is: env_<module>:<name>. This process remembers `make` itself;
    others import it by that name. TypeError for anything else.
    """
    if not callable(make):
        raise TypeError(f"environments are made by a class or function, got {type(make).__name__}; write lambda: "
                        "gymnasium.make(...)")
    named = make if hasattr(make, "__qualname__") else type(make)  # functools.partial has no name of its own
    task = f"env_{named.__module__}:{named.__qualname__}"
    MADE_HERE[task] = make
    return task


def rom_name(task: str) -> str:
    """ale-py's ROM name of an Atari task: 'atari_ms_pacman' -> 'ms_pacman'."""
    game = task.removeprefix("atari_")
    if game == task or game not in ATARI_GAMES:
        raise ConfigError(f"expected a canonical Atari task such as 'atari_pong', got '{task}'; "
                          "canonical_task() turns any spelling into one")
    return game


def envpool_id(task: str) -> str:
    """EnvPool's id of an Atari task: 'atari_chopper_command' -> 'ChopperCommand-v5'."""
    return camel_case(rom_name(task)) + "-v5"


def camel_case(name: str) -> str:
    """'ball_in_cup_catch' or 'ball-in-cup-catch' -> 'BallInCupCatch'."""
    return "".join(word[:1].upper() + word[1:] for word in re.split("[_-]", name))


def board_shape(task: str) -> tuple[int, int]:
    """(height, width) of a Catch task: 'catch_8x5' -> (8, 5). Raises ConfigError for a board out of bounds."""
    match = re.fullmatch(r"catch_(\d{1,3})x(\d{1,3})", task)
    low, high = BOARD_SIDE
    if not match or not all(low <= int(side) <= high for side in match.groups()):
        raise ConfigError(f"task '{task}' is not a Catch board; write catch_<height>x<width> with both sides in "
                          f"{low}..{high}, as in catch_5x5")
    return int(match[1]), int(match[2])


def only_for(setting: str, task: str) -> str:
    """The tasks that know the environment setting, in words, if a canonical task is none of them; else empty."""
    families = _ONLY.get(setting, ())
    return "" if not families or task.split("_")[0] in families else " and ".join(_WORDS[name] for name in families)
