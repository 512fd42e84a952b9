// norm_act.cpp -- LayerNorm + SiLU on the CPU; equations in kernels/norm_act.h.
//
// Some rows at a time, so that the passes over them find them in the first-level cache and memory sees every row
// once. What is a row's alone, sums and their use, are passes in explicit vectors; as many rows as a vector has lanes
// share their sums across lanes, a division and a square root. What is an element's alone is a pass over all of them
// as one plain loop: the exponentials of short rows wait for each other otherwise. Rows of exactly 1, 2 and 4 vectors,
// the channels of image networks, have their length as a constant: without it the loops' prologues cost more than
// their bodies. Rows shorter than a vector take shorter vectors.
#include "kernels/norm_act.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "cpu/rows.h"
#include "cpu/vec.h"

namespace hd::cpu {
namespace {

constexpr int64_t kTogether = 2048;  // elements of the rows between two passes
constexpr int64_t kMost = 16;        // rows that share their sums, at most
constexpr int64_t kPiece = 64;       // elements of a loop without a remainder

// Rows that go together, of `cols` elements and in groups of `group`; and the elements of as many.
int64_t rows_together(int64_t cols, int64_t group) {
  return std::max(group, kTogether / std::max<int64_t>(1, cols) / group * group);
}
int64_t scratch_floats(int64_t cols) { return std::max(kTogether, kMost * cols) + kPiece; }

// f(0), f(1), ..., f(ROWS - 1), without a loop: arrays that are indexed so stay in registers.
template <int ROWS, class F>
HD_INLINE void unrolled(const F& f) {
  [&]<int... I>(std::integer_sequence<int, I...>)
      __attribute__((always_inline)) { (f(I), ...); }(std::make_integer_sequence<int, ROWS>());
}

// Lane i is the sum of row i, of term(i, j) over its vectors at j: N rows, R of them side by side.
template <int N, int R, class F>
HD_INLINE Vec<N> row_sums(int64_t cols, const F& term) {
  Vec<N> sums[N];
  for (int64_t i = 0; i < N; i += R) {
    Vec<N> s[R] = {};
    along<N>(cols, [&](int64_t j, int64_t again) __attribute__((always_inline)) {
      unrolled<R>([&](int64_t r) __attribute__((always_inline)) {
        const Vec<N> t = term(i + r, j);
        s[r] += again ? without<N>(t, again) : t;
      });
    });
    unrolled<R>([&](int64_t r) __attribute__((always_inline)) { sums[i + r] = s[r]; });
  }
  return fold<N>(sums);
}

// Mean and rstd of N rows.
template <int N, int VECTORS, class T>
HD_INLINE void moments(const T* __restrict x, int64_t cols, float* __restrict mean, float* __restrict rstd) {
  constexpr int R = VECTORS == 1 ? N : N < 4 ? 1 : 4;
  const auto at = [&](int64_t i, int64_t j) __attribute__((always_inline)) { return get<N>(x + i * cols + j); };
  put<N>(mean, row_sums<N, R>(cols, at) / float(cols));
  const Vec<N> square = row_sums<N, R>(cols, [&](int64_t i, int64_t j) __attribute__((always_inline)) {
    const Vec<N> d = at(i, j) - mean[i];
    return d * d;
  });
  put<N>(rstd, square / float(cols) + NORM_EPS);
  for (int i = 0; i < N; ++i) rstd[i] = 1.f / __builtin_sqrtf(rstd[i]);
}

// z of `rows` rows.
template <int N, class T>
HD_INLINE void affine(const T* __restrict x, int64_t cols, int64_t rows, const float* __restrict mean,
                      const float* __restrict rstd, const float* __restrict scale, const float* __restrict bias,
                      float* __restrict z) {
  for (int64_t i = 0; i < rows; ++i, x += cols, z += cols)
    along<N>(cols, [&](int64_t j, int64_t) __attribute__((always_inline)) {
      put<N>(z + j, (get<N>(x + j) - mean[i]) * rstd[i] * get<N>(scale + j) + get<N>(bias + j));
    });
}

// VECTORS is the number of vectors in a row where it is known at compile time, else 0. `z` is scratch. The last rows
// are filled up, so that all take the same code: which rows are last is not given by the shape.
struct Forward {
  template <int WIDEST, int N, int VECTORS, class T>
  static HD_INLINE void run(const NormActFwdArgs& a, int64_t begin, int64_t end, float* __restrict z) {
    const int64_t cols = VECTORS ? VECTORS * N : a.cols, together = rows_together(cols, N);
    for (; begin < end; begin += together) {
      const int64_t rows = std::min(together, end - begin);
      const T* x = static_cast<const T*>(a.x) + begin * cols;
      T* y = static_cast<T*>(a.y) + begin * cols;
      float *mean = a.mean + begin, *rstd = a.rstd + begin;
      for (int64_t i = 0; i < rows; i += N) {
        const int64_t n = std::min<int64_t>(N, rows - i);
        const T* from = x + i * cols;
        alignas(64) float means[N], rstds[N];
        if (n < N) from = static_cast<T*>(std::memcpy(z, from, n * cols * sizeof(T)));
        moments<N, VECTORS>(from, cols, means, rstds);
        std::memcpy(mean + i, means, n * sizeof(float));
        std::memcpy(rstd + i, rstds, n * sizeof(float));
      }
      affine<N>(x, cols, rows, mean, rstd, a.scale, a.bias, z);
      each<WIDEST>(rows * cols, [&](int64_t j, auto count) __attribute__((always_inline)) {
        put<WIDEST>(y + j, fsilu(get<WIDEST>(z + j, count)), count);
      });
    }
  }
};

// From `g`, the gradients of z, of R rows: the means of g * scale and of g * scale * xhat. Sums over rows are added to
// `dscale` and `dbias`.
template <int N, int R, class T>
HD_INLINE void backward_sums(const T* __restrict x, int64_t cols, const float* mean, const float* rstd,
                             const float* __restrict scale, const float* __restrict g, float* __restrict dscale,
                             float* __restrict dbias, float* sum, float* dot) {
  using V = Vec<N>;
  constexpr int ALL = N > 1 ? N : 2;
  V sums[ALL] = {};
  along<N>(cols, [&](int64_t j, int64_t again) __attribute__((always_inline)) {
    const V scales = get<N>(scale + j);
    V dscales{}, dbiases{};
    unrolled<R>([&](int64_t i) __attribute__((always_inline)) {
      const V xhat = (get<N>(x + i * cols + j) - mean[i]) * rstd[i], all = get<N>(g + i * cols + j);
      const V gj = again ? without<N>(all, again) : all;
      dbiases += gj;
      dscales += gj * xhat;
      sums[i] += gj * scales;
      sums[ALL / 2 + i] += gj * scales * xhat;
    });
    put<N>(dbias + j, get<N>(dbias + j) + dbiases);
    put<N>(dscale + j, get<N>(dscale + j) + dscales);
  });
  alignas(64) float means[ALL];
  if constexpr (N > 1) put<N>(means, fold<N>(sums) / float(cols));
  else means[0] = sums[0][0] / float(cols), means[1] = sums[1][0] / float(cols);
  std::memcpy(sum, means, R * sizeof(float));
  std::memcpy(dot, means + ALL / 2, R * sizeof(float));
}

// Sums over rows go to `dscale` and `dbias` (of this slice). `g` is scratch.
struct Backward {
  template <int WIDEST, int N, int VECTORS, class T>
  static HD_INLINE void run(const NormActBwdArgs& a, int64_t begin, int64_t end, float* dscale, float* dbias,
                            float* __restrict g) {
    constexpr int R = N > 1 ? N / 2 : 1;
    const int64_t cols = VECTORS ? VECTORS * N : a.cols, together = rows_together(cols, R);
    float sum[kTogether], dot[kTogether];
    for (; begin < end; begin += together) {
      const int64_t rows = std::min(together, end - begin);
      const T* __restrict x = static_cast<const T*>(a.x) + begin * cols;
      const T* __restrict dy = static_cast<const T*>(a.dy) + begin * cols;
      T* __restrict dx = static_cast<T*>(a.dx) + begin * cols;
      const float *mean = a.mean + begin, *rstd = a.rstd + begin;
      affine<N>(x, cols, rows, mean, rstd, a.scale, a.bias, g);
      each<WIDEST>(rows * cols, [&](int64_t j, auto count) __attribute__((always_inline)) {
        const Vec<WIDEST> z = get<WIDEST>(g + j, count), s = fsigmoid(z);
        put<WIDEST>(g + j, get<WIDEST>(dy + j, count) * s * (1.f + z * (1.f - s)), count);
      });
      int64_t i = 0;
      for (; i + R <= rows; i += R)
        backward_sums<N, R>(x + i * cols, cols, mean + i, rstd + i, a.scale, g + i * cols, dscale, dbias, sum + i,
                            dot + i);
      if constexpr (R > 1)
        for (; i < rows; ++i)
          backward_sums<N, 1>(x + i * cols, cols, mean + i, rstd + i, a.scale, g + i * cols, dscale, dbias, sum + i,
                              dot + i);
      for (i = 0; i < rows; ++i) {
        const float part = rstd[i] * rstd[i] * dot[i];
        along<N>(cols, [&](int64_t j, int64_t) __attribute__((always_inline)) {
          const int64_t at = i * cols + j;
          put<N>(dx + at,
                 (get<N>(g + at) * get<N>(a.scale + j) - sum[i]) * rstd[i] - (get<N>(x + at) - mean[i]) * part);
        });
      }
    }
  }
};

// A pass over rows in vectors no longer than a row, their number a constant where it is small.
template <class Rows, class T>
struct ByLength {
  template <int WIDEST, class Args, class... More>
  static HD_INLINE void run(const Args& a, const More&... more) {
    of<WIDEST, WIDEST>(a, more...);
  }
  template <int WIDEST, int N, class Args, class... More>
  static HD_INLINE void of(const Args& a, const More&... more) {
    if constexpr (N > 1)
      if (a.cols < N) return of<WIDEST, (N > 4 ? N / 2 : 1)>(a, more...);
    if constexpr (N > 1 && std::is_same_v<T, float>) {
      if (a.cols == N) return Rows::template run<WIDEST, N, 1, T>(a, more...);
      if (a.cols == 2 * N) return Rows::template run<WIDEST, N, 2, T>(a, more...);
      if (a.cols == 4 * N) return Rows::template run<WIDEST, N, 4, T>(a, more...);
    }
    Rows::template run<WIDEST, N, 0, T>(a, more...);
  }
};

template <class Rows, class Args, class... More>
void by_length(const Args& a, const More&... more) {
  a.dtype == DType::F32 ? vectors<ByLength<Rows, float>>(a, more...) : vectors<ByLength<Rows, Bf16>>(a, more...);
}

}  // namespace

// At least 64 rows a slice, at most 64 slices: adding up the slices' sums stays small beside the rows.
int64_t norm_act_parts(int64_t rows, int64_t) { return std::clamp<int64_t>(rows / 64, 1, 64); }

void norm_act_fwd(const NormActFwdArgs& a, int64_t begin, int64_t end) {
  const Floats z = floats(scratch_floats(a.cols));
  by_length<Forward>(a, begin, end, z.get());
}

void norm_act_bwd(const NormActBwdArgs& a, int64_t begin, int64_t end) {
  const Floats g = floats(scratch_floats(a.cols));
  over_slices(a, a.cols, begin, end, [&](int64_t first, int64_t last, float* dscale, float* dbias) {
    by_length<Backward>(a, first, last, dscale, dbias, g.get());
  });
}

void norm_act_bwd_finish(const NormActBwdArgs& a) { add_parts(a.parts, a.cols, a.partial, a.dscale, a.dbias); }

}  // namespace hd::cpu
