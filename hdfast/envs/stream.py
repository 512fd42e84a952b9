"""The protocol every environment speaks: records in the official alignment, and a Python error for every misuse.

A `Backend` adapts one library: a thin class with next-step autoreset and no checks of its own. `Stream` adds the rest
once: what may be called when, which actions are valid, and how flags become records. Nothing invalid reaches the
library; several of them answer a bad array with undefined behavior or a dead process.
"""

import ctypes
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from hdfast.envs.gate import Fault
from hdfast.envs.worker import Worker
from hdfast.errors import EnvError
from hdfast.spaces import ActSpace, Box, ObsSpace

Parts = dict[str, np.ndarray]
"""Observations by part, (N, *shape) each, in the order of the space."""
CLOSING = 1.0  # seconds that a step under way, and the library's own closing, may take


class Record(NamedTuple):
    """A step as a library has it: terminated is a true end, truncated a time limit; (N, ...) each."""

    obs: Parts
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    success: np.ndarray | None = None  # of this very step, where the environment says so


@dataclass(slots=True)
class Step:
    """One record per environment; `reward` is what led into `obs`, an action belongs to the record it was chosen on.

    obs (N, *shape) by part of the observation space, reward (N,) float32, is_first, is_last, is_terminal (N,) bool;
    is_cut (N,) bool, where it is known, marks the ends that a time limit made; is_success (N,) bool, once an
    environment has said anything about success, whether a step of the episode so far was one. The first record of an
    episode has is_first and reward 0. After is_last the next record is a first one, after any action.
    """

    obs: Parts
    reward: np.ndarray
    is_first: np.ndarray
    is_last: np.ndarray
    is_terminal: np.ndarray
    is_cut: np.ndarray | None = None
    is_success: np.ndarray | None = None

    @property
    def image(self) -> np.ndarray:
        """The images (N, h, w, c) uint8 of the part 'image'; TypeError if there is none."""
        if "image" not in self.obs:
            raise TypeError(f"expected observations with a part 'image', got {', '.join(self.obs)}; read .obs instead")
        return self.obs["image"]


class VectorEnv(Protocol):
    """N environments stepped together; what `make_envs` returns."""

    num_envs: int
    obs_space: ObsSpace
    act_space: ActSpace

    def reset(self) -> Step:
        """Start a new episode everywhere and return its first records; after an EnvError in new environments."""

    def send(self, action: np.ndarray) -> None:
        """Give every environment its action, (N, *act_space.shape) of the space's kind, and return while they step."""

    def recv(self) -> Step:
        """Wait for the records that answer the last `send`; EnvError if an environment failed."""

    def step(self, action: np.ndarray) -> Step:
        """`send`, then `recv`."""

    def close(self) -> None:
        """Free the environments; a second call does nothing."""


class Backend(Protocol):
    """One environment library behind `Stream`: next-step autoreset, rows in environment order, no checks.

    It is made where its `Stream` is, as environments may want the main thread for their constructors; it is sent to
    there, and reset, received from and closed on another thread. A backend that steps its environments one after
    another says in `current` which one is at work, and in `progress` how many calls have begun; one that can
    end them in the middle of a step has `kill()`; one that can draw environment 0 has `picture()`.
    """

    num_envs: int
    obs_space: ObsSpace

    @property
    def act_space(self) -> ActSpace:
        """What `send` takes."""

    def reset(self) -> Parts:
        """New episodes everywhere -> contiguous observations that the caller may keep."""

    def send(self, action: np.ndarray) -> None:
        """Start a step with (N, *act_space.shape) actions, int64 or float32 in -1..1; if the last step ended an
        episode, reset instead."""

    def recv(self) -> Record:
        """Finish the step."""

    def close(self) -> None:
        """Free the library's objects."""


# State of a Stream -> what is wrong with the call, what to do about it.
_STATES = {
    "new": ("no episode has begun", "call reset() first"),
    "ready": ("no action is under way", "call send(action) first"),
    "sent": ("the last action was not received yet", "call recv() first"),
    "failed": ("an environment failed", "call reset(), which makes new ones"),
    "closed": ("the environments are closed", "make new ones with make_envs()"),
    "forked": ("they belong to the parent of this forked process", "make new ones with make_envs() after the fork"),
}


