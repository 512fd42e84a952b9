// Register tiles of the direct convolutions (conv_direct.cpp), of a matrix product whose left operand is an image.
//
// A tile reads one number of the image for as many multiply-adds as it has vectors. Where the result has fewer columns
// than two vectors hold, their lanes are pairs: two neighbors of the image, broadcast together, meet two rows of B. So
// 8 columns fill 16 lanes, and 16 columns take half the loads.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "cpu/vec.h"

namespace hd::cpu {

// Products of rows of A by B, which a tile sums over places of some lines. Of down and up (Flat) a row is a pixel,
// `step` numbers behind the last, and places are numbers side by side; `tiles` tiles of rows of out are set. Of kernel
// (Deep) a row is a number of a line, and places are pixels, `step` apart in A and ldb in B; it adds to out. It begins
// at `line`, and at numbers a, b and out behind the pointers.
struct Sums {
  int64_t line, a, b, out;
  int64_t inner, step, ldb, ldo, n;
  int64_t tiles, group;         // group: Deep in pairs, from the rows of one of its four lines to the next's
  int64_t ask[2], ask_step[2];  // bytes, see Where
};
// Pieces of memory at `ask` are needed soon; every place asks for the next few bytes of them.
struct Where {
  const float* const* lines;  // each from its border on
  int64_t outer;              // lines of sums
  const float* b;
  float* out;
  const char* ask[2];
};

// Two neighbors in all pairs of lanes.
template <int W, int... I>
HD_INLINE Vec<W> pairs(const float* p, std::integer_sequence<int, I...>) {
  typedef double Loose __attribute__((aligned(4), may_alias));
  const double both = *reinterpret_cast<const Loose*>(p);
  return (Vec<W>)(typename Lanes<W>::Pairs{((void)I, both)...});  // with a copy in between GCC sets lane by lane
}
template <int W>
HD_INLINE Vec<W> pairs(const float* p) {
  return pairs<W>(p, std::make_integer_sequence<int, W / 2>());
}
template <int W, int... I>
HD_INLINE Vec<W> doubled(const Vec<W>& x, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(x, x, (I / 2)...);
}
// Sums of the pairs of p and of q, one behind the other.
template <int W, int... I>
HD_INLINE Vec<W> sums_of_pairs(const Vec<W>& p, const Vec<W>& q, std::integer_sequence<int, I...>) {
  const Vec<W> sums = __builtin_shufflevector(p, q, (I / 4 * 4 + I % 2 * 2 + I % 4 / 2 * W)...) +
                      __builtin_shufflevector(p, q, (I / 4 * 4 + I % 2 * 2 + I % 4 / 2 * W + 1)...);
  constexpr int half = W / 2;
  return __builtin_shufflevector(sums, sums, (I % half / 2 * 4 + I % 2 + I / half * 2)...);
}
// Elements START, START + STEP, ... of x.
template <int START, int STEP, int W, int... I>
HD_INLINE auto part(const Vec<W>& x, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(x, x, (START + STEP * I)...);
}

// MR rows of NV vectors of W floats, or, in PAIRS, of W / 2.
template <int W, int NV, int MR, bool PAIRS>
struct Flat {
  template <int>
  static HD_INLINE void run(const Sums& s, const Where& w) {
    constexpr int64_t rows = 3, pointers = (MR + rows - 1) / rows;  // step and 2 step are addresses' indices
    constexpr int places = PAIRS ? 2 : 1;
    float* out = w.out + s.out;
    const char* ask = w.ask[0] + s.ask[0];
    for (int64_t t = 0; t < s.tiles; ++t, out += MR * s.ldo) {
      Vec<W> r[MR][NV] = {};
      const float* b = w.b + s.b;
      for (int64_t o = 0; o < w.outer; ++o) {
        const float* p[pointers];
#pragma GCC unroll 8
        for (int g = 0; g < pointers; ++g) p[g] = w.lines[s.line + o] + s.a + (t * MR + rows * g) * s.step;
        for (int64_t l = 0; l < s.inner; l += places, b += NV * W, ask += s.ask_step[0]) {
          __builtin_prefetch(ask);
          Vec<W> row[NV];
#pragma GCC unroll 2
          for (int v = 0; v < NV; ++v) row[v] = get<W>(b + v * W);
#pragma GCC unroll 16
          for (int i = 0; i < MR; ++i) {
            const float* x = p[i / rows] + i % rows * s.step;
            Vec<W> both;
            if constexpr (PAIRS) both = pairs<W>(x);
#pragma GCC unroll 2
            for (int v = 0; v < NV; ++v)
              if constexpr (PAIRS) r[i][v] += both * row[v];
              else r[i][v] += *x * row[v];
          }
#pragma GCC unroll 8
          for (int g = 0; g < pointers; ++g) p[g] += places;
        }
      }
      if constexpr (PAIRS) {
        constexpr auto half = std::make_integer_sequence<int, W / 2>();
        Vec<W / 2> sum[MR][NV];
#pragma GCC unroll 16
        for (int i = 0; i < MR; i += 2)
#pragma GCC unroll 2
          for (int v = 0; v < NV; ++v) {
            const int next = i + 1 < MR ? i + 1 : i;
            const Vec<W> both = sums_of_pairs<W>(r[i][v], r[next][v], std::make_integer_sequence<int, W>());
            sum[i][v] = part<0, 1, W>(both, half);
            sum[next][v] = next == i ? sum[i][v] : part<W / 2, 1, W>(both, half);
          }
        put_tile<W / 2>(sum, out, s.ldo, s.n, false);
      } else {
        put_tile<W>(r, out, s.ldo, s.n, false);
      }
    }
  }
};

template <int W, int NV, int MR, bool PAIRS>
struct Deep {
  template <int>
  static HD_INLINE void run(const Sums& s, const Where& w) {
    constexpr int groups = PAIRS ? 4 : 1;
    Vec<W> r[groups][MR][NV] = {};
    const char *ask = w.ask[0] + s.ask[0], *ask_b = w.ask[1] + s.ask[1];
    const float* b = w.b + s.b;
    for (int64_t o = 0; o < w.outer; ++o) {
      const float* p[groups];
#pragma GCC unroll 4
      for (int g = 0; g < groups; ++g) p[g] = w.lines[s.line + 2 * o + g] + s.a;
      for (int64_t l = 0; l < s.inner; ++l, b += s.ldb, ask += s.ask_step[0], ask_b += s.ask_step[1]) {
        __builtin_prefetch(ask), __builtin_prefetch(ask_b);
        Vec<W> row[NV];
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) row[v] = get<W>(b + v * W);
        if constexpr (PAIRS) row[0] = doubled<W>(row[0], std::make_integer_sequence<int, W>());
#pragma GCC unroll 4
        for (int g = 0; g < groups; ++g) {
#pragma GCC unroll 16
          for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
            for (int v = 0; v < NV; ++v)
              if constexpr (PAIRS) r[g][i][v] += pairs<W>(p[g] + 2 * i) * row[v];
              else r[g][i][v] += p[g][i] * row[v];
          p[g] += s.step;
        }
      }
    }
    if constexpr (PAIRS) {
      constexpr auto half = std::make_integer_sequence<int, W / 2>();
#pragma GCC unroll 4
      for (int g = 0; g < groups; ++g) {
        Vec<W / 2> rows[2 * MR][1];
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
          rows[2 * i][0] = part<0, 2, W>(r[g][i][0], half);
          rows[2 * i + 1][0] = part<1, 2, W>(r[g][i][0], half);
        }
        put_tile<W / 2>(rows, w.out + s.out + g * s.group, s.ldo, s.n, true);
      }
    } else {
      put_tile<W>(r[0], w.out + s.out, s.ldo, s.n, true);
    }
  }
};

