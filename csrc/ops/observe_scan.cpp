// observe_scan.cpp -- the posterior scan as torch ops on the CPU; the algorithm is in cpu/scan_observe.cpp.
#include "ops/scan_glue.h"

namespace hd::ops {
namespace {

cpu::Sizes sizes(const Tensor& embed, const Tensor& action, const Tensors& p, int64_t classes, double mix) {
  HD_CHECK(embed.dim() == 3 && action.dim() == 3, "embed and action must be (T, B, ...)", got(embed, action));
  for (const Tensor& t : {embed, action}) check_sizes(t, "embed or action");
  check_parameters(p, {7, 10});
  check_classes(classes);
  HD_CHECK(p[10].size(1) % classes == 0, "classes must divide the latent, ", p[10].size(1), ", got ", classes,
           "; give the parameters of one model");
  HD_CHECK(mix >= 0 && mix < 1, "mix must be in [0, 1), got ", mix);
  return {embed.size(2),           action.size(2), p[7].size(0), p[7].size(1),
          p[10].size(1) / classes, classes,        float(mix),   storage(embed, "embed")};
}

// Offsets of the kept tensors in one flat buffer: three pre-activations of U, one of 3D, four pairs of statistics.
int64_t saved_size(const cpu::Sizes& z, int64_t rows) { return times(rows, 3 * z.units + 3 * z.deter + 8, "saved"); }

cpu::Observe arguments(const cpu::Sizes& z, const Tensor& embed, const Tensor& action, const Tensor& is_first,
                       const Tensor& saved, const Tensor& start) {
  const int64_t t = embed.size(0), b = embed.size(1), n = times(t, b, "embed");
  cpu::Observe x{};
  x.length = t;
  x.batch = b;
  check_host(embed, "embed");
  check_shape(embed, {t, b, z.embed}, "embed");
  x.embed = {in<void>(embed), z.embed, 1, z.operands};
  x.action = host(action, {t, b, z.actions}, "action");
  check_host(is_first, "is_first");
  x.first = take<bool>(is_first, {t, b}, is_first, "is_first");
  host(saved, {saved_size(z, n)}, "saved");
  float* p = out(saved);
  auto next = [&](int64_t width) { return (p += n * width) - n * width; };
  x.saved.in = {next(z.units), next(2)};
  x.saved.gru = {next(3 * z.deter), next(2)};
  x.saved.obs = {next(z.units), next(2)};
  x.saved.img = {next(z.units), next(2)};
  x.saved.start = out<int64_t>(start);
  return x;
}

// Products are in the type of embed. -> deter (T, B, D), stoch one-hot (T, B, S, K), index (T, B, S), post, prior
// (T, B, S, K), saved, start
HD_OP(Results<7>, observe_scan_fwd,
      (Tensor embed, Tensor action, Tensor is_first, Tensor u, Tensors params, int64_t classes, double mix)) {
  const cpu::Sizes z = sizes(embed, action, params, classes, mix);
  const cpu::Rssm p = rssm(params, z, true);
  const int64_t t = embed.size(0), b = embed.size(1);
  Tensor deter = empty(embed, {t, b, z.deter}), index = empty(embed, {t, b, z.stoch}, ScalarType::Long);
  Tensor post = empty(embed, {t, b, z.stoch, classes}), prior = empty(embed, {t, b, z.stoch, classes});
  Tensor stoch = empty(embed, {t, b, z.stoch, classes});
  Tensor saved = empty(embed, {saved_size(z, rows(embed))}), start = empty(embed, {z.stoch}, ScalarType::Long);
  cpu::Observe x = arguments(z, embed, action, is_first, saved, start);
  x.u = host(u, {t, b, z.stoch}, "u");
  x.deter = out(deter);
  x.index = out<int64_t>(index);
  x.stoch = out(stoch);
  x.post = out(post);
  x.prior = out(prior);
  cpu::observe_scan(torch_pool(), z, p, x);
  return {deter, stoch, index, post, prior, saved, start};
}

// inputs = [embed, action, is_first], kept = [deter, index, post, prior, saved, start] of the forward. Gradients of
// embed (empty where not wanted) and of the 17 parameters, in their order.
HD_OP(Tensors, observe_scan_bwd,
      (Maybe ddeter, Maybe dstoch, Maybe dpost, Maybe dprior, Tensors inputs, Tensors params, Tensors kept,
       int64_t classes, double mix, bool need_embed)) {
  HD_CHECK(inputs.size() == 3 && kept.size() == 6, "inputs and kept must be 3 and 6 tensors, got ", inputs.size(),
           " and ", kept.size(), "; give them all");
  const Tensor &embed = inputs[0], &action = inputs[1], &is_first = inputs[2];
  const Tensor &deter = kept[0], &index = kept[1], &post = kept[2], &prior = kept[3], &saved = kept[4],
               &start = kept[5];
  const cpu::Sizes z = sizes(embed, action, params, classes, mix);
  const cpu::Rssm p = rssm(params, z, true);
  const int64_t t = embed.size(0), b = embed.size(1);
  indices(index, {t, b, z.stoch}, classes, "index");
  indices(start, {z.stoch}, classes, "start");
  cpu::Observe x = arguments(z, embed, action, is_first, saved, start);
  const Shape latent{t, b, z.stoch, classes}, flat{t, b, z.deter};
  x.deter = const_cast<float*>(host(deter, flat, "deter"));
  x.post = const_cast<float*>(host(post, latent, "post"));
  x.prior = const_cast<float*>(host(prior, latent, "prior"));
  x.index = out<int64_t>(index);
  Tensors grads{need_embed ? new_like(embed) : empty(embed, {0})};
  const cpu::ObserveGrad d{host(ddeter, flat, "ddeter"), host(dstoch, latent, "dstoch"), host(dpost, latent, "dpost"),
                           host(dprior, latent, "dprior"), need_embed ? out<void>(grads[0]) : nullptr};
  const auto g = rssm_of<float>(z, true, [&](size_t i, Shape shape) {
    grads.push_back(zeros(params[i], shape));
    return out(grads.back());
  });
  cpu::observe_scan_bwd(torch_pool(), z, p, x, d, g);
  return grads;
}

}  // namespace
}  // namespace hd::ops
