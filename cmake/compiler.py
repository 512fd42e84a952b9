"""Whether this build makes the native libraries: where a C++ compiler works, unless HDFAST_NATIVE says otherwise."""

import os
import shlex
import subprocess
import sys

LOST = ("hdfast: no C++ compiler works here (CXX, c++, g++ or clang++ on PATH), so the native library is left out and "
        "operations run in plain PyTorch, more than twice as slow on a CPU; to have it, install one (apt install g++, "
        "dnf install gcc-c++, xcode-select --install) and repeat with pip install --no-cache-dir, or install a wheel, "
        "which has the library")


def find_compiler() -> str | None:
    """The C++ compiler that CMake will take, or None. macOS has a c++ that only says how to get one: so it is run."""
    for command in filter(None, [os.environ.get("CXX"), "c++", "g++", "clang++"]):
        try:
            subprocess.run([*shlex.split(command), "--version"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return command
    return None


def builds_native() -> bool:
    """HDFAST_NATIVE: 0 never, 1 always; else where there is a compiler. SystemExit for another value, or 1 without."""
    wanted = os.environ.get("HDFAST_NATIVE") or "auto"
    if wanted not in ("0", "1", "auto"):
        raise SystemExit(f"hdfast: HDFAST_NATIVE is '{wanted}'; it must be auto, 0 or 1")
    found = wanted != "0" and find_compiler() is not None
    if wanted == "1" and not found:
        raise SystemExit(f"{LOST}. HDFAST_NATIVE=1 insists on it, so nothing was installed")
    return found


def say(sentence: str) -> None:
    """On standard error, which pip keeps to itself while a build succeeds, and therefore on the terminal too."""
    print(sentence, file=sys.stderr)
    if not sys.stderr.isatty():
        try:
            with open("/dev/tty", "w") as terminal:
                print(f"\n{sentence}", file=terminal)
        except OSError:  # there is none
            pass
