// gru_gates.cpp -- the GRU's LayerNorm and gates on the CPU; equations in kernels/gru_gates.h.
//
// One row at a time, so that its passes find it in L1 and memory sees it once.
#include "kernels/gru_gates.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cpu/rows.h"
#include "cpu/simd.h"
#include "kernels/norm_act.h"

namespace hd::cpu {
namespace {

template <class T>
HD_CLONES void forward(const GruGatesFwdArgs& a, int64_t begin, int64_t end) {
  const int64_t d = a.size, all = 3 * d;
  const float *scale = a.scale, *bias = a.bias;
  for (int64_t i = begin; i < end; ++i) {
    const T* x = static_cast<const T*>(a.x) + i * all;
    const float* h = a.deter + i * d;
    float sum = 0.f, square = 0.f, *next = a.next + i * d;
    for (int64_t j = 0; j < all; ++j) sum += load(x + j);
    const float mean = sum / float(all);
    for (int64_t j = 0; j < all; ++j) square += (load(x + j) - mean) * (load(x + j) - mean);
    const float rstd = 1.f / std::sqrt(square / float(all) + NORM_EPS);
    for (int64_t j = 0; j < d; ++j) {
      const float r = fsigmoid((load(x + j) - mean) * rstd * scale[j] + bias[j]);
      const float c = ftanh(r * ((load(x + d + j) - mean) * rstd * scale[d + j] + bias[d + j]));
      const float u = fsigmoid((load(x + 2 * d + j) - mean) * rstd * scale[2 * d + j] + bias[2 * d + j] - 1.f);
      next[j] = u * c + (1.f - u) * h[j];
    }
    a.mean[i] = mean;
    a.rstd[i] = rstd;
  }
}

// Means over the row for LayerNorm's backward, of [dr, dc, du] times scale and of its product with xhat.
struct RowMeans {
  float sum, dot;
};

// The row in front of the LayerNorm: [dr, dc, du] * scale to `g`, the state's gradient to `dh`; `dscale` and
// `dbias` are added to. Parameters, not locals, because there the compiler believes what __restrict says; so
// many pointers it would not check at run time but leave the loop scalar.
template <class T>
HD_INLINE RowMeans backward_front(int64_t d, const T* __restrict x, float mean, float rstd, const float* __restrict h,
                                  const float* __restrict dnext, const float* __restrict scale,
                                  const float* __restrict bias, float* __restrict dh, float* __restrict g,
                                  float* __restrict dscale, float* __restrict dbias) {
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

// Sums over rows go to `dscale` and `dbias` (of this slice). `g` is scratch of a row unless O is float.
template <class T, class O>
HD_CLONES void backward(const GruGatesBwdArgs& a, int64_t begin, int64_t end, float* dscale, float* dbias, float* g) {
  const int64_t d = a.size, all = 3 * d;
  for (int64_t i = begin; i < end; ++i) {
    const T* x = static_cast<const T*>(a.x) + i * all;
    O* dx = static_cast<O*>(a.dx) + i * all;
    const float mean = a.mean[i], rstd = a.rstd[i];
    if constexpr (std::is_same_v<O, float>) g = dx;
    const RowMeans m = backward_front(d, x, mean, rstd, a.deter + i * d, a.dnext + i * d, a.scale, a.bias,
                                      a.ddeter + i * d, g, dscale, dbias);
    for (int64_t j = 0; j < all; ++j) store(dx + j, rstd * (g[j] - m.sum - (load(x + j) - mean) * rstd * m.dot));
  }
}

}  // namespace

// At least 16 rows a slice, at most 64 slices: adding up the slices' sums stays small beside the rows.
int64_t gru_gates_parts(int64_t rows, int64_t) { return std::clamp<int64_t>(rows / 16, 1, 64); }

void gru_gates_fwd(const GruGatesFwdArgs& a, int64_t begin, int64_t end) {
  a.dtype == DType::F32 ? forward<float>(a, begin, end) : forward<Bf16>(a, begin, end);
  for (int64_t i = begin; a.next_copy && i < end; ++i)
    put(a.copy_dtype, a.next_copy, i * a.copy_stride, a.size, a.next + i * a.size);
}

void gru_gates_bwd(const GruGatesBwdArgs& a, int64_t begin, int64_t end) {
  const int64_t all = 3 * a.size;
  const Floats g = floats(a.dx_dtype == DType::F32 ? 0 : all);
  const auto rows = a.dtype == DType::BF16      ? backward<Bf16, Bf16>
                    : a.dx_dtype == DType::BF16 ? backward<float, Bf16>
                                                : backward<float, float>;
  over_slices(a, all, begin, end, [&](int64_t first, int64_t last, float* dscale, float* dbias) {
    rows(a, first, last, dscale, dbias, g.get());
  });
}

void gru_gates_bwd_finish(const GruGatesBwdArgs& a) { add_parts(a.parts, 3 * a.size, a.partial, a.dscale, a.dbias); }

}  // namespace hd::cpu
