// sums.h -- sums over explicit vectors: of long arrays, of rows, and of rows of any length that are passed as one
// array.
#pragma once
#include <algorithm>

#include "cpu/rows.h"
#include "cpu/vec.h"

namespace hd::cpu {

// The largest lane, in every lane.
template <int N, int S, int... I>
HD_INLINE Vec<N> exchanged(const Vec<N>& x, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(x, x, (I ^ S)...);
}
template <int N, int S = N / 2>
HD_INLINE Vec<N> largest(const Vec<N>& x) {
  if constexpr (S == 0) return x;
  else return largest<N, S / 2>(fmax(x, exchanged<N, S>(x, std::make_integer_sequence<int, N>())));
}

// The sum of term(j, count) over the vectors of n numbers. Four sums side by side, as each waits for its last addition.
template <int N, class F>
HD_INLINE float sum_of(int64_t n, const F& term) {
  Vec<N> sums[4] = {};
  int64_t j = 0;
  for (; j + 4 * N <= n; j += 4 * N)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sums[v] += term(j + v * N, Whole<N>{});
  each<N>(n - j, [&](int64_t k, auto count) __attribute__((always_inline)) { sums[0] += term(j + k, count); });
  return total<N>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// f(j, count, own) for the vectors of a row of `cols` numbers at j: `count` is for get() and put(), and own(x, other)
// has `other` in the lanes that are not of the row or that an earlier vector has, too. The last of several vectors ends
// with the row.
template <int N, class F>
HD_INLINE void along_row(int64_t cols, const F& f) {
  if (cols < N)
    return f(0, int(cols), [&](const Vec<N>& x, const Vec<N>& other) __attribute__((always_inline)) {
      return select(lanes<N>() < int(cols), x, other);
    });
  along<N>(cols, [&](int64_t j, int64_t again) __attribute__((always_inline)) {
    f(j, Whole<N>{}, [&](const Vec<N>& x, const Vec<N>& other) __attribute__((always_inline)) {
      return again ? select(lanes<N>() < int(again), other, x) : x;
    });
  });
}

// Lane i is the sum of row i, of term(i, j, count) over its vectors; of rows from `rows` on it is 0.
template <int N, class F>
HD_INLINE Vec<N> row_sums(int rows, int64_t cols, const F& term) {
  Vec<N> sums[N] = {};
  for (int i = 0; i < rows; ++i) {
    Vec<N> sum{};
    along_row<N>(cols, [&](int64_t j, auto count, const auto& own)
                           __attribute__((always_inline)) { sum += own(term(i, j, count), Vec<N>{}); });
    sums[i] = sum;
  }
  return fold<N>(sums);
}

// ---- rows of `cols` numbers, any number, as one array with room for a vector behind it ----
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
  const int64_t row = uint32_t(j) / uint32_t(cols), k = j - row * cols;
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
