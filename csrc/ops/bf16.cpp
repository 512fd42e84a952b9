// bf16.cpp -- products with operands rounded to bf16 and fp32 sums as torch ops on the CPU; the algorithms stand in
// cpu/gemm_bf16.cpp and cpu/scan_imagine.cpp.
#include "ops/scan_glue.h"

namespace hd::ops {
namespace {

cpu::Mat mat(const Tensor& t) {
  return {in<void>(t), t.stride(0), t.stride(1), t.scalar_type() == ScalarType::Float ? DType::F32 : DType::BF16};
}

// a (M, K) times b (K, N), each float32 or bfloat16 and of any strides -> float32, or with `half` bfloat16.
Tensor mm_bf16(Tensor a, Tensor b, bool half) {
  HD_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0), "mm_bf16: a must be (M, K), b (K, N)", got(a, b));
  for (const Tensor& t : {a, b}) {
    check_matrix(t, "mm_bf16: a or b");
    storage(t, "mm_bf16: a or b");
  }
  const int64_t m = a.size(0), n = b.size(1), k = a.size(1);
  Tensor y = empty(a, {m, n}, half ? ScalarType::BFloat16 : ScalarType::Float);
  if (half)
    cpu::gemm(torch_pool(), m, n, k, mat(a), mat(b), static_cast<cpu::Bf16*>(out<void>(y)), n);
  else
    cpu::gemm(torch_pool(), m, n, k, mat(a), mat(b), out(y), n, false, DType::BF16);
  return y;
}

// deter (N, D), index (N, S), kernel (D + S*K, C), all float32 but index -> (N, C) as mm_bf16; stoch only carries a
// gradient
Tensor state_mm_bf16_fwd(Tensor deter, std::optional<Tensor>, Tensor index, Tensor kernel, int64_t classes, bool half) {
  cpu::Sizes z = state_sizes(deter, index, kernel, classes, "state_mm_bf16");
  z.operands = DType::BF16;
  const int64_t n = deter.size(0), d = z.deter, s = z.stoch, c = kernel.size(1);
  Tensor y = empty(deter, {n, c}, half ? ScalarType::BFloat16 : ScalarType::Float);
  cpu::state_mm(torch_pool(), z, n, c, take(deter, {n, d}, "state_mm_bf16: deter"), in<int64_t>(index),
                take(kernel, {d + s * classes, c}, "state_mm_bf16: kernel"), out<void>(y),
                half ? DType::BF16 : DType::F32);
  return y;
}

// dy (N, C) -> ddeter, dstoch (N, S*K), dkernel, float32; each empty where not wanted
std::tuple<Tensor, Tensor, Tensor> state_mm_bf16_bwd(Tensor dy, Tensor deter, Tensor index, Tensor kernel,
                                                     int64_t classes, bool need_deter, bool need_stoch,
                                                     bool need_kernel) {
  cpu::Sizes z = state_sizes(deter, index, kernel, classes, "state_mm_bf16");
  z.operands = DType::BF16;
  const int64_t n = deter.size(0), d = z.deter, s = z.stoch, c = kernel.size(1);
  check_host(dy, "state_mm_bf16: dy");
  storage(dy, "state_mm_bf16: dy");
  check_shape(dy, {n, c}, "state_mm_bf16: dy");
  Tensor ddeter = need_deter ? empty(deter, {n, d}) : empty(deter, {0});
  Tensor dstoch = need_stoch ? empty(deter, {n, s * classes}) : empty(deter, {0});
  Tensor dkernel = need_kernel ? zeros(deter, {d + s * classes, c}) : empty(deter, {0});
  cpu::state_mm_bwd(torch_pool(), z, n, c, mat(dy), take(deter, {n, d}, "state_mm_bf16: deter"),
                    in<int64_t>(index), take(kernel, {d + s * classes, c}, "state_mm_bf16: kernel"),
                    need_deter ? out(ddeter) : nullptr, need_stoch ? out(dstoch) : nullptr,
                    need_kernel ? out(dkernel) : nullptr);
  return {ddeter, dstoch, dkernel};
}

}  // namespace
}  // namespace hd::ops

HD_LIBRARY(m) {
  m.def("mm_bf16(Tensor a, Tensor b, bool half) -> Tensor");
  m.def(
      "state_mm_bf16_fwd(Tensor deter, Tensor? stoch, Tensor index, Tensor kernel, int classes, bool half) -> Tensor");
  m.def(
      "state_mm_bf16_bwd(Tensor dy, Tensor deter, Tensor index, Tensor kernel, int classes, bool need_deter, "
      "bool need_stoch, bool need_kernel) -> (Tensor ddeter, Tensor dstoch, Tensor dkernel)");
}

HD_IMPLEMENT(m) {
  m.impl("mm_bf16", HD_BOX(hd::ops::mm_bf16));
  m.impl("state_mm_bf16_fwd", HD_BOX(hd::ops::state_mm_bf16_fwd));
  m.impl("state_mm_bf16_bwd", HD_BOX(hd::ops::state_mm_bf16_bwd));
}
