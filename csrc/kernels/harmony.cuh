// Kernels of harmony; equations in harmony.h.
//
// The forward is one block of 256 threads, four elements of each loss a thread: the losses have one element
// per state of the batch (1024), so a second block would add a launch or a grid barrier to save nothing. The
// backward is one thread.
#pragma once
#include "device/hd_reduce.h"
#include "kernels/harmony_math.h"

namespace hd {

constexpr int HARMONY_THREADS = 256;

__global__ void __launch_bounds__(HARMONY_THREADS) harmony_fwd_kernel(HarmonyArgs a) {
  float sum[HARMONY_MAX] = {};
  for (int64_t n = threadIdx.x; n < HD_MUTATE(HARMONY_LAST, a.size, a.size - 1); n += HARMONY_THREADS) {
#pragma unroll
    for (int i = 0; i < HARMONY_MAX; ++i)
      if (i < a.losses) sum[i] += a.loss[i][n];
  }
  block_sums<HARMONY_MAX, HARMONY_THREADS / 32>(sum);
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int i = 0; i < HARMONY_MAX; ++i)
    if (i < a.losses) a.mean[i] = sum[i] / float(a.size);
  harmony_finish(a);
}

__global__ void harmony_bwd_kernel(HarmonyArgs a) { harmony_gradients(a); }

}  // namespace hd
