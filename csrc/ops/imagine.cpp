// imagine.cpp -- the rollout under the actor as a torch op on the CPU; the algorithm is in cpu/scan_imagine.cpp.
#include <cstring>

#include "ops/scan_glue.h"

namespace hd::ops {
namespace {

// deter (N, D), index (N, S), u (H, N, S), u_action (H or H + 1, N); actor: kernel, scale, bias of each hidden layer,
// then kernel and bias; half: bf16 products -> deter (H+1, N, D), index (H+1, N, S), prior (H, N, S, K) or empty,
// action like u_action, pre (L, H or H + 1, N, U) of the actor's LayerNorms
HD_OP(Results<5>, imagine,
      (Tensor deter, Tensor index, Tensor u, Tensor u_action, Tensors params, Tensors actor, int64_t classes,
       double mix, bool keep_prior, Flag half)) {
  HD_CHECK(deter.dim() == 2 && u.dim() == 3 && u_action.dim() == 2,
           "deter must be (N, D), u (H, N, S), u_action (H, N), got ", shape_of(deter), ", ", shape_of(u), " and ",
           shape_of(u_action), "; reshape them");
  for (const Tensor& t : {deter, u, u_action}) check_sizes(t, "deter, u or u_action");
  check_parameters(params, {1, 7, 10});
  check_classes(classes);
  HD_CHECK(actor.size() >= 2 && actor.size() % 3 == 2,
           "actor must be 3 tensors a hidden layer and 2 of the last one, got ", actor.size(),
           " tensors; give them all");
  const int64_t latent = params[10].size(1), n = deter.size(0), h = u.size(0);
  const cpu::Sizes z{
      0,          params[1].size(0) - latent,     deter.size(1), params[7].size(1), latent / classes, classes,
      float(mix), half ? DType::BF16 : DType::F32};
  HD_CHECK(latent == z.stoch * classes && z.actions > 0 && z.actions <= LATENT_MAX_CLASSES,
           "classes must divide the latent, ", latent, ", and params[1] have rows for 1 to ", LATENT_MAX_CLASSES,
           " actions, got ", classes, " and ", z.actions, " rows; give the parameters of one model");
  const cpu::Rssm p = rssm(params, z, false);
  std::vector<cpu::DenseT<const float>> hidden;
  int64_t width = z.deter + latent;
  for (size_t i = 0; i + 2 < actor.size(); i += 3, width = z.units)
    hidden.push_back({host(actor[i], {width, z.units}, "actor"), host(actor[i + 1], {z.units}, "actor"),
                      host(actor[i + 2], {z.units}, "actor")});
  const cpu::AffineT<const float> last{host(actor[actor.size() - 2], {width, z.actions}, "actor"),
                                       host(actor.back(), {z.actions}, "actor")};
  const int64_t choices = u_action.size(0);
  HD_CHECK(choices == h || choices == h + 1, "u_action must have ", h, " or ", h + 1, " rows", got(u_action));
  const int64_t* first = indices(index, {n, z.stoch}, classes, "index");
  Tensor deters = empty(deter, {h + 1, n, z.deter}), indexes = empty(deter, {h + 1, n, z.stoch}, ScalarType::Long);
  Tensor prior = keep_prior ? empty(deter, {h, n, z.stoch, classes}) : empty(deter, {0});
  Tensor action = empty(deter, {choices, n}, ScalarType::Long);
  Tensor pre = empty(deter, {int64_t(hidden.size()), choices, n, z.units});
  std::memcpy(out(deters), host(deter, {n, z.deter}, "deter"), sizeof(float) * n * z.deter);
  std::memcpy(out<int64_t>(indexes), first, sizeof(int64_t) * n * z.stoch);
  const cpu::Imagine x{h,
                       n,
                       choices,
                       host(u, {h, n, z.stoch}, "u"),
                       host(u_action, {choices, n}, "u_action"),
                       out(deters),
                       keep_prior ? out(prior) : nullptr,
                       out<int64_t>(indexes),
                       out<int64_t>(action),
                       out(pre)};
  cpu::imagine(torch_pool(), z, p, hidden, last, x);
  return {deters, indexes, prior, action, pre};
}

}  // namespace
}  // namespace hd::ops
