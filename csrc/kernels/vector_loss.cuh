// Kernels of vector_loss; equations in vector_loss.h.
//
// Tiling: a warp takes a row; observations have 1 to some 100 features, and 1024 rows are few enough to be
// latency-bound.
#pragma once
#include "device/hd_math.h"
#include "device/hd_reduce.h"
#include "kernels/vector_loss.h"

namespace hd {

constexpr int VECTOR_THREADS = 256;
constexpr int VECTOR_ROWS = VECTOR_THREADS / 32;  // rows per block

__device__ __forceinline__ float vector_error(const VectorLossArgs& a, int64_t at) {
  const float e = a.recon[at] - symlog(a.vector[at]);
  return e * e < HD_MUTATE(VECTOR_UNSEEN, VECTOR_UNSEEN, 0.f) ? 0.f : e;
}

__global__ void __launch_bounds__(VECTOR_THREADS) vector_loss_fwd_kernel(VectorLossArgs a) {
  const int lane = int(threadIdx.x) % 32;
  const int64_t n = int64_t(blockIdx.x) * VECTOR_ROWS + threadIdx.x / 32;
  if (n >= a.rows) return;
  float sum = 0.f;
  for (int64_t i = lane; i < HD_MUTATE(VECTOR_LAST, a.cols, a.cols - 1); i += 32) {
    const float e = vector_error(a, n * a.cols + i);
    sum += e * e;
  }
  sum = warp_sum(sum);
  if (lane == 0) a.loss[n] = sum;
}

__global__ void __launch_bounds__(VECTOR_THREADS) vector_loss_bwd_kernel(VectorLossArgs a) {
  const int64_t n = int64_t(blockIdx.x) * VECTOR_ROWS + threadIdx.x / 32;
  if (n >= a.rows) return;
  const float scale = HD_MUTATE(VECTOR_FACTOR, 2.f, 1.f) * a.dloss[n];
  for (int64_t i = threadIdx.x % 32; i < a.cols; i += 32)
    a.drecon[n * a.cols + i] = scale * vector_error(a, n * a.cols + i);
}

}  // namespace hd
