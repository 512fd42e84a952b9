// gru_gates.cpp -- the GRU's LayerNorm and gates on the CPU; equations in kernels/gru_gates.h.
//
// One row at a time, so that its passes find it in L1 and memory sees it once.
#include "kernels/gru_gates.h"

#include <algorithm>
#include <type_traits>

#include "cpu/rows.h"
#include "cpu/vec.h"
#include "kernels/norm_act.h"

namespace hd::cpu {
namespace {

template <class T>
struct Forward {
  template <int N>
  static HD_INLINE void run(const GruGatesFwdArgs& a, int64_t begin, int64_t end) {
    using V = Vec<N>;
    const int64_t d = a.size, all = 3 * d;
    const float *scale = a.scale, *bias = a.bias;
    for (int64_t i = begin; i < end; ++i) {
      const T* x = static_cast<const T*>(a.x) + i * all;
      const float* h = a.deter + i * d;
      float* next = a.next + i * d;
      const float mean =
          sum<N>(all, [&](int64_t j, auto count) __attribute__((always_inline)) { return get<N>(x + j, count); }) /
          float(all);
      const float square = sum<N>(all, [&](int64_t j, auto count) __attribute__((always_inline)) {
        const V less = get<N>(x + j, count) - mean;
        return less * less;
      });
      const float rstd = 1.f / __builtin_sqrtf(square / float(all) + NORM_EPS);
      each<N>(d, [&](int64_t j, auto count) __attribute__((always_inline)) {
        const auto part = [&](int64_t at) __attribute__((always_inline)) {
          return (get<N>(x + at, count) - mean) * rstd * get<N>(scale + at, count) + get<N>(bias + at, count);
        };
        const V r = fsigmoid(part(j)), c = ftanh(r * part(d + j)), u = fsigmoid(part(2 * d + j) - 1.f);
        put<N>(next + j, u * c + (1.f - u) * get<N>(h + j, count), count);
      });
      a.mean[i] = mean;
      a.rstd[i] = rstd;
    }
  }
};

// Sums over rows go to `dscale` and `dbias` (of this slice). `g` is scratch of a row unless O is float: the gradients
// of [r, c, u] times scale.
template <class T, class O>
struct Backward {
  template <int N>
  static HD_INLINE void run(const GruGatesBwdArgs& a, int64_t begin, int64_t end, float* dscale, float* dbias,
                            float* g) {
    using V = Vec<N>;
    const int64_t d = a.size, all = 3 * d;
    const float *scale = a.scale, *bias = a.bias;
    for (int64_t i = begin; i < end; ++i) {
      const T* x = static_cast<const T*>(a.x) + i * all;
      O* dx = static_cast<O*>(a.dx) + i * all;
      const float *h = a.deter + i * d, *dnext = a.dnext + i * d, mean = a.mean[i], rstd = a.rstd[i];
      float* dh = a.ddeter + i * d;
      if constexpr (std::is_same_v<O, float>) g = dx;
      V sums{}, dots{};
      each<N>(d, [&](int64_t j, auto count) __attribute__((always_inline)) {
        const auto hat = [&](int64_t at)
                             __attribute__((always_inline)) { return (get<N>(x + at, count) - mean) * rstd; };
        const auto affine = [&](const V& x_hat, int64_t at) __attribute__((always_inline)) {
          return x_hat * get<N>(scale + at, count) + get<N>(bias + at, count);
        };
        const V xr = hat(j), xc = hat(d + j), xu = hat(2 * d + j);
        const V r = fsigmoid(affine(xr, j)), c = affine(xc, d + j), cand = ftanh(r * c);
        const V u = fsigmoid(affine(xu, 2 * d + j) - 1.f), dn = get<N>(dnext + j, count);
        const V dt = dn * u * (1.f - cand * cand), dr = dt * c * r * (1.f - r), dc = dt * r;
        const V du = dn * (cand - get<N>(h + j, count)) * u * (1.f - u);
        put<N>(dh + j, dn * (1.f - u), count);
        const auto spread = [&](const V& of, const V& x_hat, int64_t at) __attribute__((always_inline)) {
          const V scaled = of * get<N>(scale + at, count);
          put<N>(dscale + at, get<N>(dscale + at, count) + of * x_hat, count);
          put<N>(dbias + at, get<N>(dbias + at, count) + of, count);
          put<N>(g + at, scaled, count);
          sums += scaled;
          dots += scaled * x_hat;
        };
        spread(dr, xr, j);
        spread(dc, xc, d + j);
        spread(du, xu, 2 * d + j);
      });
      const float mean_of_g = total<N>(sums) / float(all), mean_of_dot = total<N>(dots) / float(all);
      each<N>(all, [&](int64_t j, auto count) __attribute__((always_inline)) {
        const V x_hat = (get<N>(x + j, count) - mean) * rstd;
        put<N>(dx + j, rstd * (get<N>(g + j, count) - mean_of_g - x_hat * mean_of_dot), count);
      });
    }
  }
};

}  // namespace

// At least 16 rows a slice, at most 64 slices: adding up the slices' sums stays small beside the rows.
int64_t gru_gates_parts(int64_t rows, int64_t) { return std::clamp<int64_t>(rows / 16, 1, 64); }

void gru_gates_fwd(const GruGatesFwdArgs& a, int64_t begin, int64_t end) {
  a.dtype == DType::F32 ? vectors<Forward<float>>(a, begin, end) : vectors<Forward<Bf16>>(a, begin, end);
  for (int64_t i = begin; a.next_copy && i < end; ++i)
    put(a.copy_dtype, a.next_copy, i * a.copy_stride, a.size, a.next + i * a.size);
}

void gru_gates_bwd(const GruGatesBwdArgs& a, int64_t begin, int64_t end) {
  const int64_t all = 3 * a.size;
  const Floats g = floats(a.dx_dtype == DType::F32 ? 0 : all);
  over_slices(a, all, begin, end, [&](int64_t first, int64_t last, float* dscale, float* dbias) {
    float* row = g.get();
    if (a.dtype == DType::BF16) vectors<Backward<Bf16, Bf16>>(a, first, last, dscale, dbias, row);
    else if (a.dx_dtype == DType::BF16) vectors<Backward<float, Bf16>>(a, first, last, dscale, dbias, row);
    else vectors<Backward<float, float>>(a, first, last, dscale, dbias, row);
  });
}

void gru_gates_bwd_finish(const GruGatesBwdArgs& a) { add_parts(a.parts, 3 * a.size, a.partial, a.dscale, a.dbias); }

}  // namespace hd::cpu
