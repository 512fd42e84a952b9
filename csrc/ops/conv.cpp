// conv.cpp -- convolutions of kernel 4x4, stride 2, padding 1 as torch ops on the CPU; cpu/conv.h says what they are.
#include "cpu/conv.h"

#include "ops/scan_glue.h"

namespace hd::ops {
namespace {

// Sizes from the big image (N, 2h, 2w, C) or the small one (N, h, w, D), and a kernel (D, C, 4, 4).
cpu::ConvSizes down_sizes(const Tensor& x, int64_t d, const char* what) {
  HD_CHECK(x.dim() == 4 && x.size(1) % 2 == 0 && x.size(2) % 2 == 0, what,
           " must be (N, 2h, 2w, C)", got(x));
  check_sizes(x, what);
  return {x.size(0), x.size(1) / 2, x.size(2) / 2, x.size(3), d};
}
void check_channels(const cpu::ConvSizes& z, const char* what) {
  HD_CHECK(z.c > 0 && z.d > 0, what, " must have channels, got ", z.c,
           " in the big image and ", z.d, " in the small one; give one at least");
}
const float* take_kernel(const Tensor& t, const cpu::ConvSizes& z, const char* what) {
  check_channels(z, what);
  return take(t, {z.d, z.c, 4, 4}, what);
}
cpu::Pixels pixels(const Tensor& t, std::initializer_list<int64_t> shape, const char* what) {
  check_host(t, what);
  check_shape(t, shape, what);
  return {out<void>(t), storage(t, what)};
}
cpu::Pixels big(const Tensor& t, const cpu::ConvSizes& z, const char* what) {
  return pixels(t, {z.images, 2 * z.h, 2 * z.w, z.c}, what);
}
cpu::Pixels small(const Tensor& t, const cpu::ConvSizes& z, const char* what) {
  return pixels(t, {z.images, z.h, z.w, z.d}, what);
}
ScalarType type_of(bool half) { return half ? ScalarType::BFloat16 : ScalarType::Float; }

// x (N, 2h, 2w, C), kernel (D, C, 4, 4) float32 -> (N, h, w, D); with `round` operands are rounded to bf16, the result
// is bfloat16 with `half`.
Tensor conv_down(Tensor x, Tensor kernel, bool round, bool half) {
  HD_CHECK(kernel.dim() == 4, "conv_down: kernel must be (D, C, 4, 4)", got(kernel));
  check_sizes(kernel, "conv_down: kernel");
  cpu::ConvSizes z = down_sizes(x, kernel.size(0), "conv_down: x");
  if (round) z.operands = DType::BF16;
  Tensor y = empty(x, {z.images, z.h, z.w, z.d}, type_of(half));
  cpu::conv_down(torch_pool(), z, big(x, z, "conv_down: x"), take_kernel(kernel, z, "conv_down: kernel"),
                 small(y, z, "conv_down: y"));
  return y;
}

// y (N, h, w, D), kernel (D, C, 4, 4) -> (N, 2h, 2w, C); types as conv_down's
Tensor conv_up(Tensor y, Tensor kernel, bool round, bool half) {
  HD_CHECK(y.dim() == 4 && kernel.dim() == 4, "conv_up: y must be (N, h, w, D), kernel (D, C, 4, 4)", got(y, kernel));
  for (const Tensor& t : {y, kernel}) check_sizes(t, "conv_up: y or kernel");
  cpu::ConvSizes z{y.size(0), y.size(1), y.size(2), kernel.size(1), y.size(3)};
  if (round) z.operands = DType::BF16;
  Tensor x = empty(y, {z.images, 2 * z.h, 2 * z.w, z.c}, type_of(half));
  cpu::conv_up(torch_pool(), z, small(y, z, "conv_up: y"), take_kernel(kernel, z, "conv_up: kernel"),
               big(x, z, "conv_up: x"));
  return x;
}

// x (N, 2h, 2w, C), y (N, h, w, D) -> (D, C, 4, 4) float32
Tensor conv_kernel(Tensor x, Tensor y, bool round) {
  HD_CHECK(y.dim() == 4, "conv_kernel: y must be (N, h, w, D)", got(y));
  check_sizes(y, "conv_kernel: y");
  cpu::ConvSizes z = down_sizes(x, y.size(3), "conv_kernel: x");
  check_channels(z, "conv_kernel: x and y");
  if (round) z.operands = DType::BF16;
  Tensor dkernel = empty(x, {z.d, z.c, 4, 4});
  cpu::conv_kernel(torch_pool(), z, big(x, z, "conv_kernel: x"), small(y, z, "conv_kernel: y"), out(dkernel));
  return dkernel;
}

}  // namespace
}  // namespace hd::ops

HD_LIBRARY(m) {
  m.def("conv_down(Tensor x, Tensor kernel, bool round=False, bool half=False) -> Tensor");
  m.def("conv_up(Tensor y, Tensor kernel, bool round=False, bool half=False) -> Tensor");
  m.def("conv_kernel(Tensor x, Tensor y, bool round=False) -> Tensor");
}

HD_IMPLEMENT(m) {
  m.impl("conv_down", HD_BOX(hd::ops::conv_down));
  m.impl("conv_up", HD_BOX(hd::ops::conv_up));
  m.impl("conv_kernel", HD_BOX(hd::ops::conv_kernel));
}
