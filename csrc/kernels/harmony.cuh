// Kernels of harmony; equations in harmony.h.
//
// The forward is one block, whose 32 warps share the losses evenly: these have one element per state of the batch
// (1024), so a second block would add a launch or a grid barrier to save nothing. The backward is one thread.
#pragma once
#include "device/hd_reduce.h"
#include "kernels/harmony_math.h"

namespace hd {

constexpr int HARMONY_WARPS = 32;

__global__ void __launch_bounds__(HARMONY_WARPS * 32) harmony_fwd_kernel(HarmonyArgs a) {
  HD_SHARED(float, part, [HARMONY_WARPS]);
  const int warp = int(threadIdx.x) / 32, each = int(blockDim.x) / 32 / a.losses, loss = warp / each;
  const float* x = a.loss[loss];
  float sum = 0.f;
  for (int64_t n = threadIdx.x - loss * each * 32; n < HD_MUTATE(HARMONY_LAST, a.size, a.size - 1); n += each * 32)
    sum += x[n];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) part[warp] = sum;
  if (HD_MUTATE(HARMONY_PARTS, true, false)) __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 0; i < a.losses; ++i) {
    float total = 0.f;
    for (int w = 0; w < each; ++w) total += part[i * each + w];
    a.mean[i] = total / float(a.size);
  }
  harmony_finish(a);
}

__global__ void harmony_bwd_kernel(HarmonyArgs a) { harmony_gradients(a); }

}  // namespace hd
