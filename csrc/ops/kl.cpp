// kl.cpp -- KL of log-probabilities, plain and balanced with free nats, as torch ops; the equations are in
// kernels/kl.h. Backward calls the same code again, the losses' gradients given and the gradients wanted.
#include "kernels/kl.h"

#include <limits>

#include "ops/glue.h"

namespace hd::ops {
namespace {

// post, prior (..., S, K) of one storage type, K <= KL_MAX_CLASSES: the arguments without outputs.
BalancedKlArgs kl_args(const Tensor& post, const Tensor& prior, double free_nats) {
  HD_CHECK(post.dim() >= 2, "post must be (..., latents, classes)", got(post));
  check_layout(post, post, "post");
  HD_CHECK(cols(post) <= KL_MAX_CLASSES, "post must have up to ", KL_MAX_CLASSES, " classes", got(post));
  BalancedKlArgs args{};
  args.post = in<void>(post), HD_TAKE(args, prior, post);
  args.rows = rows(post, 2), args.groups = post.size(post.dim() - 2), args.classes = cols(post);
  args.free_nats = float(free_nats), args.dtype = storage(post, "post");
  return args;
}

void compute(const Tensor& post, const BalancedKlArgs& args) {
  HD_RUN(balanced_kl, post, args, args.rows, 2 * args.groups * args.classes);
}

// -> dyn, rep, kl, each (...) float32
HD_OP(Results<3>, balanced_kl_fwd, (Tensor post, Tensor prior, double free_nats)) {
  BalancedKlArgs args = kl_args(post, prior, free_nats);
  Tensor dyn = new_rows(post, args.dyn, 2), rep = new_rows(post, args.rep, 2), kl = new_rows(post, args.kl, 2);
  compute(post, args);
  return {dyn, rep, kl};
}

// ddyn, drep (...) float32 -> dpost, dprior like post
HD_OP(Results<2>, balanced_kl_bwd, (Tensor ddyn, Tensor drep, Tensor post, Tensor prior, double free_nats)) {
  BalancedKlArgs args = kl_args(post, prior, free_nats);
  args.ddyn = take_count(ddyn, args.rows, post, "ddyn"), args.drep = take_count(drep, args.rows, post, "drep");
  Tensor dpost = new_like(post, args.dpost), dprior = new_like(post, args.dprior);
  compute(post, args);
  return {dpost, dprior};
}

// KL(p || q) (...) float32; its gradient is balanced_kl_bwd without free nats.
HD_OP(Tensor, kl_divergence_fwd, (Tensor p, Tensor q)) {
  BalancedKlArgs args = kl_args(p, q, -std::numeric_limits<double>::infinity());
  Tensor kl = new_rows(p, args.kl, 2);
  compute(p, args);
  return kl;
}

}  // namespace
}  // namespace hd::ops
