// layer_norm.cuh -- what the kernels that normalize a row with a block share: norm_act, gru_gates and scan_step.
#pragma once
#include "device/hd_math.h"
#include "device/hd_reduce.h"
#include "kernels/norm_act.h"  // NORM_EPS

namespace hd {

struct Moments {
  float mean, rstd;
};

// Of a row of n elements: `sum` is that of this thread's own, each(f) calls f with each of them. All threads call.
template <class Each>
__device__ __forceinline__ Moments block_moments(float sum, int64_t n, const Each& each) {
  float total[1] = {sum}, squares[1] = {0.f};
  block_sums(total);
  const float mean = total[0] / float(n);
  each([&](float x) { squares[0] += (x - mean) * (x - mean); });
  block_sums(squares);
  return {mean, rsqrtf(squares[0] / float(n) + NORM_EPS)};
}

// Of a row of any length and alignment, which is read twice.
template <class T>
__device__ __forceinline__ Moments row_moments(const T* x, int64_t n) {
  const auto each = [&](const auto& f) {
    for (int64_t c = threadIdx.x; c < n; c += blockDim.x) f(to_float(x[c]));
  };
  float sum = 0.f;
  each([&](float v) { sum += v; });
  return block_moments(sum, n, each);
}

// Backward of y = silu(z), z = xhat * scale + bias: xhat, and the gradient of z from dy.
struct NormActGrad {
  float xhat, dz;
};
__device__ __forceinline__ NormActGrad norm_act_grad(float x, float dy, Moments row, float scale, float bias) {
  const float xhat = (x - row.mean) * row.rstd;
  return {xhat, dy * silu_grad(xhat * scale + bias)};
}

}  // namespace hd
