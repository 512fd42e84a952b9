// CPU version of return_range: the same radix select, in digits of 11, 11 and 10 bits, so that the counters
// (16 KB) stay in L1 and a rank takes three passes; a tenth of a sort. Equations in kernels/return_range.h.
#include <array>
#include <cmath>

#include "kernels/return_range.h"
#include "kernels/return_range_math.h"

namespace hd::cpu {
namespace {

constexpr int DIGIT = 11;

// The key of rank `rank` in ascending order.
uint32_t select(const float* x, int64_t size, int64_t rank) {
  std::array<int64_t, 1 << DIGIT> count;
  uint32_t prefix = 0, known = 0;
  for (int shift : {21, 10, 0}) {
    const uint32_t digits = shift == 0 ? (1u << 10) - 1 : (1u << DIGIT) - 1;
    count.fill(0);
    for (int64_t i = 0; i < size; ++i) {
      const uint32_t key = float_key(x[i]);
      if ((key & known) == prefix) ++count[key >> shift & digits];
    }
    uint32_t digit = 0;
    for (; rank >= count[digit]; ++digit) rank -= count[digit];
    prefix |= digit << shift;
    known |= digits << shift;
  }
  return prefix;
}

}  // namespace

void return_range(const ReturnRangeArgs& a) {
  bool bad = false;
  for (int64_t i = 0; i < a.size; ++i) bad |= !is_finite(a.ret[i]);
  float order[RANGE_RANKS] = {};
  if (!bad)
    for (int r = 0; r < RANGE_RANKS; ++r) order[r] = key_float(select(a.ret, a.size, a.rank[r]));
  range_finish(a, order, bad);
}

}  // namespace hd::cpu
