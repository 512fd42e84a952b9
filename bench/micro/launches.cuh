// launches.cuh -- kernels for what a graph does to launches: one that stamps the time, one that keeps
// multiprocessors busy, and a cooperative one that stamps when it is running and when all of it is. Device only.
#pragma once
#include "exchange.h"

namespace hd::micro {

__device__ __forceinline__ unsigned long long nanoseconds() {
  unsigned long long t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}

__global__ void stamp_kernel(unsigned long long* at) { *at = nanoseconds(); }

// at[0]: the first block runs. at[1]: all blocks do.
__global__ void __launch_bounds__(EXCHANGE_THREADS) gang_kernel(unsigned long long* at) {
  if (blockIdx.x == 0 && threadIdx.x == 0) at[0] = nanoseconds();
  hd_grid_sync();
  if (blockIdx.x == 0 && threadIdx.x == 0) at[1] = nanoseconds();
}

// The same as clusters: at[0] and at[1] are set by the first cluster.
__global__ void __launch_bounds__(EXCHANGE_THREADS) cluster_gang_kernel(unsigned long long* at) {
#ifdef HD_HAS_CLUSTERS
  if (blockIdx.x == 0 && threadIdx.x == 0) at[0] = nanoseconds();
  cluster_barrier();
  if (blockIdx.x == 0 && threadIdx.x == 0) at[1] = nanoseconds();
#endif
}

// Blocks of an ordinary kernel, each for `duration` nanoseconds.
__global__ void __launch_bounds__(EXCHANGE_THREADS) busy_kernel(unsigned long long duration) {
  const unsigned long long end = nanoseconds() + duration;
  while (nanoseconds() < end) {
  }
}

}  // namespace hd::micro
