// returns.cpp -- lambda returns and state weights as torch ops; the equations are in kernels/returns.h.
#include "kernels/returns.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

// `like` is (H, N); value, cont (H+1, N).
LambdaReturnArgs lambda_args(const Tensor& like, const Tensor& value, const Tensor& cont, double gamma, double lam) {
  HD_CHECK(like.dim() == 2, "reward or dret must be (horizon, n)", got(like));
  LambdaReturnArgs args{};
  args.horizon = like.size(0), args.n = like.size(1);
  args.gamma = float(gamma), args.lam = float(lam), args.rest = float(1.0 - lam);
  check_sizes(like, "reward or dret");
  HD_TAKE(args, value, {args.horizon + 1, args.n}, like);
  HD_TAKE(args, cont, {args.horizon + 1, args.n}, like);
  return args;
}

// reward (H, N), value, cont (H+1, N) -> returns (H, N)
HD_OP(Tensor, lambda_return_fwd, (Tensor reward, Tensor value, Tensor cont, double gamma, double lam)) {
  LambdaReturnArgs args = lambda_args(reward, value, cont, gamma, lam);
  HD_TAKE(args, reward, reward);
  Tensor ret = new_like(reward, args.ret);
  HD_RUN(lambda_return_fwd, reward, args, args.n, 4 * args.horizon);
  return ret;
}

// dret (H, N), value, cont (H+1, N), ret (H, N) -> dreward (H, N), dvalue, dcont (H+1, N)
HD_OP(Results<3>, lambda_return_bwd, (Tensor dret, Tensor value, Tensor cont, Tensor ret, double gamma, double lam)) {
  LambdaReturnArgs args = lambda_args(dret, value, cont, gamma, lam);
  HD_TAKE(args, dret, dret), HD_TAKE(args, ret, dret);
  Tensor dreward = new_like(dret, args.dreward), dvalue = new_like(value, args.dvalue),
         dcont = new_like(cont, args.dcont);
  HD_RUN(lambda_return_bwd, dret, args, args.n, 4 * args.horizon);
  return {dreward, dvalue, dcont};
}

// cont (T, N). Without a step there is nothing in its columns, however many: they take no time.
ReturnWeightArgs weight_args(const Tensor& cont, double gamma) {
  HD_CHECK(cont.dim() == 2, "cont must be (time, n)", got(cont));
  ReturnWeightArgs args{};
  HD_TAKE(args, cont, cont), args.gamma = float(gamma);
  args.time = cont.size(0), args.n = args.time > 0 ? cont.size(1) : 0;
  return args;
}

// cont (T, N) -> weight (T, N)
HD_OP(Tensor, return_weight_fwd, (Tensor cont, double gamma)) {
  ReturnWeightArgs args = weight_args(cont, gamma);
  Tensor weight = new_like(cont, args.weight);
  HD_RUN(return_weight_fwd, cont, args, args.n, 4 * args.time);
  return weight;
}

// dweight, cont, weight (T, N) -> dcont (T, N)
HD_OP(Tensor, return_weight_bwd, (Tensor dweight, Tensor cont, Tensor weight, double gamma)) {
  ReturnWeightArgs args = weight_args(cont, gamma);
  HD_TAKE(args, dweight, cont), HD_TAKE(args, weight, cont);
  Tensor dcont = new_like(cont, args.dcont);
  HD_RUN(return_weight_bwd, cont, args, args.n, 4 * args.time);
  return dcont;
}

}  // namespace
}  // namespace hd::ops
