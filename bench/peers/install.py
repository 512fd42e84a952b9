"""Make the environments of the peers: `python bench/peers/install.py [sheeprl torchrl dreamer]`.

One virtual environment each, in HDFAST_PEERS or hdfast/peers of the user's cache, with exactly the versions in NAME.txt
beside this file. In the end every program that runs in one is imported there, and what one lacks is named. An
environment that is complete is only checked.
"""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hdfast.bench.peers import PEERS, ROOT, folder, lock, python, script
from hdfast.errors import RunError

# The source package of `dreamer` reads a requirements.txt that it does not hold. Its build gets an empty one.
HOOK = """\
from pathlib import Path
if Path("setup.py").exists() and not Path("requirements.txt").exists():
    Path("requirements.txt").touch()
"""
ALSO = {"sheeprl": [ROOT / "bench" / "learning" / "sheeprl_run.py"]}
"""Programs that run in a peer's environment beside the one that measures it."""
IMPORT = "import runpy, sys; runpy.run_path(sys.argv[1])"


def install(name: str) -> None:
    """Create one environment, install what its lock names, and check it; RunError says what did not work."""
    done, wanted = folder() / name / ".complete", lock(name).read_text()
    if not (done.exists() and done.read_text() == wanted):
        fill(name, wanted)
    try:
        check(name)
    except RunError:
        done.unlink(missing_ok=True)
        raise
    done.write_text(wanted)
    print(f"{name}: complete, in {folder() / name}")


def fill(name: str, wanted: str) -> None:
    """Let pip install the lock. Packages without a wheel are built with the setuptools that it names."""
    if not python(name).exists():
        venv.create(folder() / name, with_pip=True, symlinks=True)
    setuptools = [line for line in wanted.splitlines() if line.startswith("setuptools==")]
    with tempfile.TemporaryDirectory() as hook:
        Path(hook, "sitecustomize.py").write_text(HOOK)
        for step in (setuptools, ["--no-build-isolation", "-r", str(lock(name))]):
            done = subprocess.run([python(name), "-m", "pip", "install", *step], env=os.environ | {"PYTHONPATH": hook},
                                  cwd=folder() / name)
            if done.returncode:
                raise RunError(f"{name}: pip ended with code {done.returncode}; its output is above")


def check(name: str) -> None:
    """Import all that runs in an environment; RunError with the last line of what that said, which names the module."""
    for program in (script(name), *ALSO.get(name, ())):
        done = subprocess.run([python(name), "-c", IMPORT, program, "1"], env=os.environ | {"PYTHONPATH": str(ROOT)},
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
            raise RunError(f"{name}: {program.name} cannot be imported: {said[-1]}; install again, and if that does "
                           f"not help, add what is missing to bench/peers/{lock(name).name}")


def main(names: list[str]) -> int:
    """Install the peers of these names, or all; 1 if one of them cannot be used."""
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        sys.exit(f"unknown peer '{unknown[0]}' (peers: {', '.join(PEERS)})")
    failed = 0
    for name in names or PEERS:
        try:
            install(name)
        except RunError as error:
            print(f"install: error: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
