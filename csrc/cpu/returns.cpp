// CPU version of returns: as many trajectories (columns) as a vector has lanes side by side through the shared
// recursions. Equations in kernels/returns.h.
#include "kernels/returns.h"

#include "cpu/vec.h"
#include "kernels/returns_math.h"

namespace hd::cpu {
namespace {

// The numbers of `count` neighboring columns.
template <int N, class Count>
struct Columns {
  using Number = Vec<N>;
  Count count;
  HD_INLINE Vec<N> get(const float* p) const { return cpu::get<N>(p, count); }
  HD_INLINE void put(float* p, const Vec<N>& x) const { cpu::put<N>(p, x, count); }
};

template <class Recursion>
struct Columnwise {
  template <int N, class Args>
  static HD_INLINE void run(const Args& a, int64_t begin, int64_t end) {
    each<N>(end - begin, [&](int64_t i, auto count) __attribute__((always_inline)) {
      Recursion::run(a, begin + i, Columns<N, decltype(count)>{count});
    });
  }
};

}  // namespace

void lambda_return_fwd(const LambdaReturnArgs& a, int64_t begin, int64_t end) {
  vectors<Columnwise<LambdaReturnForward>>(a, begin, end);
}
void lambda_return_bwd(const LambdaReturnArgs& a, int64_t begin, int64_t end) {
  vectors<Columnwise<LambdaReturnBackward>>(a, begin, end);
}
void return_weight_fwd(const ReturnWeightArgs& a, int64_t begin, int64_t end) {
  vectors<Columnwise<ReturnWeightForward>>(a, begin, end);
}
void return_weight_bwd(const ReturnWeightArgs& a, int64_t begin, int64_t end) {
  vectors<Columnwise<ReturnWeightBackward>>(a, begin, end);
}

}  // namespace hd::cpu
