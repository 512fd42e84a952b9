// gru_row.h -- one row of the GRU gates' backward, shared by gru_gates.cpp and the sequence loops of
// scan_rows.cpp; equations in kernels/gru_gates.h.
#pragma once
#include <cstdint>
#include <type_traits>

#include "cpu/simd.h"

namespace hd::cpu {

// Means over the row for LayerNorm's backward, of [dr, dc, du] times scale and of its product with xhat.
struct GruRowMeans {
  float sum, dot;
};

// The row in front of the LayerNorm: [dr, dc, du] * scale to `g`, the state's gradient to `dh`; `dscale` and
// `dbias` are added to. Parameters, not locals, because there the compiler believes what __restrict says; so
// many pointers it would not check at run time but leave the loop scalar.
template <class T>
HD_INLINE GruRowMeans gates_bwd_front(int64_t d, const T* __restrict x, float mean, float rstd,
                                      const float* __restrict h, const float* __restrict dnext,
                                      const float* __restrict scale, const float* __restrict bias, float* __restrict dh,
                                      float* __restrict g, float* __restrict dscale, float* __restrict dbias) {
  float sum = 0.f, dot = 0.f;
  for (int64_t j = 0; j < d; ++j) {
    const float xr = (load(x + j) - mean) * rstd, xc = (load(x + d + j) - mean) * rstd;
    const float xu = (load(x + 2 * d + j) - mean) * rstd;
    const float r = fsigmoid(xr * scale[j] + bias[j]), c = xc * scale[d + j] + bias[d + j];
    const float cand = ftanh(r * c), u = fsigmoid(xu * scale[2 * d + j] + bias[2 * d + j] - 1.f);
    const float dt = dnext[j] * u * (1.f - cand * cand);
    const float dr = dt * c * r * (1.f - r), dc = dt * r, du = dnext[j] * (cand - h[j]) * u * (1.f - u);
    dh[j] = dnext[j] * (1.f - u);
    dscale[j] += dr * xr, dscale[d + j] += dc * xc, dscale[2 * d + j] += du * xu;
    dbias[j] += dr, dbias[d + j] += dc, dbias[2 * d + j] += du;
    const float gr = dr * scale[j], gc = dc * scale[d + j], gu = du * scale[2 * d + j];
    g[j] = gr, g[d + j] = gc, g[2 * d + j] = gu;
    sum += gr + gc + gu;
    dot += gr * xr + gc * xc + gu * xu;
  }
  return {sum / float(3 * d), dot / float(3 * d)};
}

// dx (3d), dh (d) of one row; dscale, dbias (3d) are added to. `g` is scratch of 3d floats unless O is float.
template <class T, class O>
HD_INLINE void gates_bwd_row(int64_t d, const T* x, float mean, float rstd, const float* h, const float* dnext,
                             const float* scale, const float* bias, O* dx, float* dh, float* dscale, float* dbias,
                             float* g) {
  if constexpr (std::is_same_v<O, float>) g = dx;
  const GruRowMeans m = gates_bwd_front(d, x, mean, rstd, h, dnext, scale, bias, dh, g, dscale, dbias);
  for (int64_t j = 0; j < 3 * d; ++j) store(dx + j, rstd * (g[j] - m.sum - (load(x + j) - mean) * rstd * m.dot));
}

}  // namespace hd::cpu
