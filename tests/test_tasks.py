"""Task names: every spelling of a game gives one task, and each library gets its own name for it."""

import pytest

from hdfast.errors import ConfigError
from hdfast.tasks import (
    ATARI26,
    ATARI_GAMES,
    TASK_EXCEPTIONS,
    board_shape,
    canonical_task,
    envpool_id,
    rom_name,
)


@pytest.mark.parametrize(("spelling", "task"), [
    ("pong", "atari_pong"), ("Pong-v5", "atari_pong"), ("ALE/Pong-v5", "atari_pong"), ("atari_pong", "atari_pong"),
    ("MsPacman-v5", "atari_ms_pacman"), ("mspacman", "atari_ms_pacman"), ("UpNDown-v5", "atari_up_n_down"),
    ("james_bond", "atari_jamesbond"), ("jamesbond", "atari_jamesbond"), ("atari_james_bond", "atari_jamesbond"),
    ("Jamesbond-v5", "atari_jamesbond"), ("TicTacToe3d-v5", "atari_tic_tac_toe_3d"),
    ("catch", "catch_5x5"), ("catch_5x5", "catch_5x5"), ("catch_08x10", "catch_8x10"),
    ("dummy", "dummy"), ("dummy_vector", "dummy_vector"),
    ("gym_CartPole-v1", "gym_CartPole-v1"), ("gym_ale_py:ALE/Pong-v5", "gym_ale_py:ALE/Pong-v5")])
def test_spellings(spelling, task):
    assert canonical_task(spelling) == task
    assert canonical_task(task) == task


@pytest.mark.parametrize(("name", "message"), [
    ("ponng", "did you mean 'pong'"), ("atari_brekout", "did you mean 'breakout'"), ("dumy", "did you mean 'dummy'"),
    ("", "unknown task ''"), ("PongNoFrameskip-v4", "unknown task"), ("catch_5", "write catch_<height>x<width>"),
    ("catch_2x5", "3..32"), ("catch_5x33", "3..32"), ("gym_", "names no Gymnasium environment"),
    (5, "must be a string")])
def test_unknown_names(name, message):
    with pytest.raises(ConfigError, match=message):
        canonical_task(name)


def test_every_game_is_known_to_both_libraries():
    envpool = pytest.importorskip("envpool", reason="EnvPool has no wheel for this platform")
    from ale_py.roms import get_all_rom_ids
    tasks = ["atari_" + game for game in ATARI_GAMES]
    assert len(set(tasks)) == 104
    assert all(canonical_task(envpool_id(task)) == task for task in tasks)
    assert {envpool_id(task) for task in tasks} <= set(envpool.list_all_envs())
    assert {rom_name(task) for task in tasks} <= set(get_all_rom_ids())


def test_the_benchmark():
    assert len(set(ATARI26)) == 26
    assert all(canonical_task(task) == task for task in ATARI26)
    assert TASK_EXCEPTIONS == {"atari_chopper_command": {"env.max_episode_frames": 5400}}
    assert set(TASK_EXCEPTIONS) <= set(ATARI26)


def test_library_names():
    assert envpool_id("atari_chopper_command") == "ChopperCommand-v5"
    assert rom_name("atari_up_n_down") == "up_n_down"
    assert board_shape("catch_8x5") == (8, 5)
    for convert in (envpool_id, rom_name):
        with pytest.raises(ConfigError, match="canonical"):
            convert("pong")
