// return_range.cpp -- moving return percentiles as a torch op; the equations are in kernels/return_range.h.
#include "kernels/return_range.h"

#include <cmath>

#include "ops/glue.h"

namespace hd::ops {
namespace {

// ret (N,), low (), high (), percentiles in [0, 100] -> (3,): new low, new high, scale
HD_OP(Tensor, return_range,
      (Tensor ret, Tensor low, Tensor high, double decay, double low_percentile, double high_percentile,
       double floor)) {
  HD_CHECK(ret.dim() == 1 && ret.numel() >= 1, "ret must be (n,), not empty", got(ret));
  ReturnRangeArgs args{};
  HD_TAKE(args, ret, ret), args.size = ret.numel();
  args.low = take_count(low, 1, ret, "low"), args.high = take_count(high, 1, ret, "high");
  args.decay = float(decay), args.rest = float(1.0 - decay), args.floor = float(floor);
  const double percentile[2] = {low_percentile, high_percentile};
  for (int i = 0; i < 2; ++i) {
    HD_CHECK(percentile[i] >= 0 && percentile[i] <= 100, "percentiles must be in [0, 100], got ", percentile[i]);
    const float place = float(percentile[i] / 100) * float(args.size - 1);  // in fp32, as torch.quantile has it
    const float below = std::floor(place);
    args.rank[2 * i] = std::min(int64_t(below), args.size - 1);
    args.rank[2 * i + 1] = std::min(int64_t(std::ceil(place)), args.size - 1);
    args.fraction[i] = place - below;
  }
  Tensor result = empty(ret, {3}, args.out);
  run(ret, [&](auto stream) { launch_return_range(args, stream); }, [&](auto) { cpu::return_range(args); });
  return result;
}

}  // namespace
}  // namespace hd::ops
