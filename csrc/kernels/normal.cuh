// Kernels of normal; equations in normal.h.
//
// Tiling: numbers that stand alone take a thread each. Where rows are summed, half a warp takes one: a robot has
// up to some 40 actions, most have under 16.
#pragma once
#include "device/hd_math.h"
#include "device/hd_reduce.h"
#include "kernels/normal.h"
#include "kernels/operand.cuh"

namespace hd {

constexpr int NORMAL_THREADS = 256;
constexpr int NORMAL_LANES = 16;                            // threads per row
constexpr int NORMAL_ROWS = NORMAL_THREADS / NORMAL_LANES;  // rows per block

__device__ __forceinline__ float normal_std(float raw) {
  return NORMAL_RANGE * sigmoid(raw + NORMAL_SHIFT) + NORMAL_LEAST;
}

__global__ void __launch_bounds__(NORMAL_THREADS) normal_policy_fwd_kernel(NormalPolicyArgs a) {
  const int64_t i = int64_t(blockIdx.x) * NORMAL_THREADS + threadIdx.x;
  if (i >= a.size) return;
  a.mean[i] = tanhf(a.mean_raw[i]);
  a.std[i] = normal_std(a.std_raw[i]);
}

__global__ void __launch_bounds__(NORMAL_THREADS) normal_policy_bwd_kernel(NormalPolicyArgs a) {
  const int64_t i = int64_t(blockIdx.x) * NORMAL_THREADS + threadIdx.x;
  if (i >= a.size) return;
  const float mean = tanhf(a.mean_raw[i]), t = sigmoid(a.std_raw[i] + HD_MUTATE(NORMAL_SHIFT, NORMAL_SHIFT, 0.f));
  a.mean[i] = a.dmean[i] * (1.f - mean * mean);
  a.std[i] = a.dstd[i] * NORMAL_RANGE * t * (1.f - t);
}

__global__ void __launch_bounds__(NORMAL_THREADS) normal_log_prob_fwd_kernel(NormalLogProbArgs a) {
  const int lane = int(threadIdx.x) % NORMAL_LANES;
  const int64_t n = int64_t(blockIdx.x) * NORMAL_ROWS + threadIdx.x / NORMAL_LANES;
  float logp = 0.f, ent = 0.f;
  if (n < a.rows) {  // both halves of a warp take part in the sums
    for (int64_t i = n * a.actions + lane; i < (n + 1) * a.actions; i += NORMAL_LANES) {
      const float z = (a.action[i] - a.mean[i]) / a.std[i], scale = logf(a.std[i]);
      logp -= 0.5f * z * z + scale + NORMAL_CONSTANT;
      ent += scale + (NORMAL_CONSTANT + HD_MUTATE(NORMAL_ENTROPY, 0.5f, 0.f));
    }
  }
  logp = warp_sum<NORMAL_LANES>(logp), ent = warp_sum<HD_MUTATE(NORMAL_OTHER_ROW, NORMAL_LANES, 32)>(ent);
  if (n < a.rows && lane == 0) a.logp[n] = logp, a.ent[n] = ent;
}

__global__ void __launch_bounds__(NORMAL_THREADS) normal_log_prob_bwd_kernel(NormalLogProbArgs a) {
  const int64_t i = int64_t(blockIdx.x) * NORMAL_THREADS + threadIdx.x, n = i / a.actions;
  if (n >= a.rows) return;
  const float inverse = 1.f / a.std[i], z = (a.action[i] - a.mean[i]) * inverse;
  const float dlogp = a.dlogp ? a.dlogp[n] : 0.f, dent = a.dent ? a.dent[n] : 0.f;
  a.dmean[i] = dlogp * z * inverse;
  a.dstd[i] = (dlogp * (z * z - HD_MUTATE(NORMAL_SCALE, 1.f, 0.f)) + dent) * inverse;
}

__global__ void __launch_bounds__(NORMAL_THREADS) normal_sample_kernel(NormalSampleArgs a) {
  const int64_t i = int64_t(blockIdx.x) * NORMAL_THREADS + threadIdx.x, n = i / a.actions, k = i - n * a.actions;
  if (n >= a.rows) return;
  const float action = tanhf(a.mean_raw[i] + a.mean_bias[k]) + normal_std(a.std_raw[i] + a.std_bias[k]) * a.noise[i];
  a.action[i] = action;
  store_operand(a.taken, i, a.dtype, action * (1.f / fmaxf(HD_MUTATE(NORMAL_CLIP, 1.f, 0.f), fabsf(action))));
}

}  // namespace hd
