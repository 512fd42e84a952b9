// CPU version of replay_gather: widen and divide in vectors; equation in kernels/replay_gather.h. A division takes ten
// times as long as the product with 1 / 255, whose rounding one step corrects: exact for all 256 numbers.
#include "kernels/replay_gather.h"

#include <algorithm>
#include <cmath>

#include "cpu/vec.h"

namespace hd::cpu {
namespace {

struct Normalize {
  template <int N>
  static HD_INLINE void run(const uint8_t* in, int64_t count, float* out) {
    for (int64_t i = 0; i < count; ++i) {
      const float x = float(in[i]), y = x * (1.f / 255.f);
      out[i] = y + (x - y * 255.f) * (1.f / 255.f);
    }
  }
};

}  // namespace

void replay_gather(const ReplayGatherArgs& a, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const int64_t row = a.index[n];
    float* out = a.out + n * a.cols;
    if (row < 0 || row >= a.capacity) std::fill_n(out, a.cols, NAN);
    else vectors<Normalize>(a.ring + row * a.cols, a.cols, out);
  }
}

}  // namespace hd::cpu
