// latent.cpp -- unimix and the categorical sample as torch ops; the equations are in kernels/latent.h.
#include "kernels/latent.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

// logit (..., K) of a storage type, 1 <= K <= LATENT_MAX_CLASSES; log-probabilities if `normalized`.
template <class Args>
Args classes_of(const Tensor& logit, double mix, bool normalized) {
  HD_CHECK(logit.dim() >= 1, "logit must have an axis of classes", got(logit));
  check_layout(logit, logit, "logit");
  HD_CHECK(cols(logit) >= 1 && cols(logit) <= LATENT_MAX_CLASSES, "logit must have 1 to ", LATENT_MAX_CLASSES,
           " classes", got(logit));
  Args args{};
  args.logit = in<void>(logit), args.groups = rows(logit), args.classes = cols(logit), args.mix = float(mix);
  args.normalized = normalized, args.dtype = storage(logit, "logit");
  return args;
}

// u (...) float32, logp's shape without its last axis.
LatentFwdArgs sample_of(const Tensor& logp, const Tensor& u) {
  auto args = classes_of<LatentFwdArgs>(logp, 0, true);
  args.onehot_stride = args.classes, args.onehot_dtype = args.dtype;
  args.u = take_count(u, args.groups, logp, "u");
  bool same = u.dim() == logp.dim() - 1;
  for (int64_t d = 0; same && d < u.dim(); ++d) same = u.size(d) == logp.size(d);
  HD_CHECK(same, "u must have the shape of the logits without classes, ", shape_of(logp), got(u));
  return args;
}

void forward(const Tensor& x, const LatentFwdArgs& args) { HD_RUN(latent_fwd, x, args, args.groups, 2 * args.classes); }

Tensor backward(const Tensor& logit, LatentBwdArgs args) {
  Tensor dlogit = new_like(logit, args.dlogit);
  args.dlogit_dtype = args.dtype;
  HD_RUN(latent_bwd, logit, args, args.groups, 2 * args.classes);
  return dlogit;
}

// logit (..., K) -> log-probabilities like it
HD_OP(Tensor, unimix_fwd, (Tensor logit, double mix)) {
  auto args = classes_of<LatentFwdArgs>(logit, mix, false);
  Tensor logp = new_like(logit, args.logp);
  forward(logit, args);
  return logp;
}

// dlogp, logit (..., K) -> dlogit like logit
HD_OP(Tensor, unimix_bwd, (Tensor dlogp, Tensor logit, double mix)) {
  auto args = classes_of<LatentBwdArgs>(logit, mix, false);
  HD_TAKE(args, dlogp, logit);
  return backward(logit, args);
}

// logp (..., K), u (...) -> index (...) int64
HD_OP(Tensor, sample_index, (Tensor logp, Tensor u)) {
  LatentFwdArgs args = sample_of(logp, u);
  Tensor index = new_rows(logp, args.index);
  forward(logp, args);
  return index;
}

// logp (..., K), u (...) -> onehot like logp, index (...) int64
HD_OP(Results<2>, sample_latent_fwd, (Tensor logp, Tensor u)) {
  LatentFwdArgs args = sample_of(logp, u);
  Tensor onehot = new_like(logp, args.onehot), index = new_rows(logp, args.index);
  forward(logp, args);
  return {onehot, index};
}

// donehot, logp (..., K) -> dlogp like logp
HD_OP(Tensor, sample_latent_bwd, (Tensor donehot, Tensor logp)) {
  auto args = classes_of<LatentBwdArgs>(logp, 0, true);
  HD_TAKE(args, donehot, logp);
  return backward(logp, args);
}

}  // namespace
}  // namespace hd::ops
