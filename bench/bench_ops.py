"""Every op on each rung of the ladder: reference eager, the same under torch.compile, native."""

import pytest

from hdfast.bench import serve, workload
from hdfast.bench.cases import operations

CASES = [(name, mode) for name, op in operations(workload.sized("reduced")).items() for mode in op.modes]


@pytest.mark.parametrize(("name", "mode"), CASES, ids=lambda part: part)
def test_op(benchmark, describe, roof_gbs, sizes, backend, name, mode):
    built = operations(sizes)[name].build(mode, compiled=backend == "compile")
    built.run()  # burn-in: compilation and first allocations
    peak = serve.timed(built.run, 3)["peak_rss_mb"]
    describe(f"{name}.{mode}", name, mode, built.shape, bytes=built.bytes, peak_mem_mb=round(peak, 1))
    benchmark(built.run)
    if benchmark.stats:  # none under --benchmark-disable
        achieved = built.bytes / benchmark.stats.stats.median / 1e9
        benchmark.extra_info.update(gbs=round(achieved, 3), roof_gbs=round(roof_gbs, 2),
                                    share_of_roof=round(achieved / roof_gbs, 3))
