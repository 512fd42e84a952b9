// Kernels of adam; equations in adam.h. Three launches: norm of each 4096-block, one block that finishes the
// norm and the scalars (bias corrections in fp64, once per update instead of once per element), then the
// update itself.
//
// Tiling: one CUDA block of 256 threads per 4096 floats, four float4 per thread and array, so that every
// access is 16 bytes and coalesced, and the loads of all four are in flight together; 4380 blocks for 17.9 M
// parameters, bandwidth-bound.
#pragma once
#include "device/hd_reduce.h"
#include "kernels/adam_math.h"

namespace hd {

constexpr int ADAM_THREADS = 256;
constexpr int ADAM_FINISH_THREADS = 1024;
constexpr int ADAM_VECTORS = ADAM_BLOCK / (4 * ADAM_THREADS);  // float4 per thread

__global__ void __launch_bounds__(ADAM_THREADS) adam_norm_kernel(AdamArgs a) {
  const int64_t base = int64_t(blockIdx.x) * ADAM_BLOCK;
  float sum = 0.f;
#pragma unroll
  for (int j = 0; j < ADAM_VECTORS; ++j) {
    const int64_t i = base + 4 * (int64_t(j) * ADAM_THREADS + threadIdx.x);
    if (i + 4 <= a.size) {
      const float4 g = *reinterpret_cast<const float4*>(a.grad + i);
      sum += (g.x * g.x + g.y * g.y) + (g.z * g.z + g.w * g.w);
    } else {
      for (int64_t k = i; k < a.size; ++k) sum += a.grad[k] * a.grad[k];
    }
  }
  sum = block_sum<ADAM_THREADS>(sum);
  if (threadIdx.x == 0) a.partial[blockIdx.x] = sum;
}

// The sum is in fp64: 4380 terms by 1024 threads cost nothing and the norm of 18 M gradients keeps all its
// digits.
__global__ void __launch_bounds__(ADAM_FINISH_THREADS) adam_finish_kernel(AdamArgs a, int64_t blocks) {
  HD_SHARED(double, sums, [ADAM_FINISH_THREADS]);
  const int tid = int(threadIdx.x);
  double sum = 0.0;
  for (int64_t i = tid; i < blocks; i += ADAM_FINISH_THREADS) sum += double(a.partial[i]);
  sums[tid] = sum;
  __syncthreads();
  for (int half = ADAM_FINISH_THREADS / 2; half > 0; half /= 2) {
    if (tid < half) sums[tid] += sums[tid + half];
    if (HD_MUTATE(ADAM_BARRIER, true, false)) __syncthreads();
  }
  if (tid == 0) adam_scalars(a, sums[0]);
}

__global__ void __launch_bounds__(ADAM_THREADS) adam_apply_kernel(AdamArgs a) {
  if (adam_skipped(a)) return;
  const AdamStep s = adam_step(a);
  const int64_t base = int64_t(blockIdx.x) * ADAM_BLOCK;
#pragma unroll
  for (int j = 0; j < ADAM_VECTORS; ++j) {
    const int64_t i = base + 4 * (int64_t(j) * ADAM_THREADS + threadIdx.x);
    if (i + 4 <= a.size) {
      float4 p = *reinterpret_cast<const float4*>(a.param + i), g = *reinterpret_cast<const float4*>(a.grad + i);
      float4 m = *reinterpret_cast<const float4*>(a.mean + i), v = *reinterpret_cast<const float4*>(a.var + i);
      adam_element(p.x, g.x, m.x, v.x, s);
      adam_element(p.y, g.y, m.y, v.y, s);
      adam_element(p.z, g.z, m.z, v.z, s);
      adam_element(p.w, g.w, m.w, v.w, s);
      *reinterpret_cast<float4*>(a.param + i) = p;
      *reinterpret_cast<float4*>(a.mean + i) = m;
      *reinterpret_cast<float4*>(a.var + i) = v;
      if (HD_MUTATE(ADAM_CLIPPED, s.factor != 1.f, false)) *reinterpret_cast<float4*>(a.grad + i) = g;
      if (a.slow != nullptr) {
        float4 q = *reinterpret_cast<const float4*>(a.slow + i);
        q.x = s.mix * p.x + (1.f - s.mix) * q.x;
        q.y = s.mix * p.y + (1.f - s.mix) * q.y;
        q.z = s.mix * p.z + (1.f - s.mix) * q.z;
        q.w = s.mix * p.w + (1.f - s.mix) * q.w;
        *reinterpret_cast<float4*>(a.slow + i) = q;
      }
    } else {
      for (int64_t k = i; k < HD_MUTATE(ADAM_TAIL, a.size, a.size - 1); ++k) {
        float p = a.param[k], g = a.grad[k], m = a.mean[k], v = a.var[k];
        adam_element(p, g, m, v, s);
        a.param[k] = p;
        a.mean[k] = m;
        a.var[k] = v;
        if (s.factor != 1.f) a.grad[k] = g;
        if (a.slow != nullptr) a.slow[k] = s.mix * p + (1.f - s.mix) * a.slow[k];
      }
    }
  }
}

}  // namespace hd
