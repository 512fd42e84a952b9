// CPU version of harmony: a vector sum for each loss, then the shared scalar part; equations in kernels/harmony.h.
#include "kernels/harmony.h"

#include <algorithm>

#include "cpu/vec.h"
#include "kernels/harmony_math.h"

namespace hd::cpu {
namespace {

constexpr int64_t kBlock = 4096;  // summed in fp32; the blocks in fp64

struct Means {
  template <int N>
  static HD_INLINE void run(const HarmonyArgs& a) {
    for (int i = 0; i < a.losses; ++i) {
      double total = 0.0;
      for (int64_t n = 0; n < a.size; n += kBlock) {
        const float* x = a.loss[i] + n;
        total += double(sum<N>(std::min(kBlock, a.size - n), [&](int64_t j, auto count) __attribute__((always_inline)) {
          return get<N>(x + j, count);
        }));
      }
      a.mean[i] = float(total / double(a.size));
    }
  }
};

}  // namespace

void harmony_fwd(const HarmonyArgs& a) {
  vectors<Means>(a);
  harmony_finish(a);
}

void harmony_bwd(const HarmonyArgs& a) { harmony_gradients(a); }

}  // namespace hd::cpu
