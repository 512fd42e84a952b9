// vec.h -- explicit vectors: what the kernels' loops are made of, so that no compiler has to find them.
//
// A kernel is a class with
//   template <int N> static HD_INLINE R run(args...)
// for vectors of N floats, and `vectors<Kernel>(args...)` runs the widest that the processor has. The functions of
// simd.h take vectors as they take a float. Where threads decide which rows meet in a block, the last block must be
// filled up and take the same code as the others, or its sums might come in another order.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <utility>

#include "cpu/simd.h"

#if defined(__x86_64__)
#define HD_TARGET(x) __attribute__((target(x)))
#else
#define HD_TARGET(x)
#endif

namespace hd::cpu {

// Vectors of N, and such at any address (attributes of a template argument itself would be dropped).
template <int N>
struct Lanes {
  typedef float Vec __attribute__((vector_size(N * 4)));
  typedef uint32_t Words __attribute__((vector_size(N * 4)));
  typedef double Pairs __attribute__((vector_size(N > 1 ? N * 4 : 8)));
  typedef uint16_t Halves __attribute__((vector_size(N * 2)));
  typedef float Loose __attribute__((vector_size(N * 4), aligned(2), may_alias));
  typedef uint16_t LooseHalves __attribute__((vector_size(N * 2), aligned(2), may_alias));
};
template <int N>
using Vec = typename Lanes<N>::Vec;

template <int N>
HD_INLINE Vec<N> get(const float* p) {
  return *reinterpret_cast<const typename Lanes<N>::Loose*>(p);
}
template <int N>
HD_INLINE Vec<N> get(const Bf16* p) {
  using Words = typename Lanes<N>::Words;
  const typename Lanes<N>::Halves bits = *reinterpret_cast<const typename Lanes<N>::LooseHalves*>(p);
  return std::bit_cast<Vec<N>>(__builtin_convertvector(bits, Words) << 16);
}
template <int N>
HD_INLINE void put(float* p, const Vec<N>& x) {
  *reinterpret_cast<typename Lanes<N>::Loose*>(p) = x;
}
// Rounds as store() does.
template <int N>
HD_INLINE void put(Bf16* p, const Vec<N>& x) {
  using Words = typename Lanes<N>::Words;
  const Words b = std::bit_cast<Words>(x), rounded = (b + 0x7fffu + ((b >> 16) & 1u)) >> 16;
  const Words bits = select(x == x, rounded, Words{} + 0x7fffu);
  *reinterpret_cast<typename Lanes<N>::LooseHalves*>(p) = __builtin_convertvector(bits, typename Lanes<N>::Halves);
}

// The first `count` elements, a constant N or fewer; the other lanes are 0.
template <int N>
using Whole = std::integral_constant<int, N>;
template <int N, class T>
HD_INLINE Vec<N> get(const T* p, Whole<N>) {
  return get<N>(p);
}
template <int N, class T>
HD_INLINE Vec<N> get(const T* p, int count) {
  T some[N] = {};
  std::memcpy(some, p, count * sizeof(T));
  return get<N>(some);
}
template <int N, class T>
HD_INLINE void put(T* p, const Vec<N>& x, Whole<N>) {
  put<N>(p, x);
}
template <int N, class T>
HD_INLINE void put(T* p, const Vec<N>& x, int count) {
  T some[N];
  put<N>(some, x);
  std::memcpy(p, some, count * sizeof(T));
}

// f(j, count) for the vectors of n numbers, at j = 0, N, ...: `count`, for get() and put(), is a constant but for the
// last of them. All elements take the same code, so that their rounding does not tell where a thread's share begins.
template <int N, class F>
HD_INLINE void each(int64_t n, const F& f) {
  int64_t j = 0;
  for (; j + N <= n; j += N) f(j, Whole<N>{});
  if (j < n) f(j, int(n - j));
}

// x without its first `count` lanes, and without the others; in their place 0.
template <int N>
HD_INLINE Ints<Vec<N>> lanes() {
  Ints<Vec<N>> lane;
  for (int i = 0; i < N; ++i) lane[i] = i;
  return lane;
}
template <int N>
HD_INLINE Vec<N> without(const Vec<N>& x, int64_t count) {
  return select(lanes<N>() >= int32_t(count), x, Vec<N>{});
}
template <int N>
HD_INLINE Vec<N> first(const Vec<N>& x, int count) {
  return select(lanes<N>() < count, x, Vec<N>{});
}
template <int N>
HD_INLINE Vec<N> first(const Vec<N>& x, Whole<N>) {
  return x;
}

// The sum of the lanes.
template <int N, int... I>
HD_INLINE Vec<N / 2> halves(const Vec<N>& x, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(x, x, I...) + __builtin_shufflevector(x, x, (I + N / 2)...);
}
template <int N>
HD_INLINE float total(const Vec<N>& x) {
  if constexpr (N > 4) return total<N / 2>(halves<N>(x, std::make_integer_sequence<int, N / 2>()));
  else return (x[0] + x[2]) + (x[1] + x[3]);
}

// The sum of term(j, count) over n numbers, from each()'s vectors: four sums side by side, since additions of one would
// wait for each other.
template <int N, class F>
HD_INLINE float sum(int64_t n, const F& term) {
  Vec<N> s[4] = {};
  int64_t j = 0;
  for (; j + 4 * N <= n; j += 4 * N)
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) s[k] += term(j + k * N, Whole<N>{});
  for (; j + N <= n; j += N) s[0] += term(j, Whole<N>{});
  if (j < n) s[1] += first<N>(term(j, int(n - j)), int(n - j));
  return total<N>((s[0] + s[1]) + (s[2] + s[3]));
}

