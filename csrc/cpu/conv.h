// Convolutions of kernel 4x4, stride 2, padding 1 on the CPU: the only ones the image networks have.
//
// A small image y (h, w, d) and a big one x (2h, 2w, c), channels last, and one kernel (d, c, 4, 4):
//   down:    y[i, j, :] = sum_{k, l} kernel[:, :, k, l] x[2i - 1 + k, 2j - 1 + l, :]        convolution
//   up:      x[2i - 1 + k, 2j - 1 + l, :] += kernel[:, :, k, l]^T y[i, j, :]                 transposed convolution
//   kernel:  dkernel[:, :, k, l] = sum_{images, i, j} y[i, j, :] x[2i - 1 + k, 2j - 1 + l, :]^T
// Each is linear in both arguments and the derivative of another: three kernels serve forward and backward of both.
#pragma once

#include <cstdint>

#include "cpu/gemm.h"

namespace hd::cpu {

// Images, contiguous, stored as fp32 or bf16.
struct Pixels {
  void* p;
  DType type;
};

struct ConvSizes {
  int64_t images, h, w, c, d;   // h, w of the small image; c channels of the big one, d of the small one
  DType operands = DType::F32;  // of the products; transforms and sums are fp32
};

// y (images, h, w, d) from x (images, 2h, 2w, c).
void conv_down(const Pool& pool, const ConvSizes& z, const Pixels& x, const float* kernel, const Pixels& y);
// x from y.
void conv_up(const Pool& pool, const ConvSizes& z, const Pixels& y, const float* kernel, const Pixels& x);
// dkernel (d, c, 4, 4) from x and y.
void conv_kernel(const Pool& pool, const ConvSizes& z, const Pixels& x, const Pixels& y, float* dkernel);

}  // namespace hd::cpu
