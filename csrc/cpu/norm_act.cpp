// norm_act.cpp -- LayerNorm + SiLU on the CPU; equations in kernels/norm_act.h.
//
// A few rows at a time: the two statistics passes and the output pass find them in the first-level cache, so
// memory sees every row once. Rows of a few widths that image encoders have (32 .. 128 pixels' channels) are
// compiled with the width as a constant: without it the loops' prologues cost more than their bodies.
#include "kernels/norm_act.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "cpu/simd.h"

namespace hd::cpu {
namespace {

constexpr int64_t kRows = 8;  // statistics of so many rows together: those of one row wait for each other

// `WIDTH` is the row length where it is known at compile time, else 0.
template <class T, int WIDTH>
HD_INLINE void forward_rows(const NormActFwdArgs& a, int64_t begin, int64_t end) {
  const int64_t cols = WIDTH ? WIDTH : a.cols;
  const float* __restrict scale = a.scale;
  const float* __restrict bias = a.bias;
  for (; begin < end; begin += kRows) {
    const int64_t rows = std::min(kRows, end - begin);
    const T* __restrict x = static_cast<const T*>(a.x) + begin * cols;
    T* __restrict y = static_cast<T*>(a.y) + begin * cols;
    float mean[kRows], rstd[kRows];
    for (int64_t i = 0; i < rows; ++i) {
      float sum = 0.f;
      for (int64_t j = 0; j < cols; ++j) sum += load(x + i * cols + j);
      mean[i] = sum / float(cols);
    }
    for (int64_t i = 0; i < rows; ++i) {
      float square = 0.f;
      for (int64_t j = 0; j < cols; ++j) {
        const float d = load(x + i * cols + j) - mean[i];
        square += d * d;
      }
      rstd[i] = square;
    }
    for (int64_t i = 0; i < rows; ++i) rstd[i] = 1.f / __builtin_sqrtf(rstd[i] / float(cols) + NORM_EPS);
    std::memcpy(a.mean + begin, mean, rows * sizeof(float));
    std::memcpy(a.rstd + begin, rstd, rows * sizeof(float));
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < cols; ++j)
        store(y + i * cols + j, fsilu((load(x + i * cols + j) - mean[i]) * rstd[i] * scale[j] + bias[j]));
  }
}

// `g` is scratch for one row. Sums over rows go to `dscale` and `dbias` (of this slice).
template <class T, int WIDTH>
HD_INLINE void backward_rows(const NormActBwdArgs& a, int64_t begin, int64_t end, float* __restrict dscale,
                             float* __restrict dbias, float* __restrict g) {
  const int64_t cols = WIDTH ? WIDTH : a.cols;
  const float* __restrict scale = a.scale;
  const float* __restrict bias = a.bias;
  for (int64_t i = begin; i < end; ++i) {
    const T* __restrict x = static_cast<const T*>(a.x) + i * cols;
    const T* __restrict dy = static_cast<const T*>(a.dy) + i * cols;
    T* __restrict dx = static_cast<T*>(a.dx) + i * cols;
    const float mean = a.mean[i], rstd = a.rstd[i];
    float sum = 0.f, dot = 0.f;
    for (int64_t j = 0; j < cols; ++j) {
      const float xhat = (load(x + j) - mean) * rstd;
      const float z = xhat * scale[j] + bias[j];
      const float s = fsigmoid(z);
      const float gj = load(dy + j) * s * (1.f + z * (1.f - s));
      const float gs = gj * scale[j];
      dbias[j] += gj;
      dscale[j] += gj * xhat;
      sum += gs;
      dot += gs * xhat;
      g[j] = gs;
    }
    sum /= float(cols);
    dot /= float(cols);
    for (int64_t j = 0; j < cols; ++j) {
      const float xhat = (load(x + j) - mean) * rstd;
      store(dx + j, rstd * (g[j] - sum - xhat * dot));
    }
  }
}

template <class T>
HD_CLONES void forward(const NormActFwdArgs& a, int64_t begin, int64_t end) {
  if (a.cols == 32) return forward_rows<T, 32>(a, begin, end);
  if (a.cols == 64) return forward_rows<T, 64>(a, begin, end);
  forward_rows<T, 0>(a, begin, end);
}

template <class T>
HD_CLONES void backward(const NormActBwdArgs& a, int64_t begin, int64_t end, float* dscale, float* dbias,
                        float* g) {
  if (a.cols == 32) return backward_rows<T, 32>(a, begin, end, dscale, dbias, g);
  if (a.cols == 64) return backward_rows<T, 64>(a, begin, end, dscale, dbias, g);
  backward_rows<T, 0>(a, begin, end, dscale, dbias, g);
}

HD_CLONES void add(float* __restrict sum, const float* __restrict x, int64_t count) {
  for (int64_t j = 0; j < count; ++j) sum[j] += x[j];
}

}  // namespace

// At least 64 rows a slice, at most 64 slices: adding up the slices' sums stays small beside the rows.
int64_t norm_act_parts(int64_t rows, int64_t) { return std::clamp<int64_t>(rows / 64, 1, 64); }

void norm_act_fwd(const NormActFwdArgs& a, int64_t begin, int64_t end) {
  a.dtype == DType::F32 ? forward<float>(a, begin, end) : forward<Bf16>(a, begin, end);
}

void norm_act_bwd(const NormActBwdArgs& a, int64_t begin, int64_t end) {
  const std::unique_ptr<float[]> g(new float[a.cols]);
  for (int64_t p = begin; p < end; ++p) {
    float* dscale = a.partial + p * 2 * a.cols;
    float* dbias = dscale + a.cols;
    std::memset(dscale, 0, 2 * a.cols * sizeof(float));
    const int64_t first = p * a.rows / a.parts, last = (p + 1) * a.rows / a.parts;
    a.dtype == DType::F32 ? backward<float>(a, first, last, dscale, dbias, g.get())
                          : backward<Bf16>(a, first, last, dscale, dbias, g.get());
  }
}

void norm_act_bwd_finish(const NormActBwdArgs& a) {
  std::memset(a.dscale, 0, a.cols * sizeof(float));
  std::memset(a.dbias, 0, a.cols * sizeof(float));
  for (int64_t p = 0; p < a.parts; ++p) {
    add(a.dscale, a.partial + p * 2 * a.cols, a.cols);
    add(a.dbias, a.partial + p * 2 * a.cols + a.cols, a.cols);
  }
}

}  // namespace hd::cpu
