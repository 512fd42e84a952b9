// kl.cpp -- KL of log-probabilities, plain and balanced with free nats, as torch ops; the math stands in
// kernels/kl.h. Backward calls the same code again, the losses' gradients given and the gradients wanted.
#include "kernels/kl.h"

#include <limits>

#include "ops/glue.h"

namespace hd::ops {
namespace {

// post, prior (..., S, K) of one storage type, K <= KL_MAX_CLASSES: the arguments without outputs.
BalancedKlArgs checked(const Tensor& post, const Tensor& prior, double free_nats) {
  HD_CHECK(post.dim() >= 2, "balanced_kl: post must be (..., latents, classes)", got(post));
  check_layout(post, post, "balanced_kl: post");
  check_layout(prior, post, "balanced_kl: prior");
  check_type(prior, post.scalar_type(), "balanced_kl: prior");
  check_same_shape(prior, post, "balanced_kl: prior");
  HD_CHECK(cols(post) <= KL_MAX_CLASSES, "balanced_kl: post must have up to ", KL_MAX_CLASSES, " classes", got(post));
  BalancedKlArgs args{};
  args.post = in<void>(post);
  args.prior = in<void>(prior);
  args.rows = rows(post, 2);
  args.groups = post.size(post.dim() - 2);
  args.classes = cols(post);
  args.free_nats = float(free_nats);
  args.dtype = storage(post, "balanced_kl: post");
  return args;
}

void compute(const Tensor& post, const BalancedKlArgs& args) {
  run(
      post, [&](auto stream) { launch_balanced_kl(args, stream); },
      [&](auto threads) {
        threads.split(args.rows, 2 * args.groups * args.classes,
                      [&](int64_t begin, int64_t end) { cpu::balanced_kl(args, begin, end); });
      });
}

// -> dyn, rep, kl, each (...) float32
std::tuple<Tensor, Tensor, Tensor> balanced_kl_fwd(Tensor post, Tensor prior, double free_nats) {
  BalancedKlArgs args = checked(post, prior, free_nats);
  Tensor dyn = new_rows(post, 2), rep = new_rows(post, 2), kl = new_rows(post, 2);
  args.dyn = out(dyn);
  args.rep = out(rep);
  args.kl = out(kl);
  compute(post, args);
  return {dyn, rep, kl};
}

// ddyn, drep (...) float32 -> dpost, dprior like post
std::tuple<Tensor, Tensor> balanced_kl_bwd(Tensor ddyn, Tensor drep, Tensor post, Tensor prior,
                                           double free_nats) {
  BalancedKlArgs args = checked(post, prior, free_nats);
  for (const Tensor& t : {ddyn, drep}) {
    check_float(t, post, "balanced_kl: ddyn or drep");
    check_count(t, args.rows, "balanced_kl: ddyn or drep");
  }
  Tensor dpost = new_like(post), dprior = new_like(post);
  args.ddyn = in(ddyn);
  args.drep = in(drep);
  args.dpost = out<void>(dpost);
  args.dprior = out<void>(dprior);
  compute(post, args);
  return {dpost, dprior};
}

// KL(p || q) (...) float32; its gradient is balanced_kl_bwd without free nats.
Tensor kl_divergence_fwd(Tensor p, Tensor q) {
  BalancedKlArgs args = checked(p, q, -std::numeric_limits<double>::infinity());
  Tensor kl = new_rows(p, 2);
  args.kl = out(kl);
  compute(p, args);
  return kl;
}

}  // namespace
}  // namespace hd::ops

HD_LIBRARY(m) {
  m.def("balanced_kl_fwd(Tensor post, Tensor prior, float free_nats) -> (Tensor dyn, Tensor rep, Tensor kl)");
  m.def(
      "balanced_kl_bwd(Tensor ddyn, Tensor drep, Tensor post, Tensor prior, float free_nats) -> "
      "(Tensor dpost, Tensor dprior)");
  m.def("kl_divergence_fwd(Tensor p, Tensor q) -> Tensor");
}

HD_IMPLEMENT(m) {
  m.impl("balanced_kl_fwd", HD_BOX(hd::ops::balanced_kl_fwd));
  m.impl("balanced_kl_bwd", HD_BOX(hd::ops::balanced_kl_bwd));
  m.impl("kl_divergence_fwd", HD_BOX(hd::ops::kl_divergence_fwd));
}
