// CPU version of vector_loss: one pass; equations in kernels/vector_loss.h.
#include "kernels/vector_loss.h"

#include <algorithm>

#include "cpu/vec.h"

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
      Vec<N> sums[N] = {};
      for (int i = 0; i < rows; ++i) {
        Vec<N> sum{};
        over<N>(a.cols, [&](int64_t j, auto count, int64_t again) __attribute__((always_inline)) {
          const int64_t at = (begin + i) * a.cols + j;
          const Vec<N> e = error<N>(get<N>(a.recon + at, count), get<N>(a.vector + at, count));
          sum += fresh<N>(e * e, count, again);
        });
        sums[i] = sum;
      }
      put<N>(a.loss + begin, fold<N>(sums), rows);
    }
  }
};

struct Backward {
  template <int N>
  static HD_INLINE void run(const VectorLossArgs& a, int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      over<N>(a.cols, [&](int64_t j, auto count, int64_t) __attribute__((always_inline)) {
        const int64_t at = n * a.cols + j;
        const Vec<N> e = error<N>(get<N>(a.recon + at, count), get<N>(a.vector + at, count));
        put<N>(a.drecon + at, 2.f * a.dloss[n] * e, count);
      });
  }
};

}  // namespace

void vector_loss_fwd(const VectorLossArgs& a, int64_t begin, int64_t end) { vectors<Forward>(a, begin, end); }
void vector_loss_bwd(const VectorLossArgs& a, int64_t begin, int64_t end) { vectors<Backward>(a, begin, end); }

}  // namespace hd::cpu
