// conv.cpp -- convolutions of kernel 4x4, stride 2, padding 1 as torch ops on the CPU; cpu/conv.h says what they are.
#include "cpu/conv.h"

#include "ops/scan_glue.h"

namespace hd::ops {
namespace {

// Sizes of the big image (N, 2h, 2w, C), and of the small one (N, h, w, D).
cpu::ConvSizes down_sizes(const Tensor& x, int64_t d, bool round) {
  HD_CHECK(x.dim() == 4 && x.size(1) % 2 == 0 && x.size(2) % 2 == 0, "x must be (N, 2h, 2w, C)", got(x));
  check_sizes(x, "x");
  return {x.size(0), x.size(1) / 2, x.size(2) / 2, x.size(3), d, round ? DType::BF16 : DType::F32};
}
void check_channels(const cpu::ConvSizes& z) {
  HD_CHECK(z.c > 0 && z.d > 0, "x, y and kernel must have channels, got ", z.c, " in the big image and ", z.d,
           " in the small one; give one at least");
}
cpu::Pixels pixels(const Tensor& t, Shape shape, const char* what) {
  check_host(t, what);
  check_shape(t, shape, what);
  return {out<void>(t), storage(t, what)};
}
cpu::Pixels big(const Tensor& x, const cpu::ConvSizes& z) { return pixels(x, {z.images, 2 * z.h, 2 * z.w, z.c}, "x"); }
cpu::Pixels small(const Tensor& y, const cpu::ConvSizes& z) { return pixels(y, {z.images, z.h, z.w, z.d}, "y"); }
const float* taps(const Tensor& kernel, const cpu::ConvSizes& z) {
  check_channels(z);
  return host(kernel, {z.d, z.c, 4, 4}, "kernel");
}

// x (N, 2h, 2w, C), kernel (D, C, 4, 4) float32 -> (N, h, w, D); with `round` operands are rounded to bf16, the result
// is bfloat16 with `half`.
HD_OP(Tensor, conv_down, (Tensor x, Tensor kernel, Flag round, Flag half)) {
  HD_CHECK(kernel.dim() == 4, "kernel must be (D, C, 4, 4)", got(kernel));
  check_sizes(kernel, "kernel");
  const cpu::ConvSizes z = down_sizes(x, kernel.size(0), round);
  Tensor y = empty(x, {z.images, z.h, z.w, z.d}, type_of(half));
  cpu::conv_down(torch_pool(), z, big(x, z), taps(kernel, z), small(y, z));
  return y;
}

// y (N, h, w, D), kernel (D, C, 4, 4) -> (N, 2h, 2w, C); types as conv_down's
HD_OP(Tensor, conv_up, (Tensor y, Tensor kernel, Flag round, Flag half)) {
  HD_CHECK(y.dim() == 4 && kernel.dim() == 4, "y must be (N, h, w, D), kernel (D, C, 4, 4)", got(y, kernel));
  for (const Tensor& t : {y, kernel}) check_sizes(t, "y or kernel");
  const cpu::ConvSizes z{y.size(0), y.size(1), y.size(2), kernel.size(1), y.size(3), round ? DType::BF16 : DType::F32};
  Tensor x = empty(y, {z.images, 2 * z.h, 2 * z.w, z.c}, type_of(half));
  cpu::conv_up(torch_pool(), z, small(y, z), taps(kernel, z), big(x, z));
  return x;
}

// x (N, 2h, 2w, C), y (N, h, w, D) -> (D, C, 4, 4) float32
HD_OP(Tensor, conv_kernel, (Tensor x, Tensor y, Flag round)) {
  HD_CHECK(y.dim() == 4, "y must be (N, h, w, D)", got(y));
  check_sizes(y, "y");
  const cpu::ConvSizes z = down_sizes(x, y.size(3), round);
  check_channels(z);
  Tensor dkernel = empty(x, {z.d, z.c, 4, 4});
  cpu::conv_kernel(torch_pool(), z, big(x, z), small(y, z), out(dkernel));
  return dkernel;
}

}  // namespace
}  // namespace hd::ops
