// CPU version of replay_gather: widen and divide in vectors; equation in kernels/replay_gather.h.
#include "kernels/replay_gather.h"

#include <algorithm>
#include <cmath>

#include "cpu/simd.h"

namespace hd::cpu {
namespace {

HD_CLONES void normalize(const uint8_t* __restrict in, int64_t count, float* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = float(in[i]) / 255.f;
}

}  // namespace

void replay_gather(const ReplayGatherArgs& a, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const int64_t row = a.index[n];
    if (row < 0 || row >= a.capacity) std::fill_n(a.out + n * a.cols, a.cols, NAN);
    else normalize(a.ring + row * a.cols, a.cols, a.out + n * a.cols);
  }
}

}  // namespace hd::cpu
