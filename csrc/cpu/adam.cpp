// CPU version of adam: two passes over the arena, each in parallel over blocks of 4096 floats; the result
// does not depend on the number of threads, because every block is summed in one order and the block sums by
// one thread.
#include <algorithm>

#include "cpu/vec.h"
#include "kernels/adam_math.h"

namespace hd::cpu {
namespace {

struct SumOfSquares {
  template <int N>
  static HD_INLINE float run(const float* x, int64_t n) {
    return sum<N>(n, [&](int64_t j, auto count) __attribute__((always_inline)) {
      const Vec<N> g = get<N>(x + j, count);
      return g * g;
    });
  }
};

// The rest is an element's alone, waits for memory, and is left to the compiler.
struct Update {
  template <int N>
  static HD_INLINE void run(const AdamArgs& a, int64_t begin, int64_t count, const AdamStep& s) {
    float* __restrict p = a.param + begin;
    float* __restrict g = a.grad + begin;
    float* __restrict m = a.mean + begin;
    float* __restrict v = a.var + begin;
    for (int64_t i = 0; i < count; ++i) {
      float gi = g[i];
      adam_element(p[i], gi, m[i], v[i], s);
    }
    if (s.factor != 1.f)  // after its use: the block is still in L1
      for (int64_t i = 0; i < count; ++i) g[i] *= s.factor;
    if (a.slow == nullptr) return;
    float* __restrict slow = a.slow + begin;
    for (int64_t i = 0; i < count; ++i) slow[i] = s.mix * p[i] + (1.f - s.mix) * slow[i];
  }
};

}  // namespace

void adam_norm(const AdamArgs& a, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b) {
    const int64_t i = b * ADAM_BLOCK;
    a.partial[b] = vectors<SumOfSquares>(a.grad + i, std::min(ADAM_BLOCK, a.size - i));
  }
}

void adam_finish(const AdamArgs& a) {
  double sum = 0.0;
  for (int64_t b = 0, blocks = adam_blocks(a.size); b < blocks; ++b) sum += double(a.partial[b]);
  adam_scalars(a, sum);
}

void adam_apply(const AdamArgs& a, int64_t begin, int64_t end) {
  if (adam_skipped(a)) return;
  const AdamStep s = adam_step(a);
  for (int64_t b = begin; b < end; ++b) {
    const int64_t i = b * ADAM_BLOCK;
    vectors<Update>(a, i, std::min(ADAM_BLOCK, a.size - i), s);
  }
}

}  // namespace hd::cpu
