// CPU version of image_loss: one pass, sums in vectors; equations in kernels/image_loss.h.
#include "kernels/image_loss.h"

#include "cpu/simd.h"

namespace hd::cpu {
namespace {

HD_CLONES float squared_distance(const float* __restrict x, const float* __restrict y, int64_t count) {
  float sum = 0.f;
  for (int64_t i = 0; i < count; ++i) sum += (x[i] - y[i]) * (x[i] - y[i]);
  return sum;
}

HD_CLONES void scaled_difference(const float* __restrict x, const float* __restrict y, int64_t count, float scale,
                                 float* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = scale * (x[i] - y[i]);
}

}  // namespace

void image_loss_fwd(const ImageLossArgs& a, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n)
    a.loss[n] = squared_distance(a.recon + n * a.cols, a.image + n * a.cols, a.cols);
}

void image_loss_bwd(const ImageLossArgs& a, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n)
    scaled_difference(a.recon + n * a.cols, a.image + n * a.cols, a.cols, 2.f * a.dloss[n], a.drecon + n * a.cols);
}

}  // namespace hd::cpu