// The largest of n numbers, or a NaN among them: as integers in the same order.
template <int N, class T>
HD_INLINE float largest(const T* x, int64_t n) {
  using I = Ints<Vec<N>>;
  const auto flip = [](const auto& bits) __attribute__((always_inline)) { return bits ^ (bits >> 31 & 0x7fffffff); };
  I top = I{} + std::numeric_limits<int32_t>::min();
  each<N>(n, [&](int64_t j, auto count) __attribute__((always_inline)) {
    const I key = flip(std::bit_cast<I>(get<N>(x + j, count)));
    top = select((key > top) & (lanes<N>() < int(count)), key, top);
  });
  int32_t most = top[0];
  for (int i = 1; i < N; ++i) most = top[i] > most ? top[i] : most;
  return std::bit_cast<float>(flip(most));
}

// Rows of a register tile to memory, n of their columns; added to what is there, or in its place.
template <int N, int VECTORS, int ROWS>
HD_INLINE void put_tile(const Vec<N> (&tile)[ROWS][VECTORS], float* to, int64_t stride, int64_t n, bool add) {
  constexpr int64_t width = VECTORS * N;
  if (n == width) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) {
        float* at = to + i * stride + v * N;
        put<N>(at, add ? get<N>(at) + tile[i][v] : tile[i][v]);
      }
    return;
  }
  float edge[ROWS][width];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) put<N>(&edge[i][v * N], tile[i][v]);
  for (int i = 0; i < ROWS; ++i, to += stride)
    for (int64_t j = 0; j < n; ++j) to[j] = add ? to[j] + edge[i][j] : edge[i][j];
}

// f(j, k) for vectors at j = 0, N, ... of a row of `cols` >= N floats. The last one ends with the row; its first k
// lanes stand in the one before as well. Elsewhere k is a constant 0.
template <int N, class F>
HD_INLINE void along(int64_t cols, const F& f) {
  int64_t j = 0;
  for (; j + N <= cols; j += N) f(j, 0);
  if (j < cols) f(cols - N, N - (cols - j));
}

// f(j, count, again) for the vectors of a row of any length: along()'s, and of fewer than N numbers one that is not
// full.
template <int N, class F>
HD_INLINE void over(int64_t cols, const F& f) {
  if (cols < N) return f(0, int(cols), 0);
  along<N>(cols, [&](int64_t j, int64_t again) __attribute__((always_inline)) { f(j, Whole<N>{}, again); });
}
// x, where it is a number's of the row and has not come before.
template <int N, class Count>
HD_INLINE Vec<N> fresh(const Vec<N>& x, Count count, int64_t again) {
  const Vec<N> inside = first<N>(x, count);
  return again ? without<N>(inside, again) : inside;
}

