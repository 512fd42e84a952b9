"""Make the environments of the peers: `python bench/peers/install.py [sheeprl torchrl dreamer]`.

One virtual environment each, in HDFAST_PEERS or hdfast/peers of the user's cache, with the versions that
hdfast/bench/peers.py names. An environment that is complete is left as it is.
"""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hdfast.bench.peers import PEERS, folder, python

# The source package of `dreamer` reads a requirements.txt that it does not hold. Its build gets an empty one.
HOOK = """\
from pathlib import Path
if Path("setup.py").exists() and not Path("requirements.txt").exists():
    Path("requirements.txt").touch()
"""


def install(name: str) -> None:
    """Create one environment and install into it, in the order that the peer names."""
    home = folder() / name
    done = home / ".complete"
    wanted = "\n".join(" ".join(step) for step in PEERS[name].installs)
    if done.exists() and done.read_text() == wanted:
        print(f"{name}: complete")
        return
    if not python(name).exists():
        venv.create(home, with_pip=True, symlinks=True)
    with tempfile.TemporaryDirectory() as hook:
        Path(hook, "sitecustomize.py").write_text(HOOK)
        for step in PEERS[name].installs:
            own_build = "--no-build-isolation" in step
            env = os.environ | ({"PYTHONPATH": hook} if own_build else {})
            subprocess.run([python(name), "-m", "pip", "install", *step], env=env, cwd=home, check=True)
    done.write_text(wanted)
    print(f"{name}: installed in {home}")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or PEERS:
        if chosen not in PEERS:
            sys.exit(f"unknown peer '{chosen}' (peers: {', '.join(PEERS)})")
        install(chosen)
