// hd_reduce.h -- sums, maxima and prefix sums over part of a warp, a warp or a block.
//
// Every reduction has one fixed order, so results do not depend on timing. The butterflies leave the same
// bits in every participating lane (a + b == b + a), which lets all lanes continue without a broadcast.
#pragma once
#include "hd.h"

namespace hd {

// Over aligned groups of LANES lanes. All 32 lanes of the warp must call (inactive ones with the neutral
// element).
template <int LANES = 32>
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int d = LANES / 2; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
  return v;
}
template <int LANES = 32>
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int d = LANES / 2; d > 0; d >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
  return v;
}

// Inclusive prefix sum over the warp: five steps of doubling distance.
__device__ __forceinline__ float warp_prefix_sum(float v) {
  int lane = threadIdx.x & 31;
#pragma unroll
  for (int d = 1; d < 32; d <<= 1) {
    float left = __shfl_up_sync(0xffffffffu, v, d);
    if (lane >= d) v += left;
  }
  return v;
}

// Over the whole block (one-dimensional, a multiple of 32 threads, at most 1024); every thread gets the N
// sums. Warps first, then the warp sums in warp order. The leading barrier lets calls follow each other
// directly.
template <int N, int WARPS = 0>
__device__ __forceinline__ void block_sums(float (&v)[N]) {
  HD_SHARED(float, part, [32][N]);
  int warp = int(threadIdx.x) >> 5, warps = WARPS ? WARPS : int(blockDim.x >> 5);
#pragma unroll
  for (int i = 0; i < N; ++i) v[i] = warp_sum(v[i]);
  if (HD_MUTATE(BLOCK_SUM_WAR, true, false)) __syncthreads();
  if ((threadIdx.x & 31) == 0) {
#pragma unroll
    for (int i = 0; i < N; ++i) part[warp][i] = v[i];
  }
  if (HD_MUTATE(BLOCK_SUM_RAW, true, false)) __syncthreads();
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float total = 0;
    for (int w = 0; w < warps; ++w) total += part[w][i];
    v[i] = total;
  }
}
template <int THREADS>  // the block's size, for the unrolled sum over its warps
__device__ __forceinline__ float block_sum(float v) {
  float one[1] = {v};
  block_sums<1, THREADS / 32>(one);
  return one[0];
}

}  // namespace hd
