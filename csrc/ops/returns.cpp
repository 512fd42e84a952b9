// returns.cpp -- lambda returns and state weights as torch ops; the math stands in kernels/returns.h.
#include "kernels/returns.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

// reward (H, N), value, cont (H+1, N) -> returns (H, N)
Tensor lambda_return_fwd(Tensor reward, Tensor value, Tensor cont, double gamma, double lam) {
  HD_CHECK(reward.dim() == 2, "lambda_return_fwd: reward must be (horizon, n)", got(reward));
  const int64_t horizon = reward.size(0), n = reward.size(1);
  check_tensor(reward, {horizon, n}, reward, "lambda_return_fwd: reward");
  check_tensor(value, {horizon + 1, n}, reward, "lambda_return_fwd: value");
  check_tensor(cont, {horizon + 1, n}, reward, "lambda_return_fwd: cont");
  Tensor ret = new_like(reward);
  LambdaReturnArgs args{};
  args.reward = in(reward), args.value = in(value), args.cont = in(cont), args.ret = out(ret);
  args.horizon = horizon, args.n = n;
  args.gamma = float(gamma), args.lam = float(lam), args.rest = float(1.0 - lam);
  run(
      reward, [&](auto stream) { launch_lambda_return_fwd(args, stream); },
      [&](auto threads) {
        threads.split(n, 4 * horizon,
                      [&](int64_t begin, int64_t end) { cpu::lambda_return_fwd(args, begin, end); });
      });
  return ret;
}

// dret (H, N), value, cont (H+1, N), ret (H, N) -> dreward (H, N), dvalue, dcont (H+1, N)
std::tuple<Tensor, Tensor, Tensor> lambda_return_bwd(Tensor dret, Tensor value, Tensor cont, Tensor ret,
                                                     double gamma, double lam) {
  HD_CHECK(dret.dim() == 2, "lambda_return_bwd: dret must be (horizon, n)", got(dret));
  const int64_t horizon = dret.size(0), n = dret.size(1);
  check_tensor(dret, {horizon, n}, dret, "lambda_return_bwd: dret");
  check_tensor(ret, {horizon, n}, dret, "lambda_return_bwd: ret");
  check_tensor(value, {horizon + 1, n}, dret, "lambda_return_bwd: value");
  check_tensor(cont, {horizon + 1, n}, dret, "lambda_return_bwd: cont");
  Tensor dreward = new_like(dret), dvalue = new_like(value), dcont = new_like(cont);
  LambdaReturnArgs args{};
  args.value = in(value), args.cont = in(cont), args.ret = out(ret), args.dret = in(dret);
  args.dreward = out(dreward), args.dvalue = out(dvalue), args.dcont = out(dcont);
  args.horizon = horizon, args.n = n;
  args.gamma = float(gamma), args.lam = float(lam), args.rest = float(1.0 - lam);
  run(
      dret, [&](auto stream) { launch_lambda_return_bwd(args, stream); },
      [&](auto threads) {
        threads.split(n, 4 * horizon,
                      [&](int64_t begin, int64_t end) { cpu::lambda_return_bwd(args, begin, end); });
      });
  return {dreward, dvalue, dcont};
}

// N of (T, N), or 0 where no step is: however many columns of nothing there are, they take no time.
int64_t columns(const Tensor& cells) { return cells.size(0) > 0 ? cells.size(1) : 0; }

// cont (T, N) -> weight (T, N)
Tensor return_weight_fwd(Tensor cont, double gamma) {
  HD_CHECK(cont.dim() == 2, "return_weight_fwd: cont must be (time, n)", got(cont));
  check_tensor(cont, {cont.size(0), cont.size(1)}, cont, "return_weight_fwd: cont");
  Tensor weight = new_like(cont);
  const ReturnWeightArgs args{in(cont),     out(weight),  nullptr,     nullptr,
                              cont.size(0), columns(cont), float(gamma)};
  run(
      cont, [&](auto stream) { launch_return_weight_fwd(args, stream); },
      [&](auto threads) {
        threads.split(args.n, 4 * args.time,
                      [&](int64_t begin, int64_t end) { cpu::return_weight_fwd(args, begin, end); });
      });
  return weight;
}

// dweight, cont, weight (T, N) -> dcont (T, N)
Tensor return_weight_bwd(Tensor dweight, Tensor cont, Tensor weight, double gamma) {
  HD_CHECK(cont.dim() == 2, "return_weight_bwd: cont must be (time, n)", got(cont));
  for (const Tensor& t : {cont, dweight, weight})
    check_tensor(t, {cont.size(0), cont.size(1)}, cont, "return_weight_bwd: dweight, cont or weight");
  Tensor dcont = new_like(cont);
  const ReturnWeightArgs args{in(cont),     out(weight),  in(dweight), out(dcont),
                              cont.size(0), columns(cont), float(gamma)};
  run(
      cont, [&](auto stream) { launch_return_weight_bwd(args, stream); },
      [&](auto threads) {
        threads.split(args.n, 4 * args.time,
                      [&](int64_t begin, int64_t end) { cpu::return_weight_bwd(args, begin, end); });
      });
  return dcont;
}

}  // namespace
}  // namespace hd::ops

HD_LIBRARY(m) {
  m.def("lambda_return_fwd(Tensor reward, Tensor value, Tensor cont, float gamma, float lam) -> Tensor");
  m.def(
      "lambda_return_bwd(Tensor dret, Tensor value, Tensor cont, Tensor ret, float gamma, float lam) -> "
      "(Tensor dreward, Tensor dvalue, Tensor dcont)");
  m.def("return_weight_fwd(Tensor cont, float gamma) -> Tensor");
  m.def("return_weight_bwd(Tensor dweight, Tensor cont, Tensor weight, float gamma) -> Tensor");
}

HD_IMPLEMENT(m) {
  m.impl("lambda_return_fwd", HD_BOX(hd::ops::lambda_return_fwd));
  m.impl("lambda_return_bwd", HD_BOX(hd::ops::lambda_return_bwd));
  m.impl("return_weight_fwd", HD_BOX(hd::ops::return_weight_fwd));
  m.impl("return_weight_bwd", HD_BOX(hd::ops::return_weight_bwd));
}
