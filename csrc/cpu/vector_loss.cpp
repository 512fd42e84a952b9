// CPU version of vector_loss: one pass; equations in kernels/vector_loss.h.
#include "kernels/vector_loss.h"

#include "cpu/sums.h"

namespace hd::cpu {
namespace {

template <int N>
HD_INLINE Vec<N> error(const Vec<N>& recon, const Vec<N>& vector) {
  const Vec<N> e = recon - fsymlog(vector);
  return select(e * e < VECTOR_UNSEEN, Vec<N>{}, e);
}

struct Forward {
  template <int N>
  static HD_INLINE void run(const VectorLossArgs& a, int64_t begin, int64_t end) {
    for (; begin < end; begin += N) {
      const int rows = int(std::min<int64_t>(N, end - begin));
      const Vec<N> sums =
          row_sums<N>(rows, a.cols, [&](int64_t i, int64_t j, auto count) __attribute__((always_inline)) {
            const int64_t at = (begin + i) * a.cols + j;
            const Vec<N> e = error<N>(get<N>(a.recon + at, count), get<N>(a.vector + at, count));
            return e * e;
          });
      put<N>(a.loss + begin, sums, rows);
    }
  }
};

struct Backward {
  template <int N>
  static HD_INLINE void run(const VectorLossArgs& a, int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float scale = 2.f * a.dloss[n];
      along_row<N>(a.cols, [&](int64_t j, auto count, const auto&) __attribute__((always_inline)) {
        const int64_t at = n * a.cols + j;
        put<N>(a.drecon + at, scale * error<N>(get<N>(a.recon + at, count), get<N>(a.vector + at, count)), count);
      });
    }
  }
};

}  // namespace

void vector_loss_fwd(const VectorLossArgs& a, int64_t begin, int64_t end) { vectors<Forward>(a, begin, end); }
void vector_loss_bwd(const VectorLossArgs& a, int64_t begin, int64_t end) { vectors<Backward>(a, begin, end); }

}  // namespace hd::cpu
