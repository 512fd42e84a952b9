"""Atari games through EnvPool under the Atari 100K protocol."""

import numpy as np

from hdfast.config import EnvConfig
from hdfast.envs.pool import PoolBackend
from hdfast.errors import ConfigError
from hdfast.spaces import ObsSpace
from hdfast.tasks import envpool_id


def atari_backend(task: str, env: EnvConfig, num_envs: int, seed: int) -> PoolBackend:
    """EnvPool's Atari with every protocol option spelled out; EnvPool's own defaults are another protocol.

    Two differences to the official environment remain: the no-op frames at reset are 1..noop_max (official:
    0..noop_max-1), and if a game ends on the first or second frame of a skip, the final image is the previous
    record's (official: the maximum of two frames). With `grayscale` the palette's gray is taken before the resize.
    """
    return PoolBackend(
        envpool_id(task), num_envs, seed, env.num_threads,
        ObsSpace.single((env.size, env.size, 1 if env.grayscale else 3), "uint8"),
        lambda obs, _: {"image": channels_last(obs)},
        without="use ale-py instead: --env.backend ale",
        stack_num=1,  # EnvPool: 4; the recurrent model sees one frame at a time
        gray_scale=env.grayscale,  # EnvPool: True
        img_height=env.size,  # EnvPool: 84
        img_width=env.size,
        use_inter_area_resize=True,  # equals OpenCV's INTER_AREA bit for bit at 64x64
        frame_skip=env.frame_skip,  # the image is the maximum of the last two frames
        noop_max=env.noop_max,  # 0 would crash the process
        max_episode_steps=episode_steps(env),  # EnvPool counts agent steps: 27,000 by default
        use_fire_reset=False,  # EnvPool: True presses FIRE after the no-ops; the official environment does not
        episodic_life=False,  # an episode ends at game over, not with a life
        zero_discount_on_life_loss=False,
        reward_clip=False,  # scores and training use the game's own rewards
        repeat_action_probability=env.sticky,
        full_action_space=env.full_action_space,
        mode=-1,  # the game's own default mode and difficulty
        difficulty=-1,
    )


def episode_steps(env: EnvConfig) -> int:
    """The time limit in agent steps; ConfigError if it is shorter than one."""
    steps = env.max_episode_frames // env.frame_skip
    if steps < 1:
        raise ConfigError(f"env.max_episode_frames must be at least env.frame_skip = {env.frame_skip}, got "
                          f"{env.max_episode_frames}; raise the first or lower the second")
    return steps


def channels_last(obs: np.ndarray) -> np.ndarray:
    """(N, c, h, w) -> (N, h, w, c), contiguous."""
    n, c, h, w = obs.shape
    if c == 1:
        return obs.reshape(n, h, w, c)
    out = np.empty((n, h, w, c), obs.dtype)
    for channel in range(c):  # three times as fast as copying the transposed view
        out[..., channel] = obs[:, channel]
    return out