// The tiles of one width, by their number of rows, 1 to the tallest.
using Run = void (*)(const Sums&, const Where&);
struct Width {
  int64_t width;
  bool flat_pairs, deep_pairs;
  std::vector<Run> flat, deep;
};
// Of processors with vectors of N floats.
template <int N, int NV, bool PAIRS, int... I>
std::vector<Run> flat(std::integer_sequence<int, I...>) {
  return {nullptr, compiled<Flat<N, NV, I + 1, PAIRS>, N, Sums, Where>()...};
}
template <int N, int NV, bool PAIRS, int... I>
std::vector<Run> deep(std::integer_sequence<int, I...>) {
  return {nullptr, compiled<Deep<N, NV, I + 1, PAIRS>, N, Sums, Where>()...};
}
template <int ROWS>
using Heights = std::make_integer_sequence<int, ROWS>;

// Widest first, each twice as wide as the next.
using Widths = std::vector<Width>;
template <int N, int ROWS>
Widths widths() {
  constexpr int one = std::min(2 * ROWS, 16);
  return {{2 * N, false, false, flat<N, 2, false>(Heights<ROWS>()), deep<N, 2, false>(Heights<ROWS>())},
          {N, true, false, flat<N, 2, true>(Heights<ROWS>()), deep<N, 1, false>(Heights<one>())},
          {N / 2, true, true, flat<N, 1, true>(Heights<one>()), deep<N, 1, true>(Heights<ROWS / 2>())}};
}
inline const Widths& all_widths() {
  static const Widths all = vector_width() == 16  ? widths<16, 12>()
                            : vector_width() == 8 ? widths<8, 6>()
                                                  : widths<4, 4>();
  return all;
}

}  // namespace hd::cpu
