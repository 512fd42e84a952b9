"""Strike a training run with every fault at hand and check what is left of it: `make faults`.

    python tests/faults/run.py [--kills 200] [--seconds 840] [--seed 0] [--json FILE] [--quick]

Prints a table and exits 1 if a promise of docs/reliability.md was broken.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import lives


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="times a run is killed")
    parser.add_argument("--only", default="", help="kill by those kinds alone whose name holds this")
    parser.add_argument("--failures", type=int, default=48, help="times a file operation fails")
    parser.add_argument("--damages", type=int, default=10**6, help="spoiled files; by default every file in every way")
    parser.add_argument("--disks", type=int, default=8, help="real small disks that run full or are read-only")
    parser.add_argument("--seconds", type=float, default=840, help="no new run is begun after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="write the result to this file too")
    parser.add_argument("--sabotage", default="", help="plant this bug of kills.SABOTAGE first: it must be found")
    parser.add_argument("--quick", action="store_true", help="the slice of the test suite: a few of each")
    options = parser.parse_args()
    if options.quick:
        options.kills, options.failures, options.damages, options.disks = 6, 2, 3, 0
    lives.prepare(__file__)
    import kills
    from harness import Harness

    began = time.monotonic()
    kills.small_chunks()
    with tempfile.TemporaryDirectory(prefix="hdfast-faults-") as folder:
        harness = Harness(Path(folder), options.seed, options.seconds)
        if options.sabotage:
            kills.SABOTAGE[options.sabotage]()
        killing = tuple(kind for kind in kills.KILLS if options.only in kind.name)
        harness.chains(killing, options.kills, compare=1 if options.quick else 4, share=0.5)
        harness.chains(kills.FAILURES, options.failures, compare=0, share=0.65)
        harness.damages(options.damages, share=0.95)
        harness.disks(options.disks)
        print(harness.table.text(), flush=True)
    seconds = round(time.monotonic() - began)
    table = harness.table
    print(f"{sum(row['times'] for row in table.rows.values())} faults, {len(table.violations)} violations, {seconds} s")
    for line in harness.cut_short:
        print(f"no time for all: {line}")
    for violation in table.violations:
        print(f"\nVIOLATION {violation}")
    if options.json:
        Path(options.json).write_text(json.dumps({"rows": table.rows, "violations": table.violations,
                                                  "cut_short": harness.cut_short, "seconds": seconds}, indent=2))
    return 1 if table.violations else 0


if __name__ == "__main__":
    sys.exit(main())
