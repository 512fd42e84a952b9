// twohot.cpp -- symlog, symexp, two-hot loss and mean as torch ops; the equations are in kernels/twohot.h.
#include "kernels/twohot.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

// x (...) float32 -> (...); dy, of its shape, is read by a backward alone.
SymArgs elements(const Tensor& x, const Tensor& dy) {
  SymArgs args{};
  HD_TAKE(args, x, x), HD_TAKE(args, dy, x), args.size = x.numel();
  return args;
}

HD_OP(Tensor, symlog_fwd, (Tensor x)) {
  SymArgs args = elements(x, x);
  Tensor y = new_like(x, args.y);
  HD_RUN(symlog_fwd, x, args, args.size, 2);
  return y;
}
HD_OP(Tensor, symlog_bwd, (Tensor dy, Tensor x)) {
  SymArgs args = elements(x, dy);
  Tensor dx = new_like(x, args.y);
  HD_RUN(symlog_bwd, x, args, args.size, 2);
  return dx;
}
HD_OP(Tensor, symexp_fwd, (Tensor x)) {
  SymArgs args = elements(x, x);
  Tensor y = new_like(x, args.y);
  HD_RUN(symexp_fwd, x, args, args.size, 2);
  return y;
}
HD_OP(Tensor, symexp_bwd, (Tensor dy, Tensor x)) {
  SymArgs args = elements(x, dy);
  Tensor dx = new_like(x, args.y);
  HD_RUN(symexp_bwd, x, args, args.size, 2);
  return dx;
}

// logit (N, K), bins (K,), K at least 2.
template <class Args>
Args bins_args(const Tensor& logit, const Tensor& bins) {
  HD_CHECK(logit.dim() == 2 && cols(logit) >= 2, "logit must be (rows, bins), at least two bins", got(logit));
  Args args{};
  args.rows = rows(logit), args.cols = cols(logit);
  HD_TAKE(args, logit, logit), HD_TAKE(args, bins, {args.cols}, logit);
  return args;
}
// target (M, N).
TwohotLossArgs loss_args(const Tensor& logit, const Tensor& target, const Tensor& bins) {
  auto args = bins_args<TwohotLossArgs>(logit, bins);
  HD_CHECK(target.dim() == 2, "target must be (targets, rows)", got(target, logit));
  args.targets = target.size(0);
  HD_TAKE(args, target, {args.targets, args.rows}, logit);
  return args;
}

// -> loss (M, N), stats (N, 2)
HD_OP(Results<2>, twohot_loss_fwd, (Tensor logit, Tensor target, Tensor bins)) {
  TwohotLossArgs args = loss_args(logit, target, bins);
  Tensor loss = new_like(target, args.loss), stats = empty(logit, {args.rows, 2}, args.stats);
  HD_RUN(twohot_loss_fwd, logit, args, args.rows, 2 * args.cols);
  return {loss, stats};
}

// dloss (M, N), logit (N, K), target (M, N), bins (K,), stats (N, 2) -> dlogit (N, K)
HD_OP(Tensor, twohot_loss_bwd, (Tensor dloss, Tensor logit, Tensor target, Tensor bins, Tensor stats)) {
  TwohotLossArgs args = loss_args(logit, target, bins);
  HD_TAKE(args, dloss, target), HD_TAKE(args, stats, {args.rows, 2}, logit);
  Tensor dlogit = new_like(logit, args.dlogit);
  HD_RUN(twohot_loss_bwd, logit, args, args.rows, 2 * args.cols);
  return dlogit;
}

// logit (N, K), bins (K,) -> mean (N,) in reward units, center (N,) in symlog units, stats (N, 2)
HD_OP(Results<3>, twohot_mean_fwd, (Tensor logit, Tensor bins)) {
  auto args = bins_args<TwohotMeanArgs>(logit, bins);
  Tensor mean = new_rows(logit, args.mean), center = new_rows(logit, args.center),
         stats = empty(logit, {args.rows, 2}, args.stats);
  HD_RUN(twohot_mean_fwd, logit, args, args.rows, 2 * args.cols);
  return {mean, center, stats};
}

// dmean (N,), logit (N, K), bins (K,), center (N,), stats (N, 2) -> dlogit (N, K)
HD_OP(Tensor, twohot_mean_bwd, (Tensor dmean, Tensor logit, Tensor bins, Tensor center, Tensor stats)) {
  auto args = bins_args<TwohotMeanArgs>(logit, bins);
  HD_TAKE(args, dmean, {args.rows}, logit), HD_TAKE(args, center, {args.rows}, logit);
  HD_TAKE(args, stats, {args.rows, 2}, logit);
  Tensor dlogit = new_like(logit, args.dlogit);
  HD_RUN(twohot_mean_bwd, logit, args, args.rows, 2 * args.cols);
  return dlogit;
}

}  // namespace
}  // namespace hd::ops
