"""The loops and the whole learner update on each rung of the ladder, in this process.

Ratios to report come from `hdfast bench`, whose rows have a process each and take turns; here are trends.
"""

import pytest

from hdfast.bench import ours, serve
from hdfast.bench.cases import LOOPS

ROUNDS = 7


@pytest.mark.parametrize("name", [*LOOPS, "update"])
def test_loop(benchmark, describe, sizes, backend, name):
    run = ours.all_cases(sizes, backend)[name]()
    run()  # burn-in: compilation and first allocations
    peak = serve.timed(run, 1)["peak_rss_mb"]
    shape = sizes.run.batch_length, sizes.run.batch_size, sizes.behavior.horizon
    describe(name, name, "fwd_bwd" if name != "imagine" else "fwd", shape, peak_mem_mb=round(peak, 1))
    benchmark.pedantic(run, rounds=ROUNDS)
