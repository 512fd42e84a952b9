"""Lives of a training process: each is a fork of this process, which has imported everything, so one costs a second.

The child runs the `hdfast` command itself (cli.main). The preloaded shim strikes at a file operation of its choice, or
the parent kills it by the clock.
"""

import ctypes
import errno
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIMIT = 120.0  # seconds after which a life hangs
OPS = {"write": 1, "fsync": 2, "rename": 4, "open": 8, "unlink": 16, "mkdir": 32, "truncate": 64}
HOWS = ("count", "before", "halfway", "after", "once", "on")  # as the shim's enum How
TRACEBACK, LEFT = 70, -signal.SIGKILL
Entry = tuple[int, str]  # inode of a folder (0: none) and a name in it
Change = tuple[Entry, Entry, int]


@dataclass(frozen=True)
class Fault:
    """What strikes: the `at`-th of the operations `ops` on paths that contain `part`.

    how: count (nothing happens, all is reported), before, halfway or after (killed there), once or on (it fails with
    `error`, once or from then on).
    """

    how: str
    at: int = 0
    ops: tuple[str, ...] = tuple(OPS)
    part: str = ""
    error: int = errno.EIO


@dataclass
class Life:
    """How a life ended: exit code (negative: the signal), all it printed, the operations reported, by inode how
    many bytes of a file were surely on the disk, and the changes of names: (folder, name) that went, (folder, name)
    that came, inode; or the inode of a folder that was synced."""

    code: int
    output: str
    struck: list[str] = field(default_factory=list)
    synced: dict[int, int] = field(default_factory=dict)
    names: list[Change | int] = field(default_factory=list)
    seconds: float = 0.0


def prepare(script: str) -> None:
    """Start this program again with the shim preloaded, unless it is; then import all that a training run imports."""
    if "HDFAST_SHIM" not in os.environ:
        library = Path(tempfile.mkdtemp(prefix="hdfast-shim-")) / "shim.so"
        subprocess.run(["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-o", library, HERE / "shim.cpp"], check=True)
        os.environ |= {"HDFAST_SHIM": str(library), "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1",
                       "OMP_WAIT_POLICY": "passive", "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg",
                       "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])}
        os.execv(sys.executable, [sys.executable, script, *sys.argv[1:]])
    import matplotlib.pyplot  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torch
    import torch.utils.tensorboard.summary

    from hdfast import cli, trainer  # noqa: F401
    torch.set_num_threads(1)


def live(arguments: list[str], root: Path, fault: Fault | None = None, *, kill_after: float | None = None,
         attic: Path | None = None) -> Life:
    """Run `hdfast <arguments>` in a child, with a fault below `root`, to its end or until it is killed.

    With `attic` changes of names are noted, and files made in this life are kept there under their inode.
    """
    with tempfile.TemporaryDirectory(prefix="hdfast-life-") as folder:
        output, report = Path(folder) / "output", Path(folder) / "report"
        report.touch()
        began = time.monotonic()
        child = os.fork()
        if not child:
            _child(arguments, root, fault, output, report, attic)
        killer = threading.Timer(LIMIT if kill_after is None else kill_after, os.kill, (child, signal.SIGKILL))
        killer.start()
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # its number stays its own while it may be killed
        killer.cancel()
        killer.join()
        status = os.waitpid(child, 0)[1]
        life = Life(os.waitstatus_to_exitcode(status), output.read_text(), seconds=time.monotonic() - began)
        if kill_after is None and life.seconds > LIMIT:
            raise AssertionError(f"a life hung: {arguments}, {fault}\n{life.output}")
        for line in report.read_text().splitlines():
            if found := re.fullmatch(r"=(\w+) (\d+) (\d+)", line):
                what, inode, size = found[1], int(found[2]), int(found[3])
                if what == "folder":
                    life.names.append(inode)
                elif what == "sync" or not size:
                    life.synced[inode] = size
            elif line.startswith("@"):
                old, went, new, came, inode = line[1:].split("\t")
                life.names.append(((int(old), went), (int(new), came), int(inode)))
            else:
                life.struck.append(line)
        return life


def _child(arguments: list[str], root: Path, fault: Fault | None, output: Path, report: Path,
           attic: Path | None) -> None:
    code = TRACEBACK
    try:
        handle = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = open(1, "w", buffering=1, closefd=False), open(2, "w", buffering=1, closefd=False)
        from hdfast import cli
        fault = fault or Fault("count", ops=())
        ctypes.CDLL(os.environ["HDFAST_SHIM"]).faults_arm(
            f"{root}/".encode(), fault.part.encode(), sum(OPS[name] for name in fault.ops), ctypes.c_long(fault.at),
            HOWS.index(fault.how), fault.error, os.open(report, os.O_WRONLY | os.O_APPEND), str(attic or "").encode())
        code = cli.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
