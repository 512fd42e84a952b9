// return_range.cpp -- moving return percentiles as a torch op; the math stands in kernels/return_range.h.
#include "kernels/return_range.h"

#include <cmath>

#include "ops/glue.h"

namespace hd::ops {
namespace {

// ret (N,), low (), high (), percentiles in [0, 100] -> (3,): new low, new high, scale
Tensor return_range(Tensor ret, Tensor low, Tensor high, double decay, double low_percentile,
                    double high_percentile, double floor) {
  HD_CHECK(ret.dim() == 1 && ret.numel() >= 1, "return_range: ret must be (n,), not empty", got(ret));
  for (const Tensor& t : {ret, low, high}) {
    check_float(t, ret, "return_range: ret, low or high");
  }
  for (const Tensor& t : {low, high}) check_count(t, 1, "return_range: low or high");
  Tensor result = empty(ret, {3});
  ReturnRangeArgs args{};
  args.ret = in(ret), args.low = in(low), args.high = in(high), args.out = out(result);
  args.size = ret.numel();
  args.decay = float(decay), args.rest = float(1.0 - decay), args.floor = float(floor);
  const double percentile[2] = {low_percentile, high_percentile};
  for (int i = 0; i < 2; ++i) {
    HD_CHECK(percentile[i] >= 0 && percentile[i] <= 100,
             "return_range: percentiles must be in [0, 100], got ", percentile[i]);
    const float place =
        float(percentile[i] / 100) * float(args.size - 1);  // in fp32, as torch.quantile has it
    const float below = std::floor(place);
    args.rank[2 * i] = std::min(int64_t(below), args.size - 1);
    args.rank[2 * i + 1] = std::min(int64_t(std::ceil(place)), args.size - 1);
    args.fraction[i] = place - below;
  }
  run(ret, [&](auto stream) { launch_return_range(args, stream); }, [&](auto) { cpu::return_range(args); });
  return result;
}

}  // namespace
}  // namespace hd::ops

HD_LIBRARY(m) {
  m.def(
      "return_range(Tensor ret, Tensor low, Tensor high, float decay, float low_percentile, float "
      "high_percentile, "
      "float floor) -> Tensor");
}

HD_IMPLEMENT(m) { m.impl("return_range", HD_BOX(hd::ops::return_range)); }
