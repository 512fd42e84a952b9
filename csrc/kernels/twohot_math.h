// twohot_math.h -- symlog, symexp and the search of the two bins beside a value; shared by kernels and CPU
// code.
#pragma once
#include <cmath>

#include "device/hd_math.h"

namespace hd {

struct BinPair {
  int64_t below, above;
  float weight;  // of `above`
};

// The bins beside y in an ascending, roughly evenly spaced table; at or beyond an end both are the end bin,
// half each; the weight of a NaN is NaN. A guess from the spacing, then steps until above = #{bins <= y}:
// right for every table, O(1) for an even one.
HD_FN BinPair bin_pair(float y, const float* bins, int64_t count) {
  const float place = (y - bins[0]) * (float(count - 1) / (bins[count - 1] - bins[0])) + 1.f;
  int64_t above = place > 0.f ? (place < float(count) ? int64_t(place) : count) : 0;  // NaN starts at 0, ends at count
  while (above < count && !(bins[above] > y)) ++above;
  while (above > 0 && bins[above - 1] > y) --above;
  const int64_t below = above > 0 ? above - 1 : 0;
  above = above < count ? above : count - 1;
  if (below == above) return {below, above, y == y ? 0.5f : y};
  const float to_below = fabsf(bins[below] - y), to_above = fabsf(bins[above] - y);
  return {below, above, to_below / (to_below + to_above)};
}

HD_FN float symlog_slope(float x, float dy) { return x == 0.f ? 0.f : dy / (1.f + fabsf(x)); }

// log softmax of one logit behind the row's maximum and log-sum.
HD_FN float log_softmax(float logit, float top, float log_sum) { return (logit - top) - log_sum; }

}  // namespace hd
