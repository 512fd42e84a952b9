// imagine.cpp -- the rollout under the actor, and products with model states, as torch ops on the CPU; the algorithms
// stand in cpu/scan_imagine.cpp and cpu/gemm.cpp.
#include <cstring>

#include "ops/scan_glue.h"

namespace hd::ops {
namespace {

using Tensors = std::vector<Tensor>;

// deter (N, D), index (N, S), u (H, N, S), u_action (H or H + 1, N); actor: kernel, scale, bias of each hidden layer,
// then kernel and bias; half: bf16 products -> deter (H+1, N, D), index (H+1, N, S), prior (H, N, S, K) or empty,
// action like u_action, pre (L, H or H + 1, N, U) of the actor's LayerNorms
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> imagine(Tensor deter, Tensor index, Tensor u, Tensor u_action,
                                                           Tensors params, Tensors actor, int64_t classes, double mix,
                                                           bool keep_prior, bool half) {
  HD_CHECK(deter.dim() == 2 && u.dim() == 3 && u_action.dim() == 2,
           "imagine: deter must be (N, D), u (H, N, S), u_action (H, N), got ", shape_of(deter), ", ", shape_of(u),
           " and ", shape_of(u_action), "; reshape them");
  for (const Tensor& t : {deter, u, u_action}) check_sizes(t, "imagine: deter, u or u_action");
  check_parameters(params, {1, 7, 10}, "imagine: params");
  HD_CHECK(classes > 0, "imagine: classes must be at least 1, got ", classes, "; give the classes of a latent");
  HD_CHECK(actor.size() >= 2 && actor.size() % 3 == 2,
           "imagine: actor must be 3 tensors a hidden layer and 2 of the last one, got ", actor.size(),
           " tensors; give them all");
  const int64_t latent = params[10].size(1), n = deter.size(0), h = u.size(0);
  const cpu::Sizes z{0, params[1].size(0) - latent, deter.size(1), params[7].size(1), latent / classes, classes,
                     float(mix), half ? DType::BF16 : DType::F32};
  HD_CHECK(latent == z.stoch * classes && z.actions > 0, "imagine: classes must divide the latent, ", latent,
           ", and params[1] have rows for actions, got ", classes, " and ", z.actions,
           " rows; give the parameters of one model");
  const cpu::Rssm p = rssm(params, z, false, "imagine: parameter");
  std::vector<cpu::DenseT<const float>> hidden;
  int64_t width = z.deter + latent;
  for (size_t i = 0; i + 2 < actor.size(); i += 3, width = z.units)
    hidden.push_back({take(actor[i], {width, z.units}, "imagine: actor"),
                      take(actor[i + 1], {z.units}, "imagine: actor"),
                      take(actor[i + 2], {z.units}, "imagine: actor")});
  const cpu::AffineT<const float> last{take(actor[actor.size() - 2], {width, z.actions}, "imagine: actor"),
                                       take(actor.back(), {z.actions}, "imagine: actor")};
  const int64_t choices = u_action.size(0);
  HD_CHECK(choices == h || choices == h + 1, "imagine: u_action must have ", h, " or ", h + 1, " rows", got(u_action));
  check_indices(index, {n, z.stoch}, classes, "imagine: index");
  Tensor deters = empty(deter, {h + 1, n, z.deter}), indices = empty(deter, {h + 1, n, z.stoch}, ScalarType::Long);
  Tensor prior = keep_prior ? empty(deter, {h, n, z.stoch, classes}) : empty(deter, {0});
  Tensor action = empty(deter, {choices, n}, ScalarType::Long);
  Tensor pre = empty(deter, {int64_t(hidden.size()), choices, n, z.units});
  std::memcpy(out(deters), take(deter, {n, z.deter}, "imagine: deter"), sizeof(float) * n * z.deter);
  std::memcpy(out<int64_t>(indices), in<int64_t>(index), sizeof(int64_t) * n * z.stoch);
  const cpu::Imagine x{h, n, choices, take(u, {h, n, z.stoch}, "imagine: u"),
                       take(u_action, {choices, n}, "imagine: u_action"), out(deters),
                       keep_prior ? out(prior) : nullptr, out<int64_t>(indices), out<int64_t>(action),
                       out(pre)};
  cpu::imagine(torch_pool(), z, p, hidden, last, x);
  return {deters, indices, prior, action, pre};
}

// deter (N, D), index (N, S), kernel (D + S*K, C) -> (N, C); stoch only carries a gradient
Tensor state_mm_fwd(Tensor deter, std::optional<Tensor>, Tensor index, Tensor kernel, int64_t classes) {
  const cpu::Sizes z = state_sizes(deter, index, kernel, classes, "state_mm");
  const int64_t n = deter.size(0), d = z.deter, s = z.stoch, c = kernel.size(1);
  Tensor y = empty(deter, {n, c});
  cpu::state_mm(torch_pool(), z, n, c, take(deter, {n, d}, "state_mm: deter"), in<int64_t>(index),
                take(kernel, {d + s * classes, c}, "state_mm: kernel"), out<void>(y), DType::F32);
  return y;
}

// -> ddeter, dstoch (N, S*K), dkernel; each empty where not wanted
std::tuple<Tensor, Tensor, Tensor> state_mm_bwd(Tensor dy, Tensor deter, Tensor index, Tensor kernel, int64_t classes,
                                                bool need_deter, bool need_stoch, bool need_kernel) {
  const cpu::Sizes z = state_sizes(deter, index, kernel, classes, "state_mm");
  const int64_t n = deter.size(0), d = z.deter, s = z.stoch, c = kernel.size(1);
  Tensor ddeter = need_deter ? empty(deter, {n, d}) : empty(deter, {0});
  Tensor dstoch = need_stoch ? empty(deter, {n, s * classes}) : empty(deter, {0});
  Tensor dkernel = need_kernel ? zeros(deter, {d + s * classes, c}) : empty(deter, {0});
  cpu::state_mm_bwd(torch_pool(), z, n, c, cpu::row_major(take(dy, {n, c}, "state_mm: dy"), c),
                    take(deter, {n, d}, "state_mm: deter"), in<int64_t>(index),
                    take(kernel, {d + s * classes, c}, "state_mm: kernel"),
                    need_deter ? out(ddeter) : nullptr, need_stoch ? out(dstoch) : nullptr,
                    need_kernel ? out(dkernel) : nullptr);
  return {ddeter, dstoch, dkernel};
}

// a (M, K) times b (K, N), either transposed and of any strides.
Tensor mm(Tensor a, Tensor b) {
  HD_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0), "mm: a must be (M, K), b (K, N)", got(a, b));
  for (const Tensor& t : {a, b}) {
    check_matrix(t, "mm: a or b");
    check_type(t, ScalarType::Float, "mm: a or b");
  }
  Tensor y = empty(a, {a.size(0), b.size(1)});
  cpu::gemm(torch_pool(), a.size(0), b.size(1), a.size(1), {in(a), a.stride(0), a.stride(1)},
            {in(b), b.stride(0), b.stride(1)}, out(y), b.size(1));
  return y;
}

}  // namespace
}  // namespace hd::ops

HD_LIBRARY(m) {
  m.def(
      "imagine(Tensor deter, Tensor index, Tensor u, Tensor u_action, Tensor[] params, Tensor[] actor, int classes, "
      "float mix, bool keep_prior, bool half=False) -> (Tensor deter, Tensor index, Tensor prior, Tensor action, "
      "Tensor pre)");
  m.def("state_mm_fwd(Tensor deter, Tensor? stoch, Tensor index, Tensor kernel, int classes) -> Tensor");
  m.def(
      "state_mm_bwd(Tensor dy, Tensor deter, Tensor index, Tensor kernel, int classes, bool need_deter, "
      "bool need_stoch, bool need_kernel) -> (Tensor ddeter, Tensor dstoch, Tensor dkernel)");
  m.def("mm(Tensor a, Tensor b) -> Tensor");
}

HD_IMPLEMENT(m) {
  m.impl("imagine", HD_BOX(hd::ops::imagine));
  m.impl("state_mm_fwd", HD_BOX(hd::ops::state_mm_fwd));
  m.impl("state_mm_bwd", HD_BOX(hd::ops::state_mm_bwd));
  m.impl("mm", HD_BOX(hd::ops::mm));
}
