// Kernels of image_loss; equations in image_loss.h.
//
// Tiling: one block of 256 threads per image; 12288 values are 12 float4 a thread and input. Rows that do not
// start on 16 bytes are read one float at a time. Bandwidth-bound.
#pragma once
#include "device/hd_reduce.h"
#include "kernels/image_loss.h"

namespace hd {

constexpr int IMAGE_THREADS = 256;

__global__ void __launch_bounds__(IMAGE_THREADS) image_loss_fwd_kernel(ImageLossArgs a) {
  const int64_t n = blockIdx.x, tid = threadIdx.x;
  const float *recon = a.recon + n * a.cols, *image = a.image + n * a.cols;
  float sum = 0.f;
  if (a.cols % 4 == 0 && aligned(16, recon, image)) {
    for (int64_t i = 4 * tid; i < a.cols; i += 4 * IMAGE_THREADS) {
      const float4 x = *reinterpret_cast<const float4*>(recon + i), y = *reinterpret_cast<const float4*>(image + i);
      const float d0 = x.x - y.x, d1 = x.y - y.y, d2 = x.z - y.z, d3 = x.w - y.w;
      sum += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
    }
  } else {
    for (int64_t i = tid; i < HD_MUTATE(IMAGE_TAIL, a.cols, a.cols - 1); i += IMAGE_THREADS)
      sum += (recon[i] - image[i]) * (recon[i] - image[i]);
  }
  sum = block_sum<IMAGE_THREADS>(sum);
  if (tid == 0) a.loss[n] = sum;
}

// One row, N pixels a load.
template <int N>
__device__ __forceinline__ void image_loss_grad(const float* recon, const float* image, float* out, int64_t cols,
                                                float scale) {
  for (int64_t i = N * int64_t(threadIdx.x); i < cols; i += N * IMAGE_THREADS) {
    float x[N], y[N];
    load(recon + i, x), load(image + i, y);
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] = scale * (x[j] - y[j]);
    store(out + i, x);
  }
}

__global__ void __launch_bounds__(IMAGE_THREADS) image_loss_bwd_kernel(ImageLossArgs a) {
  const int64_t n = blockIdx.x;
  const float *recon = a.recon + n * a.cols, *image = a.image + n * a.cols;
  float* out = a.drecon + n * a.cols;
  const float scale = HD_MUTATE(IMAGE_FACTOR, 2.f, 1.f) * a.dloss[n];
  if (a.cols % 4 == 0 && aligned(16, recon, image, out)) image_loss_grad<4>(recon, image, out, a.cols, scale);
  else image_loss_grad<1>(recon, image, out, a.cols, scale);
}

}  // namespace hd
