// CPU version of image_loss: one pass; equations in kernels/image_loss.h.
#include "kernels/image_loss.h"

#include "cpu/vec.h"

namespace hd::cpu {
namespace {

struct Forward {
  template <int N>
  static HD_INLINE void run(const ImageLossArgs& a, int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float *x = a.recon + n * a.cols, *y = a.image + n * a.cols;
      a.loss[n] = sum<N>(a.cols, [&](int64_t j, auto count) __attribute__((always_inline)) {
        const Vec<N> d = get<N>(x + j, count) - get<N>(y + j, count);
        return d * d;
      });
    }
  }
};

struct Backward {
  template <int N>
  static HD_INLINE void run(const ImageLossArgs& a, int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float *x = a.recon + n * a.cols, *y = a.image + n * a.cols, scale = 2.f * a.dloss[n];
      float* dx = a.drecon + n * a.cols;
      each<N>(a.cols, [&](int64_t j, auto count) __attribute__((always_inline)) {
        put<N>(dx + j, scale * (get<N>(x + j, count) - get<N>(y + j, count)), count);
      });
    }
  }
};

}  // namespace

void image_loss_fwd(const ImageLossArgs& a, int64_t begin, int64_t end) { vectors<Forward>(a, begin, end); }
void image_loss_bwd(const ImageLossArgs& a, int64_t begin, int64_t end) { vectors<Backward>(a, begin, end); }

}  // namespace hd::cpu
