// short_rows.h -- rows of `cols` numbers, often a few, passed as one array, so that no lane of a vector is idle. Behind
// such an array there is room for a vector.
#pragma once
#include <algorithm>

#include "cpu/rows.h"
#include "cpu/vec.h"

namespace hd::cpu {

// Rows that go together through scratch in the first-level cache: so many that vectors begin where cache lines do.
inline int64_t rows_together(int64_t cols) { return std::max<int64_t>(16, 1024 / std::max<int64_t>(1, cols) & -16); }

// That scratch, from the start of a cache line on.
class Scratch {
 public:
  explicit Scratch(int64_t cols) : p_(floats(std::max<int64_t>(1024, 16 * cols) + 32)) {}
  operator float*() const { return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(p_.get()) + 63) & -64); }

 private:
  Floats p_;
};

// sums[i] = sum_k x[i * cols + k].
template <int N>
HD_INLINE void sum_rows(const float* x, int64_t rows, int64_t cols, float* sums) {
  const int64_t rest = cols % N;
  each<N>(rows, [&](int64_t begin, auto count) __attribute__((always_inline)) {
    Vec<N> s[N] = {};
    for (int i = 0; i < count; ++i) {
      const float* row = x + (begin + i) * cols;
      Vec<N> sum = first<N>(get<N>(row + cols - rest), int(rest));
      for (int64_t k = 0; k + N <= cols; k += N) sum += get<N>(row + k);
      s[i] = sum;
    }
    put<N>(sums + begin, fold<N>(s), count);
  });
}

// Lane i is value[(j + i) / cols], what the row of number j + i has.
template <int N>
HD_INLINE Vec<N> of_rows(const float* value, int64_t j, int64_t cols) {
  using V = Vec<N>;
  const int64_t row = j / cols, k = j % cols;
  const Ints<V> at = lanes<N>() + int(k);
  const Ints<V> next =
      cols < N ? __builtin_convertvector((floats_of(at) + 0.5f) / float(cols), Ints<V>) : -(at >= int(cols));
  const V x = get<N>(value + row);
#if defined(__clang__)
  V y;
  for (int i = 0; i < N; ++i) y[i] = x[next[i]];
  return y;
#else
  return __builtin_shuffle(x, next);
#endif
}

}  // namespace hd::cpu
