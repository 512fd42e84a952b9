"""Gymnasium environments in processes of their own: in parallel, each process stepping its share on its main thread."""

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from hdfast.envs.gate import Fault
from hdfast.envs.gym import together
from hdfast.envs.stream import Parts, Record
from hdfast.errors import ConfigError, RunError

ENDING = 2.0  # seconds that a process has to close its environments


class ProcessesBackend:
    """The environments of a `GymnasiumBackend`, its arguments `options`, spread over `workers` processes.

    A process is started by its own command, so the program that trains needs no guard of its main module; the function
    that makes environments is sent by cloudpickle.
    """

    def __init__(self, make: Any, seeds: list[int], size: int | tuple[int, int] | None, *, workers: int,
                 **options: Any):
        import cloudpickle  # a dependency of gymnasium
        self._shares = [range(share[0], share[-1] + 1) for share in np.array_split(np.arange(len(seeds)), workers)]
        self._workers = []
        self.num_envs, self.progress = len(seeds), 0
        self._missing: set[int] = set()
        try:
            for share in self._shares:
                job = (make, [seeds[i] for i in share], size, options)
                self._workers.append(_start(cloudpickle.dumps((sys.path, job))))
            for worker in self._connections:
                self.obs_space, self.act_space = _answer(worker)
        except BaseException as error:
            self.close()
            if isinstance(error, Fault):
                raise RunError(f"an environment could not be made: it {error}; fix the environment") from None
            raise

    @property
    def _connections(self) -> list[Connection]:
        return [connection for _, connection in self._workers]

    @property
    def current(self) -> int:
        """The environment that failed, or one that has not answered."""
        return min(self._missing, default=0)

    def reset(self) -> Parts:
        self._ask("reset", [None] * self.num_envs)
        return self._answers().obs

    def send(self, action: np.ndarray) -> None:
        self._ask("step", list(action))

    def recv(self) -> Record:
        return self._answers()

    def close(self) -> None:
        for connection in self._connections:
            connection.close()  # its process reads the end and closes its environments
        for process, _ in self._workers:
            with suppress(subprocess.TimeoutExpired):
                process.wait(ENDING)
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End the processes at once, whatever they do; whoever waits for an answer learns that there is none."""
        for process, _ in self._workers:
            process.kill()

    def _ask(self, what: str, actions: list[Any]) -> None:
        for share, worker in zip(self._shares, self._connections, strict=True):
            with suppress(OSError):  # a process that is gone is noticed where its answer is missing
                worker.send((what, [actions[i] for i in share]))

    def _answers(self) -> Record:
        """One record per environment, in their order, from answers that come one by one."""
        records: dict[int, Any] = {}
        self._missing = set(range(self.num_envs))
        due: dict[Any, list[int]] = dict(zip(self._connections, map(list, self._shares), strict=True))
        while due:
            for worker in wait(list(due)):
                i = due[worker].pop(0)
                try:
                    records[i] = _answer(worker)
                except Fault:
                    self._missing = {i}
                    raise
                self.progress += 1
                self._missing.discard(i)
            due = {worker: share for worker, share in due.items() if share}
        return together([records[i] for i in range(self.num_envs)])


def _start(job: bytes) -> tuple[subprocess.Popen, Connection]:
    """A process that serves a share of the environments, and the connection to it."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([sys.executable, "-m", "hdfast.envs.processes", str(theirs.fileno())],
                                   pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
                                   env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    connection = Connection(ours.detach())
    connection.send_bytes(job)
    return process, connection


def _answer(worker: Any) -> Any:
    """What a process sent; its exception is raised here."""
    try:
        answer = worker.recv()
    except (EOFError, OSError):
        raise Fault("ended its process (env.workers); its own messages are above") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _serve(connection: Connection) -> None:
    """Make environments, then answer every request with one record per environment, until the other end closes."""
    import cloudpickle

    from hdfast.envs.gym import GymnasiumBackend
    path, (make, seeds, size, options) = cloudpickle.loads(connection.recv_bytes())
    sys.path[:] = path
    backend = None
    try:
        backend = GymnasiumBackend(make, seeds, size, **options)
        connection.send((backend.obs_space, backend.act_space))
        while True:
            what, actions = connection.recv()
            for i, action in enumerate(actions):
                connection.send(backend.reset_one(i) if what == "reset" else backend.step_one(i, action))
    except EOFError:
        pass
    except Exception as error:
        kept = (Fault, ConfigError, RunError)  # another kind may not exist on the other side
        connection.send(error if isinstance(error, kept) else Fault(f"raised {type(error).__name__}: {error}"))
    finally:
        if backend:
            backend.close()


def _watch(parent: int) -> None:
    """End this process after the one that started it, even in the middle of a step that never ends."""
    while os.getppid() == parent:
        time.sleep(ENDING)
    time.sleep(ENDING)  # for the environments to be closed
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    with suppress(KeyboardInterrupt, BrokenPipeError, ConnectionResetError):
        _serve(Connection(int(sys.argv[1])))
