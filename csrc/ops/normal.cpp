// normal.cpp -- the policy over continuous actions as torch ops; the equations are in kernels/normal.h.
#include "kernels/normal.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

NormalPolicyArgs policy_args(const Tensor& mean_raw, const Tensor& std_raw) {
  NormalPolicyArgs args{};
  HD_TAKE(args, mean_raw, mean_raw), HD_TAKE(args, std_raw, mean_raw);
  args.size = mean_raw.numel();
  return args;
}

// mean_raw, std_raw (...) float32 -> mean, std (...)
HD_OP(Results<2>, normal_policy_fwd, (Tensor mean_raw, Tensor std_raw)) {
  NormalPolicyArgs args = policy_args(mean_raw, std_raw);
  Tensor mean = new_like(mean_raw, args.mean), std = new_like(mean_raw, args.std);
  HD_RUN(normal_policy_fwd, mean_raw, args, args.size, 4);
  return {mean, std};
}

// dmean, dstd, then the inputs of the forward -> dmean_raw, dstd_raw (...)
HD_OP(Results<2>, normal_policy_bwd, (Tensor dmean, Tensor dstd, Tensor mean_raw, Tensor std_raw)) {
  NormalPolicyArgs args = policy_args(mean_raw, std_raw);
  HD_TAKE(args, dmean, mean_raw), HD_TAKE(args, dstd, mean_raw);
  Tensor to_mean = new_like(mean_raw, args.mean), to_std = new_like(mean_raw, args.std);
  HD_RUN(normal_policy_bwd, mean_raw, args, args.size, 4);
  return {to_mean, to_std};
}

NormalLogProbArgs log_prob_args(const Tensor& mean, const Tensor& std, const Tensor& action) {
  HD_CHECK(mean.dim() == 2 && cols(mean) >= 1, "mean must be (rows, actions), at least one action", got(mean));
  NormalLogProbArgs args{};
  HD_TAKE(args, mean, mean), HD_TAKE(args, std, mean), HD_TAKE(args, action, mean);
  args.rows = rows(mean), args.actions = cols(mean);
  return args;
}

// mean, std, action (N, A) -> logp, ent (N,)
HD_OP(Results<2>, normal_log_prob_fwd, (Tensor mean, Tensor std, Tensor action)) {
  NormalLogProbArgs args = log_prob_args(mean, std, action);
  Tensor logp = new_rows(mean, args.logp), ent = new_rows(mean, args.ent);
  HD_RUN(normal_log_prob_fwd, mean, args, args.rows, 4 * args.actions);
  return {logp, ent};
}

// dlogp or none, dent or none (N,), then the inputs of the forward -> dmean, dstd (N, A)
HD_OP(Results<2>, normal_log_prob_bwd, (Maybe dlogp, Maybe dent, Tensor mean, Tensor std, Tensor action)) {
  NormalLogProbArgs args = log_prob_args(mean, std, action);
  HD_TAKE(args, dlogp, {args.rows}, mean), HD_TAKE(args, dent, {args.rows}, mean);
  Tensor dmean = new_like(mean, args.dmean), dstd = new_like(mean, args.dstd);
  HD_RUN(normal_log_prob_bwd, mean, args, args.rows, 4 * args.actions);
  return {dmean, dstd};
}

// outputs of both heads without their biases, and normal noise (N, A) -> action (N, A), and as the dynamics read it
HD_OP(void, normal_sample,
      (Tensor mean_raw, Tensor mean_bias, Tensor std_raw, Tensor std_bias, Tensor noise, Out action, Out taken)) {
  HD_CHECK(mean_raw.dim() == 2 && cols(mean_raw) >= 1, "mean_raw must be (rows, actions), at least one action",
           got(mean_raw));
  NormalSampleArgs args{};
  args.rows = rows(mean_raw), args.actions = cols(mean_raw), args.dtype = storage(taken, "taken");
  HD_TAKE(args, mean_raw, mean_raw), HD_TAKE(args, std_raw, mean_raw), HD_TAKE(args, noise, mean_raw);
  HD_TAKE(args, mean_bias, {args.actions}, mean_raw), HD_TAKE(args, std_bias, {args.actions}, mean_raw);
  HD_TAKE(args, action, mean_raw);
  args.taken = take_as(taken.scalar_type(), taken, {args.rows, args.actions}, mean_raw, "taken");
  HD_RUN(normal_sample, mean_raw, args, args.rows, 6 * args.actions);
}

}  // namespace
}  // namespace hd::ops
