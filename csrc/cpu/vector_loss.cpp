// CPU version of vector_loss: one pass, sums in vectors; equations in kernels/vector_loss.h.
#include "kernels/vector_loss.h"

#include "cpu/simd.h"

namespace hd::cpu {
namespace {

HD_INLINE float error(float recon, float vector) {
  const float e = recon - copysign(flog1p(fabs(vector)), vector);
  return select(e * e < VECTOR_UNSEEN, 0.f, e);
}

}  // namespace

HD_CLONES void vector_loss_fwd(const VectorLossArgs& a, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const float* __restrict recon = a.recon + n * a.cols, * __restrict vector = a.vector + n * a.cols;
    float sum = 0.f;
    for (int64_t i = 0; i < a.cols; ++i) sum += error(recon[i], vector[i]) * error(recon[i], vector[i]);
    a.loss[n] = sum;
  }
}

HD_CLONES void vector_loss_bwd(const VectorLossArgs& a, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const float* __restrict recon = a.recon + n * a.cols, * __restrict vector = a.vector + n * a.cols;
    float* __restrict out = a.drecon + n * a.cols;
    for (int64_t i = 0; i < a.cols; ++i) out[i] = 2.f * a.dloss[n] * error(recon[i], vector[i]);
  }
}

}  // namespace hd::cpu