// Lane i is op of the lanes of v[i], their sum: of N vectors, which are overwritten. Within 128 bits first, where
// shuffles are cheapest; from the second step on of pairs as doubles, for which the compiler knows its instructions
// better.
template <int N, class Op, int... I>
HD_INLINE Vec<N> fold_single(const Vec<N>& p, const Vec<N>& q, const Op& op, std::integer_sequence<int, I...>) {
  return op(__builtin_shufflevector(p, q, (I / 4 * 4 + I % 4 / 2 + I % 2 * N)...),
            __builtin_shufflevector(p, q, (I / 4 * 4 + I % 4 / 2 + I % 2 * N + 2)...));
}
template <int N, int S, class Op, int... I>
HD_INLINE Vec<N> fold_pairs(const Vec<N>& p, const Vec<N>& q, const Op& op, std::integer_sequence<int, I...>) {
  const auto a = std::bit_cast<typename Lanes<N>::Pairs>(p), b = std::bit_cast<typename Lanes<N>::Pairs>(q);
  // S of a, then S of b
  const auto low = __builtin_shufflevector(a, b, (I / (2 * S) * 2 * S + I % S + I / S % 2 * (N / 2))...);
  const auto high = __builtin_shufflevector(a, b, (I / (2 * S) * 2 * S + I % S + I / S % 2 * (N / 2) + S)...);
  return op(std::bit_cast<Vec<N>>(low), std::bit_cast<Vec<N>>(high));
}
struct Plus {
  template <class F>
  HD_INLINE F operator()(const F& a, const F& b) const {
    return a + b;
  }
};
struct Larger {
  template <class F>
  HD_INLINE F operator()(const F& a, const F& b) const {
    return fmax(a, b);
  }
};
template <int N, int S = 1, class Op = Plus>
HD_INLINE Vec<N> fold(Vec<N>* v, const Op& op = {}) {
  if constexpr (S >= N) {
    return v[0];
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < N / S / 2; ++i) {
      if constexpr (S == 1) v[i] = fold_single<N>(v[2 * i], v[2 * i + 1], op, std::make_integer_sequence<int, N>());
      else v[i] = fold_pairs<N, S / 2>(v[2 * i], v[2 * i + 1], op, std::make_integer_sequence<int, N / 2>());
    }
    return fold<N, 2 * S>(v, op);
  }
}

#if defined(__x86_64__)
template <class Kernel, class... Args>
HD_TARGET("arch=x86-64-v4") auto vectors_v4(const Args&... args) {
  return Kernel::template run<16>(args...);
}
template <class Kernel, class... Args>
HD_TARGET("arch=x86-64-v3") auto vectors_v3(const Args&... args) {
  return Kernel::template run<8>(args...);
}
#endif
template <class Kernel, class... Args>
auto vectors_base(const Args&... args) {
  return Kernel::template run<4>(args...);
}

// Floats of the widest vectors that the kernels are compiled for, the processor has and HDFAST_CPU_ARCH allows.
inline int vector_width() {
#if defined(__x86_64__)
  static const int width = [] {
    __builtin_cpu_init();
    const bool v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2");
    const char* named = std::getenv("HDFAST_CPU_ARCH");  // what else it may say, Python refuses
    const std::string_view limit = named ? named : "";
    const int most = limit == "x86-64" ? 4 : limit == "x86-64-v3" ? 8 : 16;
    return std::min(most, v3 && v4 ? 16 : v3 ? 8 : 4);
  }();
  return width;
#else
  return 4;
#endif
}

// The function that runs a kernel with vectors of N floats.
template <class Kernel, int N, class... Args>
constexpr auto compiled() -> decltype(&vectors_base<Kernel, Args...>) {
#if defined(__x86_64__)
  if constexpr (N == 16) return vectors_v4<Kernel, Args...>;
  if constexpr (N == 8) return vectors_v3<Kernel, Args...>;
#endif
  return vectors_base<Kernel, Args...>;
}

// `width`: vectors may be no longer than that, down to 4 floats.
template <class Kernel, class... Args>
auto vectors_up_to(int64_t width, const Args&... args) {
  const auto run = width >= 16  ? compiled<Kernel, 16, Args...>()
                   : width >= 8 ? compiled<Kernel, 8, Args...>()
                                : compiled<Kernel, 4, Args...>();
  return run(args...);
}
template <class Kernel, class... Args>
auto vectors(const Args&... args) {
  return vectors_up_to<Kernel>(vector_width(), args...);
}

}  // namespace hd::cpu
