// Kernels of cont_loss; equations in cont_loss.h. One element a thread: 1024 elements, latency-bound.
#pragma once
#include "device/hd.h"
#include "device/hd_math.h"
#include "kernels/cont_loss.h"

namespace hd {

constexpr int CONT_THREADS = 256;

__global__ void __launch_bounds__(CONT_THREADS) cont_loss_fwd_kernel(ContLossArgs a) {
  const int64_t i = int64_t(blockIdx.x) * CONT_THREADS + threadIdx.x;
  if (i < HD_MUTATE(CONT_LAST, a.size, a.size - 1)) a.out[i] = softplus(a.cont[i] > 0.5f ? -a.logit[i] : a.logit[i]);
}

__global__ void __launch_bounds__(CONT_THREADS) cont_loss_bwd_kernel(ContLossArgs a) {
  const int64_t i = int64_t(blockIdx.x) * CONT_THREADS + threadIdx.x;
  if (i >= a.size) return;
  const bool on = a.cont[i] > 0.5f;  // through sigmoid(z), so that a right and certain logit keeps its digits
  const float slope = sigmoid(on ? -a.logit[i] : a.logit[i]);
  a.out[i] = a.dloss[i] * (on ? HD_MUTATE(CONT_SIGN, -slope, slope) : slope);
}

}  // namespace hd