class Stream:
    """A `VectorEnv` on top of the backend that `make(seed)` gives.

    With `terminal_on_limit`, a time-limit end counts as terminal, as in the official Atari code. An environment whose
    reset or step takes longer than `timeout` seconds (0: no limit) has failed; `name` says in errors what did.
    Environments made after a failure get other seeds, or they would come to the same end.
    """

    def __init__(self, make: Callable[[int], Backend], seed: int = 0, *, name: str = "the task",
                 terminal_on_limit: bool = True, timeout: float = 0.0):
        self._make, self._seed, self._name, self._timeout = make, seed, name, timeout
        self._worker, self._made = Worker(), 1
        self._backend: Any = make(seed)  # a Backend, None once it is given back
        self.num_envs = self._backend.num_envs
        self.obs_space = self._backend.obs_space
        self.act_space = self._backend.act_space
        self._terminal_on_limit = terminal_on_limit
        self._records = 0  # of each environment, since they were made
        self._is_last = np.zeros(self.num_envs, bool)
        self._success: np.ndarray | None = None
        self._state = "new"
        _STREAMS.add(self)

    def reset(self) -> Step:
        """Start a new episode everywhere (also in mid-episode) -> records with is_first; RuntimeError if closed.

        EnvError if an environment fails; the next reset then makes new ones.
        """
        if self._state in ("closed", "forked"):
            raise self._refusal("reset", "open environments")
        if self._state == "failed":
            self._give_back()
            seed = np.random.SeedSequence([self._seed, self._made]).generate_state(1)[0] >> 1
            self._worker, self._made, self._records = Worker(), self._made + 1, 0
            self._backend = self._make(int(seed))
        pending, self._state = self._state == "sent", "failed"
        if pending:
            self._wait()
        self._worker.start(self._backend.reset)
        no = np.zeros(self.num_envs, bool)
        return self._record(Record(self._wait(), no.astype(np.float32), no, no), ~no)

    def send(self, action: np.ndarray) -> None:
        """Start a step: (N,) or (N, groups) integers, or (N, size) numbers, which are clipped to [-1, 1]; of any value
        if the last record was is_last.

        Raises TypeError, ValueError (dtype, shape, value) or RuntimeError (not the time for it).
        """
        if self._state != "ready":
            raise self._refusal("send", "a record to act on")
        action = self._checked(action)
        try:
            self._backend.send(action)
        except Exception as error:  # raised by recv, when what came before it is stored
            self._worker.start(_throw, error)
        else:
            self._worker.start(self._backend.recv)
        self._state = "sent"

    def recv(self) -> Step:
        """Wait for the step begun by `send` -> its records; RuntimeError without one, EnvError if it failed."""
        if self._state != "sent":
            raise self._refusal("recv", "an action under way")
        self._state = "failed"  # only a reset leads out of it
        found: Record = self._wait()
        with np.errstate(over="ignore"):  # beyond float32: infinite, and refused
            reward = np.where(self._is_last, 0, found.reward).astype(np.float32, copy=False)
        return self._record(found._replace(reward=reward), self._is_last)

    def step(self, action: np.ndarray) -> Step:
        """`send(action)`, then `recv()`."""
        self.send(action)
        return self.recv()

    def picture(self) -> np.ndarray | None:
        """What environment 0 draws of itself now, (h, w, 3) uint8, if no action is under way; None if it does not."""
        draw = getattr(self._backend, "picture", None)
        if draw is None or self._state != "ready":
            return None
        self._worker.start(draw)
        return self._wait()

    def close(self) -> None:
        """Free the environments, or leave those that hang; a second call does nothing."""
        if self._state != "forked":
            self._state = "closed"
            self._give_back()

    def _record(self, found: Record, is_first: np.ndarray) -> Step:
        """The next records, which an action may answer; EnvError if they are not finite."""
        obs, reward, terminated, truncated, success = found
        self._check("reward", reward)
        for name, values in obs.items():
            self._check("observation" if len(obs) == 1 else f"observation {name}", values)
        self._records += 1
        self._state = "ready"
        is_last = terminated | truncated
        self._is_last = is_last.copy()
        is_terminal = is_last.copy() if self._terminal_on_limit else terminated
        if success is not None or self._success is not None:
            before, no = self._success, np.zeros(self.num_envs, bool)
            self._success = (no if before is None else before & ~is_first) | (no if success is None else success)
        return Step(obs, reward, is_first, is_last, is_terminal, is_last & ~terminated,
                    None if self._success is None else self._success.copy())

    def _wait(self) -> Any:
        """The result of what the worker does."""
        try:
            return self._worker.result(self._timeout, lambda: getattr(self._backend, "progress", 0))
        except Fault as error:
            raise self._failed(str(error)) from error
        except Exception as error:
            if self._worker.busy:
                raise self._failed(f"did not answer for {self._timeout:g} seconds (env.timeout)") from None
            raise self._failed(f"raised {type(error).__name__}" + f": {error}".rstrip(": ")) from error

    def _check(self, what: str, values: np.ndarray) -> None:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))[0])
            raise self._failed(f"gave the {what} {values[row]}, which is not finite", row)

    def _failed(self, what: str, row: int | None = None) -> EnvError:
        if row is None:
            row = getattr(self._backend, "current", 0 if self.num_envs == 1 else None)
        which = f"environment {row}" if row is not None else f"one of the environments 0 to {self.num_envs - 1}"
        return EnvError(f"{self._name}: {which} {what}, at step {self._records} since it was made; fix the "
                        "environment, wrap it, or let the run make a new one: --env.retries 3")

    def _give_back(self) -> None:
        """Close the backend on its own thread; one whose thread does not come back is never destroyed."""
        backend, worker, self._backend = self._backend, self._worker, None
        if backend is None:
            return
        try:
            if worker.busy:
                worker.result(CLOSING)
        except Exception:
            pass  # its failure was reported before, or nobody wants its result any more
        try:
            if not worker.busy:
                worker.call(backend.close, seconds=CLOSING)
        except Exception:
            pass  # nobody wants its result any more
        finally:
            worker.close()
            if worker.busy:  # its destructor would wait for the same thread
                getattr(backend, "kill", lambda: None)()
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(backend))

    def _refusal(self, call: str, need: str) -> RuntimeError:
        found, remedy = _STATES[self._state]
        return RuntimeError(f"{call}() needs {need}, but {found}; {remedy}")

    def _checked(self, action: np.ndarray) -> np.ndarray:
        """The action in the space's own type, 0 if it will be ignored."""
        space = self.act_space
        numbers = isinstance(space, Box)
        shape = (self.num_envs, *space.shape)
        want = f"action must be {'a float' if numbers else 'an integer'} numpy array of shape {shape}"
        if not isinstance(action, np.ndarray):
            raise TypeError(f"{want}, got {type(action).__name__}; pass np.array(action)")
        if action.dtype.kind not in ("f" if numbers else "iu"):
            raise TypeError(f"{want}, got dtype {action.dtype}; "
                            f"pass {'numbers in -1..1' if numbers else 'the indices of the actions'}")
        if action.shape != shape:
            raise ValueError(f"{want}, got shape {action.shape}; pass one action per environment"
                             f"{'' if numbers else ', as indices, not one-hot'}")
        action = np.where(self._is_last.reshape(-1, *(1 for _ in space.shape)), 0, action)
        wrong = np.flatnonzero(space.wrong(action))
        if wrong.size:
            allowed = "finite" if numbers else "in " + ", ".join(f"0..{n - 1}" for n in space.sizes)
            raise ValueError(f"action must be {allowed}, got {action[wrong[0]]} for environment {wrong[0]}; act_space "
                             f"has {space}")
        return (action.clip(-1, 1) if numbers else action).astype(space.dtype, copy=False)

    def _abandon(self) -> None:
        """Give up the backend in a forked child without ever destroying it."""
        if self._backend is not None:
            # Worker threads do not survive a fork, and envpool's destructor crashes without them.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._backend))
            self._backend, self._state = None, "forked"


def _throw(error: Exception) -> None:
    raise error


_STREAMS: "weakref.WeakSet[Stream]" = weakref.WeakSet()


def _abandon_all() -> None:
    for stream in list(_STREAMS):
        stream._abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)


def env_seeds(seed: int, num_envs: int) -> list[int]:
    """One seed per environment, 0..2^31-1: nearby values of `seed` have nothing in common."""
    return (np.random.SeedSequence(seed).generate_state(num_envs) >> 1).tolist()
