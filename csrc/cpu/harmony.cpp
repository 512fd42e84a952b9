// CPU version of harmony: a vector sum for each loss, then the shared scalar part; equations in kernels/harmony.h.
#include "kernels/harmony.h"

#include "cpu/simd.h"
#include "kernels/harmony_math.h"

namespace hd::cpu {
namespace {

HD_CLONES float sum(const float* x, int64_t count) {
  float total = 0.f;
  for (int64_t i = 0; i < count; ++i) total += x[i];
  return total;
}

}  // namespace

void harmony_fwd(const HarmonyArgs& a) {
  constexpr int64_t BLOCK = 4096;  // summed in fp32; the blocks in fp64
  for (int i = 0; i < a.losses; ++i) {
    double total = 0.0;
    for (int64_t n = 0; n < a.size; n += BLOCK)
      total += double(sum(a.loss[i] + n, n + BLOCK < a.size ? BLOCK : a.size - n));
    a.mean[i] = float(total / double(a.size));
  }
  harmony_finish(a);
}

void harmony_bwd(const HarmonyArgs& a) { harmony_gradients(a); }

}  // namespace hd::cpu
