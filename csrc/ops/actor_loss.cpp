// actor_loss.cpp -- REINFORCE with entropy bonus as torch ops; the math stands in kernels/actor_loss.h.
#include "kernels/actor_loss.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

ActorLossArgs checked(const Tensor& logit, const Tensor& action, const Tensor& advantage,
                      const Tensor& weight, double entropy) {
  HD_CHECK(logit.dim() == 2 && cols(logit) >= 1, "actor_loss: logit must be (rows, actions), at least one action",
           got(logit));
  check_float(logit, logit, "actor_loss: logit");
  check_tensor(action, {rows(logit)}, logit, "actor_loss: action", ScalarType::Long);
  for (const Tensor& t : {advantage, weight}) {
    check_tensor(t, {rows(logit)}, logit, "actor_loss: advantage or weight");
  }
  ActorLossArgs args{};
  args.logit = in(logit), args.action = in<int64_t>(action), args.advantage = in(advantage),
  args.weight = in(weight);
  args.rows = rows(logit), args.actions = cols(logit), args.entropy = float(entropy);
  return args;
}

// logit (N, A) log-probabilities, action (N,) int64, advantage, weight (N,) -> loss, logp, ent (N,)
std::tuple<Tensor, Tensor, Tensor> actor_loss_fwd(Tensor logit, Tensor action, Tensor advantage,
                                                  Tensor weight, double entropy) {
  ActorLossArgs args = checked(logit, action, advantage, weight, entropy);
  Tensor loss = new_rows(logit), logp = new_rows(logit), ent = new_rows(logit);
  args.loss = out(loss), args.logp = out(logp), args.ent = out(ent);
  run(
      logit, [&](auto stream) { launch_actor_loss_fwd(args, stream); },
      [&](auto threads) {
        threads.split(args.rows, 4 * args.actions,
                      [&](int64_t begin, int64_t end) { cpu::actor_loss_fwd(args, begin, end); });
      });
  return {loss, logp, ent};
}

// dloss, dlogp or none, dent or none (N,), then the inputs of the forward -> dlogit (N, A)
Tensor actor_loss_bwd(Tensor dloss, std::optional<Tensor> dlogp, std::optional<Tensor> dent, Tensor logit,
                      Tensor action, Tensor advantage, Tensor weight, double entropy) {
  ActorLossArgs args = checked(logit, action, advantage, weight, entropy);
  for (const Tensor& t : {dloss, dlogp ? *dlogp : dloss, dent ? *dent : dloss}) {
    check_tensor(t, {rows(logit)}, logit, "actor_loss_bwd: dloss, dlogp or dent");
  }
  Tensor dlogit = new_like(logit);
  args.dloss = in(dloss), args.dlogp = dlogp ? in(*dlogp) : nullptr, args.dent = dent ? in(*dent) : nullptr;
  args.dlogit = out(dlogit);
  run(
      logit, [&](auto stream) { launch_actor_loss_bwd(args, stream); },
      [&](auto threads) {
        threads.split(args.rows, 4 * args.actions,
                      [&](int64_t begin, int64_t end) { cpu::actor_loss_bwd(args, begin, end); });
      });
  return dlogit;
}

}  // namespace
}  // namespace hd::ops

HD_LIBRARY(m) {
  m.def(
      "actor_loss_fwd(Tensor logit, Tensor action, Tensor advantage, Tensor weight, float entropy) -> "
      "(Tensor loss, Tensor logp, Tensor ent)");
  m.def(
      "actor_loss_bwd(Tensor dloss, Tensor? dlogp, Tensor? dent, Tensor logit, Tensor action, Tensor "
      "advantage, "
      "Tensor weight, float entropy) -> Tensor");
}

HD_IMPLEMENT(m) {
  m.impl("actor_loss_fwd", HD_BOX(hd::ops::actor_loss_fwd));
  m.impl("actor_loss_bwd", HD_BOX(hd::ops::actor_loss_bwd));
}
