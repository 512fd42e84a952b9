// return_range.h -- moving percentiles of the imagined returns: arguments and entry points.
//
//   new_p = percentile p of ret by linear interpolation of the order statistics around p / 100 (size - 1)
//   low = decay low + (1 - decay) new_low, high likewise, scale = max(floor, high - low)
//
// Four order statistics, no sort: radix select on keys whose unsigned order is the floats' order, 8 bits a
// pass. Bytes: 4 passes over 4 B a value, 61 KB in all for 15360 returns, from L1 or L2. A value that is
// not finite leaves the range as it is.
#pragma once
#include "kernels/types.h"

namespace hd {

constexpr int RANGE_RANKS = 4;  // below and above of the low, then of the high percentile

struct ReturnRangeArgs {
  const float* ret;   // [size]
  const float* low;   // [1]
  const float* high;  // [1]
  float* out;         // [3] new low, new high, scale
  int64_t size;       // >= 1
  int64_t rank[RANGE_RANKS];
  float fraction[2];         // weight of `above`, for low and high
  float decay, rest, floor;  // rest = 1 - decay, subtracted in double
};

void launch_return_range(const ReturnRangeArgs& args, hdStream stream);

namespace cpu {
void return_range(const ReturnRangeArgs& args);
}  // namespace cpu

}  // namespace hd
