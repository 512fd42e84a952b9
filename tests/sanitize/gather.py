"""_host as Python calls it, numpy and nothing else beside it; tests/sanitize/native.sh runs it under valgrind.

    HDFAST_LIBRARY_DIR=FOLDER python tests/sanitize/gather.py CALLS [leak]     leak: keep what calls made, on purpose

Fails where 1000 calls or more leave memory behind; fewer are for valgrind, which keeps what is freed.
"""

import gc
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "hdfast" / "replay"))  # without the package, which imports torch
import host

kept = []


def calls(count: int) -> None:
    ring, index = np.arange(5 * 700, dtype=np.uint8).reshape(5, 20, 35), np.array([[4, 0, 3], [3, 1, 2]])
    wrong = [(ring[0, 0, 0], index, ring), (ring, index + 5, ring), (ring, index, ring), (ring, index, ring[:0]),
             (ring, index.astype(np.int32), ring), (ring, index - 9, np.zeros((2, 3, 20, 35), np.uint8))]
    for n in range(count):
        out = np.zeros((2, 3, 20, 35), np.uint8)
        host.gather(ring, index, out, threads=1 + n % 3)
        assert (out == ring[index]).all()
        for given in wrong:
            try:
                host.gather(*given)
            except (TypeError, ValueError):
                continue
            raise AssertionError("taken")
        if "leak" in sys.argv:
            kept.append(out)


def resident() -> int:
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * 4096


large, rows = np.ones((3, 1 << 20), np.uint8), np.zeros((4, 1 << 20), np.uint8)
host.gather(large, np.array([2, 0, 1, 1]), rows, threads=4)
assert rows.all() and host.build_info()["version"]
count = int(sys.argv[1])
calls(count)
before = resident()
calls(count)
grown = resident() - before
print(f"{grown} bytes grown")
sys.exit(count >= 1000 and grown > 1 << 20)
