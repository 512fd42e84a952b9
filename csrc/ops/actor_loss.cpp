// actor_loss.cpp -- REINFORCE with entropy bonus as torch ops; the equations are in kernels/actor_loss.h.
#include "kernels/actor_loss.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

ActorLossArgs actor_args(const Tensor& logit, const Tensor& action, const Tensor& advantage, const Tensor& weight,
                         double entropy) {
  HD_CHECK(logit.dim() >= 1 && cols(logit) >= 1, "logit must be (..., actions), at least one action", got(logit));
  ActorLossArgs args{};
  HD_TAKE(args, logit, logit), HD_TAKE_ROWS(args, action, logit, 1);
  HD_TAKE_ROWS(args, advantage, logit, 1), HD_TAKE_ROWS(args, weight, logit, 1);
  args.rows = rows(logit), args.actions = cols(logit), args.entropy = float(entropy);
  return args;
}

// logit (..., A) log-probabilities, action (...) int64, advantage, weight (...) -> loss, logp, ent (...)
HD_OP(Results<3>, actor_loss_fwd, (Tensor logit, Tensor action, Tensor advantage, Tensor weight, double entropy)) {
  ActorLossArgs args = actor_args(logit, action, advantage, weight, entropy);
  Tensor loss = new_rows(logit, args.loss), logp = new_rows(logit, args.logp), ent = new_rows(logit, args.ent);
  HD_RUN(actor_loss_fwd, logit, args, args.rows, 4 * args.actions);
  return {loss, logp, ent};
}

// dloss, dlogp or none, dent or none (...), then the inputs of the forward -> dlogit (..., A)
HD_OP(Tensor, actor_loss_bwd,
      (Tensor dloss, Maybe dlogp, Maybe dent, Tensor logit, Tensor action, Tensor advantage, Tensor weight,
       double entropy)) {
  ActorLossArgs args = actor_args(logit, action, advantage, weight, entropy);
  HD_TAKE_ROWS(args, dloss, logit, 1), HD_TAKE_ROWS(args, dlogp, logit, 1), HD_TAKE_ROWS(args, dent, logit, 1);
  Tensor dlogit = new_like(logit, args.dlogit);
  HD_RUN(actor_loss_bwd, logit, args, args.rows, 4 * args.actions);
  return dlogit;
}

}  // namespace
}  // namespace hd::ops
