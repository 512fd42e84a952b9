"""Atari games through ale-py's own vector environment: a download of 3 MB. The only file that imports ale_py."""

from typing import Any

import numpy as np

from hdfast.config import EnvConfig
from hdfast.envs.atari import episode_steps
from hdfast.envs.stream import env_seeds
from hdfast.envs.vector import VectorBackend, thread_count
from hdfast.errors import RunError
from hdfast.spaces import Discrete, ObsSpace
from hdfast.tasks import rom_name


def ale_backend(task: str, env: EnvConfig, num_envs: int, seed: int) -> VectorBackend:
    """ale-py's Atari with every protocol option spelled out; its own defaults are another protocol.

    The no-op frames at reset are 0..noop_max-1, exactly the official draw. One difference to the official environment
    remains: an episode's final image lacks its last frame, also at the time limit. It is the previous record's image,
    or the maximum of that and the third frame if the whole skip was played.
    """
    try:
        import ale_py
        from ale_py.vector_env import AtariVectorEnv
    except ImportError as error:
        raise RunError(f"{task} with --env.backend ale is played by ale-py, which cannot be imported ({error}); "
                       "run `pip install ale-py`, or use EnvPool: --env.backend envpool") from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner
    envs: Any = AtariVectorEnv(
        rom_name(task), num_envs,
        batch_size=num_envs,  # synchronous: rows in environment order
        num_threads=env.num_threads or thread_count(num_envs),
        stack_num=1,  # ale-py: 4; the recurrent model sees one frame at a time
        grayscale=env.grayscale,  # ale-py: True
        img_height=env.size,  # ale-py: 84
        img_width=env.size,
        frameskip=env.frame_skip,
        maxpool=True,  # maximum of the last two frames
        noop_max=env.noop_max,
        max_num_frames_per_episode=episode_steps(env) * env.frame_skip,  # whole steps; no-ops do not count
        use_fire_reset=False,  # ale-py: True presses FIRE after the no-ops; the official environment does not
        episodic_life=False,  # an episode ends at game over, not with a life
        life_loss_info=False,
        reward_clipping=False,  # ale-py: True; scores and training use the game's own rewards
        repeat_action_probability=env.sticky,
        full_action_space=env.full_action_space,
        continuous=False,
        autoreset_mode="NextStep",
    )
    shape = (env.size, env.size, 1 if env.grayscale else 3)
    return VectorBackend(envs, num_envs, ObsSpace.single(shape, "uint8"), Discrete(int(envs.single_action_space.n)),
                         lambda obs, _: {"image": obs.reshape(num_envs, *shape)},  # from (N, 1, h, w[, 3])
                         seed=np.array(env_seeds(seed, num_envs)))
