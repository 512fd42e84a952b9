// cont_loss.cpp -- Bernoulli loss of the continue head as torch ops; the equations are in kernels/cont_loss.h.
#include "kernels/cont_loss.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

ContLossArgs cont_args(const Tensor& logit, const Tensor& cont) {
  ContLossArgs args{};
  HD_TAKE(args, logit, logit), HD_TAKE(args, cont, logit);
  args.size = logit.numel();
  return args;
}

// logit, cont (...) float32 -> loss (...)
HD_OP(Tensor, cont_loss_fwd, (Tensor logit, Tensor cont)) {
  ContLossArgs args = cont_args(logit, cont);
  Tensor loss = new_like(logit, args.out);
  HD_RUN(cont_loss_fwd, logit, args, args.size, 20);
  return loss;
}

// dloss, logit, cont (...) -> dlogit (...)
HD_OP(Tensor, cont_loss_bwd, (Tensor dloss, Tensor logit, Tensor cont)) {
  ContLossArgs args = cont_args(logit, cont);
  HD_TAKE(args, dloss, logit);
  Tensor dlogit = new_like(logit, args.out);
  HD_RUN(cont_loss_bwd, logit, args, args.size, 20);
  return dlogit;
}

}  // namespace
}  // namespace hd::ops
