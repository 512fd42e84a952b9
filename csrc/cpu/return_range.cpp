// CPU version of return_range: the key of each rank by bisection, of all ranks at once: 32 passes over the returns, 61
// KB, count those up to the middle of what is left. Equations in kernels/return_range.h.
#include "kernels/return_range.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "cpu/vec.h"
#include "kernels/return_range_math.h"

namespace hd::cpu {
namespace {

// The sum of integers in the lanes.
template <int N>
HD_INLINE int64_t total_of(const Ints<Vec<N>>& x) {
  int32_t lane[N], sum = 0;
  __builtin_memcpy(lane, &x, sizeof lane);
  for (int i = 0; i < N; ++i) sum += lane[i];
  return sum;
}

// count[r] = how many of the returns are at most bound[r].
template <int N>
HD_INLINE void count_up_to(const ReturnRangeArgs& a, const float* bound, int64_t* count) {
  Ints<Vec<N>> sums[RANGE_RANKS] = {};
  int64_t i = 0;
  for (; i + N <= a.size; i += N) {
    const Vec<N> x = get<N>(a.ret + i);
#pragma GCC unroll 4
    for (int r = 0; r < RANGE_RANKS; ++r) sums[r] -= x <= bound[r];
  }
  for (int r = 0; r < RANGE_RANKS; ++r) {
    count[r] = total_of<N>(sums[r]);
    for (int64_t k = i; k < a.size; ++k) count[r] += a.ret[k] <= bound[r];
  }
}

struct Range {
  template <int N>
  static HD_INLINE void run(const ReturnRangeArgs& a) {
    float bound[RANGE_RANKS] = {FLT_MAX, -INFINITY};
    int64_t count[RANGE_RANKS];
    count_up_to<N>(a, bound, count);
    const bool bad = count[0] < a.size || count[1] > 0;
    uint32_t low[RANGE_RANKS], high[RANGE_RANKS];  // the key of each rank is within
    std::fill_n(low, RANGE_RANKS, float_key(-FLT_MAX));
    std::fill_n(high, RANGE_RANKS, float_key(FLT_MAX));
    for (int step = 0; step < 32 && !bad; ++step) {
      for (int r = 0; r < RANGE_RANKS; ++r) bound[r] = key_float(low[r] + (high[r] - low[r]) / 2);
      count_up_to<N>(a, bound, count);
      for (int r = 0; r < RANGE_RANKS; ++r) {
        const uint32_t middle = low[r] + (high[r] - low[r]) / 2;
        if (count[r] > a.rank[r]) high[r] = middle;
        else low[r] = middle + 1;
      }
    }
    for (int r = 0; r < RANGE_RANKS; ++r) bound[r] = key_float(high[r]);
    range_finish(a, bound, bad);
  }
};

}  // namespace

void return_range(const ReturnRangeArgs& a) { vectors<Range>(a); }

}  // namespace hd::cpu
