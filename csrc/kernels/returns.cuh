// Kernels of returns; equations in returns.h.
//
// Tiling: one thread per trajectory, 64 threads a block, so that 1024 of them spread over 16 SMs; every load
// of a step is one coalesced line per warp. 15 dependent steps: latency-bound, a few microseconds.
#pragma once
#include "device/hd.h"
#include "kernels/returns_math.h"

namespace hd {

constexpr int RETURNS_THREADS = 64;

template <class Recursion, class Args>
__global__ void __launch_bounds__(RETURNS_THREADS) returns_kernel(Args a) {
  const int64_t i = int64_t(blockIdx.x) * RETURNS_THREADS + threadIdx.x;
  if (i < HD_MUTATE(RETURNS_LAST, a.n, a.n - 1)) Recursion::run(a, i, OneColumn{});
}

}  // namespace hd
