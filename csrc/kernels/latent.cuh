// Kernels of latent; equations in latent.h.
//
// Tiling: one warp per group, eight groups per block of 256 threads. The 32 classes of a Dreamer latent are
// one value a lane, so the CDF is a prefix sum of five shuffles and the sample a ballot; more classes take
// more values a lane (up to 1024 classes), fewer leave lanes idle. Everything between the one read and the
// writes stays in registers.
#pragma once
#include "kernels/categorical.cuh"
#include "kernels/latent.h"

namespace hd {

constexpr int LATENT_THREADS = 256;
constexpr int LATENT_GROUPS = LATENT_THREADS / 32;  // per block

// The biases of a group; null where there are none.
template <class Args>
__device__ __forceinline__ const float* latent_bias(const Args& a, int64_t group) {
  return a.bias == nullptr ? nullptr : a.bias + group % a.row_groups * a.classes;
}

// All outputs of one group; its sample, -1 where none is taken. A whole warp calls.
template <class T, int ITER>
__device__ __forceinline__ int64_t latent_group(const LatentFwdArgs& a, int64_t group) {
  const int lane = int(threadIdx.x) % 32;
  const int64_t base = group * a.classes;
  const Categorical<ITER> c =
      categorical<ITER, T>(a.logit, base, a.dtype, a.classes, a.mix, a.normalized, latent_bias(a, group));
  int64_t index = -1;
  if (a.u != nullptr) {
    const float u = a.u[group];
    float before = 0.f;  // probability of the classes in earlier elements
    index = 0;
#pragma unroll
    for (int i = 0; i < ITER; ++i) {
      const float cdf = before + warp_prefix_sum(c.q[i]);
      const bool passed = HD_MUTATE(LATENT_CDF, cdf <= u, cdf - c.q[i] <= u);
      index += __popc(__ballot_sync(0xffffffffu, i * 32 + lane < a.classes && passed));
      before = __shfl_sync(0xffffffffu, cdf, 31);
    }
    if (index > a.classes - 1) index = a.classes - 1;  // the sum may round to less than u
    if (a.index != nullptr && lane == 0) a.index[group] = index;
  }
  const int64_t onehot = group / a.row_groups * a.onehot_stride + group % a.row_groups * a.classes;
#pragma unroll
  for (int i = 0; i < ITER; ++i) {
    const int64_t k = i * 32 + lane;
    if (k >= a.classes) continue;
    if (a.logp != nullptr) store_as<T>(a.logp, base + k, a.dtype, c.logq[i]);
    if (a.onehot != nullptr) store_operand(a.onehot, onehot + k, a.onehot_dtype, k == index ? 1.f : 0.f);
  }
  return index;
}

template <class T, int ITER>
__global__ void __launch_bounds__(LATENT_THREADS) latent_fwd_kernel(LatentFwdArgs a) {
  const int64_t group = int64_t(blockIdx.x) * LATENT_GROUPS + threadIdx.x / 32;
  if (group < a.groups) latent_group<T, ITER>(a, group);  // whole warps
}

template <class T, int ITER>
__global__ void __launch_bounds__(LATENT_THREADS) latent_bwd_kernel(LatentBwdArgs a) {
  const int lane = int(threadIdx.x) % 32;
  const int64_t group = int64_t(blockIdx.x) * LATENT_GROUPS + threadIdx.x / 32;
  if (group >= a.groups) return;
  const int64_t base = group * a.classes;
  const Categorical<ITER> c =
      categorical<ITER, T>(a.logit, base, a.dtype, a.classes, a.mix, a.normalized, latent_bias(a, group));
  float w[ITER];
#pragma unroll
  for (int i = 0; i < ITER; ++i) {
    const int64_t k = i * 32 + lane;
    const float dq = k < a.classes && a.donehot != nullptr ? load_as<T>(a.donehot, base + k, a.dtype) : 0.f;
    const float dlogq = k < a.classes && a.dlogp != nullptr ? load_as<T>(a.dlogp, base + k, a.dtype) : 0.f;
    if (a.normalized) w[i] = dq * c.q[i] + dlogq;
    else w[i] = k < a.classes ? dq + dlogq / c.q[i] : 0.f;
  }
  if (!a.normalized) softmax_backward(c, w, HD_MUTATE(LATENT_MIX, a.mix, 0.f));
#pragma unroll
  for (int i = 0; i < ITER; ++i)
    if (i * 32 + lane < a.classes) store_operand(a.dlogit, base + i * 32 + lane, a.dlogit_dtype, w[i]);
}

}  // namespace hd
