// CPU version of cont_loss; equations in kernels/cont_loss.h.
#include "kernels/cont_loss.h"

#include "cpu/vec.h"

namespace hd::cpu {
namespace {

// The sign of z is that of logit, turned where the episode goes on.
template <int N>
HD_INLINE Vec<N> turned(const Vec<N>& x, const Vec<N>& cont) {
  return cont > 0.5f ? -x : x;
}

struct Forward {
  template <int N>
  static HD_INLINE void run(const ContLossArgs& a, int64_t begin, int64_t end) {
    each<N>(end - begin, [&](int64_t j, auto count) __attribute__((always_inline)) {
      const Vec<N> z = turned<N>(get<N>(a.logit + begin + j, count), get<N>(a.cont + begin + j, count));
      put<N>(a.out + begin + j, fmax(z, Vec<N>{}) + flog1p(fexp(-fabs(z))), count);
    });
  }
};

struct Backward {
  template <int N>
  static HD_INLINE void run(const ContLossArgs& a, int64_t begin, int64_t end) {
    each<N>(end - begin, [&](int64_t j, auto count) __attribute__((always_inline)) {
      const Vec<N> cont = get<N>(a.cont + begin + j, count), z = turned<N>(get<N>(a.logit + begin + j, count), cont);
      put<N>(a.out + begin + j, get<N>(a.dloss + begin + j, count) * turned<N>(fsigmoid(z), cont), count);
    });
  }
};

}  // namespace

void cont_loss_fwd(const ContLossArgs& a, int64_t begin, int64_t end) { vectors<Forward>(a, begin, end); }
void cont_loss_bwd(const ContLossArgs& a, int64_t begin, int64_t end) { vectors<Backward>(a, begin, end); }

}  // namespace hd::cpu
