// CPU version of adam: two passes over the arena, each in parallel over blocks of 4096 floats; the result
// does not depend on the number of threads, because every block is summed in one order and the block sums by
// one thread.
#include <algorithm>

#include "cpu/simd.h"
#include "kernels/adam_math.h"

namespace hd::cpu {
namespace {

HD_CLONES float sum_of_squares(const float* x, int64_t count) {
  float sum = 0.f;
  for (int64_t i = 0; i < count; ++i) sum += x[i] * x[i];
  return sum;
}

HD_CLONES void update(float* __restrict p, const float* __restrict g, float* __restrict m, float* __restrict v,
                      int64_t count, AdamStep s) {
  for (int64_t i = 0; i < count; ++i) {
    float gi = g[i];
    adam_element(p[i], gi, m[i], v[i], s);
  }
}

HD_CLONES void scale_by(float* x, int64_t count, float factor) {
  for (int64_t i = 0; i < count; ++i) x[i] *= factor;
}

HD_CLONES void follow(float* __restrict slow, const float* __restrict p, int64_t count, float mix) {
  for (int64_t i = 0; i < count; ++i) slow[i] = mix * p[i] + (1.f - mix) * slow[i];
}

}  // namespace

void adam_norm(const AdamArgs& a, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b) {
    const int64_t i = b * ADAM_BLOCK;
    a.partial[b] = sum_of_squares(a.grad + i, std::min(ADAM_BLOCK, a.size - i));
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
    const int64_t i = b * ADAM_BLOCK, count = std::min(ADAM_BLOCK, a.size - i);
    update(a.param + i, a.grad + i, a.mean + i, a.var + i, count, s);
    if (s.factor != 1.f) scale_by(a.grad + i, count, s.factor);  // after its use: the block is still in L1
    if (a.slow != nullptr) follow(a.slow + i, a.param + i, count, s.mix);
  }
}

}  // namespace hd::cpu
