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

// N consecutive parameters from `i` on.
template <int N>
__device__ __forceinline__ void adam_elements(const AdamArgs& a, int64_t i, const AdamStep& s) {
  float p[N], g[N], m[N], v[N];
  load(a.param + i, p), load(a.grad + i, g), load(a.mean + i, m), load(a.var + i, v);
#pragma unroll
  for (int j = 0; j < N; ++j) adam_element(p[j], g[j], m[j], v[j], s);
  store(a.param + i, p), store(a.mean + i, m), store(a.var + i, v);
  if (HD_MUTATE(ADAM_CLIPPED, s.factor != 1.f, false)) store(a.grad + i, g);
  if (a.slow == nullptr) return;
  float q[N];
  load(a.slow + i, q);
#pragma unroll
  for (int j = 0; j < N; ++j) q[j] = s.mix * p[j] + (1.f - s.mix) * q[j];
  store(a.slow + i, q);
}

__global__ void __launch_bounds__(ADAM_THREADS) adam_apply_kernel(AdamArgs a) {
  if (adam_skipped(a)) return;
  const AdamStep s = adam_step(a);
  const int64_t base = int64_t(blockIdx.x) * ADAM_BLOCK;
#pragma unroll
  for (int j = 0; j < ADAM_VECTORS; ++j) {
    const int64_t i = base + 4 * (int64_t(j) * ADAM_THREADS + threadIdx.x);
    if (i + 4 <= a.size) adam_elements<4>(a, i, s);
    else
      for (int64_t k = i; k < HD_MUTATE(ADAM_TAIL, a.size, a.size - 1); ++k) adam_elements<1>(a, k, s);
  }
}

}  // namespace hd
