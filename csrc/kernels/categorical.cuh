// categorical.cuh -- one categorical distribution held by a warp: class i * 32 + lane sits in element i of
// that lane.
//
// Shared by latent and balanced_kl. With 32 classes a group is one value a lane: 128 consecutive bytes in
// fp32, and softmax is five plus five shuffles with no memory traffic.
#pragma once
#include "device/hd_reduce.h"
#include "kernels/operand.cuh"

namespace hd {

template <int ITER>
struct Categorical {
  float s[ITER];     // softmax; with normalized input the same as q
  float q[ITER];     // mixed with the uniform distribution
  float logq[ITER];  // classes beyond the last have s = q = 0 and logq = 0
};

// Reads `classes` values from element `base` of x on, as load_as<T>, and adds those of `bias` where it is given. All
// 32 lanes call.
template <int ITER, class T>
__device__ __forceinline__ Categorical<ITER> categorical(const void* x, int64_t base, DType dtype, int64_t classes,
                                                         float mix, bool normalized, const float* bias = nullptr) {
  const int lane = int(threadIdx.x) % 32;
  Categorical<ITER> c;
  float v[ITER], top = -INFINITY, total = 0.f;
#pragma unroll
  for (int i = 0; i < ITER; ++i) {
    const bool here = i * 32 + lane < classes;
    v[i] = here ? load_as<T>(x, base + i * 32 + lane, dtype) : -INFINITY;
    if (here && bias != nullptr) v[i] += bias[i * 32 + lane];
    top = fmaxf(top, v[i]);
  }
  if (normalized) {
#pragma unroll
    for (int i = 0; i < ITER; ++i) {
      c.s[i] = c.q[i] = expf(v[i]);
      c.logq[i] = i * 32 + lane < classes ? v[i] : 0.f;
    }
    return c;
  }
  top = warp_max(top);
#pragma unroll
  for (int i = 0; i < ITER; ++i) {
    c.s[i] = i * 32 + lane < classes ? expf(v[i] - top) : 0.f;
    total += c.s[i];
  }
  const float inverse = 1.f / warp_sum(total), uniform = mix / float(classes);
#pragma unroll
  for (int i = 0; i < ITER; ++i) {
    const bool here = i * 32 + lane < classes;
    c.s[i] *= inverse;
    c.q[i] = here ? (1.f - mix) * c.s[i] + uniform : 0.f;
    c.logq[i] = here ? logf(c.q[i]) : 0.f;
  }
  return c;
}

// Gradient of the logits from w, the gradient of q: (1 - mix) s (w - sum s w). All 32 lanes call.
template <int ITER>
__device__ __forceinline__ void softmax_backward(const Categorical<ITER>& c, float (&w)[ITER], float mix) {
  float dot = 0.f;
#pragma unroll
  for (int i = 0; i < ITER; ++i) dot += c.s[i] * w[i];
  dot = warp_sum(dot);
#pragma unroll
  for (int i = 0; i < ITER; ++i) w[i] = (1.f - mix) * c.s[i] * (w[i] - dot);
}

}  // namespace hd
