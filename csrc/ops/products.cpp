// products.cpp -- matrix products as torch ops on the CPU, of float32 operands or of such rounded to bf16, and products
// with model states; the algorithms are in cpu/gemm.cpp, cpu/gemm_bf16.cpp and cpu/scan_imagine.cpp.
#include "ops/scan_glue.h"

namespace hd::ops {
namespace {

// A matrix of any strides, on the CPU; float32, or bf16, too, if the operands are.
cpu::Mat matrix(const Tensor& t, DType operands, const char* what) {
  HD_CHECK(!t.is_cuda() && t.dim() == 2, what, " must be a matrix on cpu", got(t));
  check_sizes(t, what);
  if (operands == DType::F32) check_type(t, ScalarType::Float, what);
  return {in<void>(t), t.stride(0), t.stride(1), storage(t, what)};
}

// a (M, K) times b (K, N) -> float32, or with `half` bfloat16.
Tensor product(const Tensor& a, const Tensor& b, DType operands, bool half) {
  const cpu::Mat left = matrix(a, operands, "a"), right = matrix(b, operands, "b");
  HD_CHECK(a.size(1) == b.size(0), "a must be (M, K), b (K, N)", got(a, b));
  const int64_t m = a.size(0), n = b.size(1), k = a.size(1);
  Tensor y = empty(a, {m, n}, type_of(half));
  if (half) cpu::gemm(torch_pool(), m, n, k, left, right, out<cpu::Bf16>(y), n);
  else cpu::gemm(torch_pool(), m, n, k, left, right, out(y), n, false, operands);
  return y;
}

HD_OP(Tensor, mm, (Tensor a, Tensor b)) { return product(a, b, DType::F32, false); }

HD_OP(Tensor, mm_bf16, (Tensor a, Tensor b, bool half)) { return product(a, b, DType::BF16, half); }

// deter (N, D), index (N, S) below classes, kernel (D + S*K, C).
struct States {
  cpu::Sizes z;
  int64_t n, c;
  const float *deter, *kernel;
  const int64_t* index;
};
States states(const Tensor& deter, const Tensor& index, const Tensor& kernel, int64_t classes, DType operands) {
  HD_CHECK(deter.dim() == 2 && index.dim() == 2 && kernel.dim() == 2,
           "deter, index and kernel must have 2 dimensions, got ", deter.dim(), ", ", index.dim(), " and ",
           kernel.dim(), "; reshape them");
  for (const Tensor& t : {deter, index, kernel}) check_sizes(t, "deter, index or kernel");
  HD_CHECK(classes >= 1 && classes <= kernel.size(0), "classes must be 1 to ", kernel.size(0),
           ", the rows of kernel, got ", classes, "; give the classes of a latent");
  const int64_t n = deter.size(0), d = deter.size(1), s = index.size(1), c = kernel.size(1);
  return {{0, 0, d, 0, s, classes, 0.0f, operands},
          n,
          c,
          host(deter, {n, d}, "deter"),
          host(kernel, {d + times(s, classes, "index and classes"), c}, "kernel"),
          indices(index, {n, s}, classes, "index")};
}

Tensor state_product(const Tensor& deter, const Tensor& index, const Tensor& kernel, int64_t classes, DType operands,
                     bool half) {
  const States x = states(deter, index, kernel, classes, operands);
  Tensor y = empty(deter, {x.n, x.c}, type_of(half));
  cpu::state_mm(torch_pool(), x.z, x.n, x.c, x.deter, x.index, x.kernel, out<void>(y), storage(y, "y"));
  return y;
}

// dy (N, C) -> ddeter, dstoch (N, S*K), dkernel, float32; each empty where not wanted
std::tuple<Tensor, Tensor, Tensor> state_product_bwd(const Tensor& dy, const Tensor& deter, const Tensor& index,
                                                     const Tensor& kernel, int64_t classes, bool need_deter,
                                                     bool need_stoch, bool need_kernel, DType operands) {
  const States x = states(deter, index, kernel, classes, operands);
  const void* grad = host_as(operands, dy, {x.n, x.c}, "dy");
  Tensor ddeter = need_deter ? empty(deter, {x.n, x.z.deter}) : empty(deter, {0});
  Tensor dstoch = need_stoch ? empty(deter, {x.n, x.z.latent()}) : empty(deter, {0});
  Tensor dkernel = need_kernel ? zeros(deter, {kernel.size(0), x.c}) : empty(deter, {0});
  cpu::state_mm_bwd(torch_pool(), x.z, x.n, x.c, {grad, x.c, 1, storage(dy, "dy")}, x.deter, x.index, x.kernel,
                    need_deter ? out(ddeter) : nullptr, need_stoch ? out(dstoch) : nullptr,
                    need_kernel ? out(dkernel) : nullptr);
  return {ddeter, dstoch, dkernel};
}

// stoch only carries a gradient
HD_OP(Tensor, state_mm_fwd, (Tensor deter, Maybe stoch, Tensor index, Tensor kernel, int64_t classes)) {
  return state_product(deter, index, kernel, classes, DType::F32, false);
}

HD_OP(Results<3>, state_mm_bwd,
      (Tensor dy, Tensor deter, Tensor index, Tensor kernel, int64_t classes, bool need_deter, bool need_stoch,
       bool need_kernel)) {
  return state_product_bwd(dy, deter, index, kernel, classes, need_deter, need_stoch, need_kernel, DType::F32);
}

HD_OP(Tensor, state_mm_bf16_fwd, (Tensor deter, Maybe stoch, Tensor index, Tensor kernel, int64_t classes, bool half)) {
  return state_product(deter, index, kernel, classes, DType::BF16, half);
}

HD_OP(Results<3>, state_mm_bf16_bwd,
      (Tensor dy, Tensor deter, Tensor index, Tensor kernel, int64_t classes, bool need_deter, bool need_stoch,
       bool need_kernel)) {
  return state_product_bwd(dy, deter, index, kernel, classes, need_deter, need_stoch, need_kernel, DType::BF16);
}

}  // namespace
}  // namespace hd::ops
