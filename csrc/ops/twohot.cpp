// twohot.cpp -- symlog, symexp, two-hot loss and mean as torch ops; the math stands in kernels/twohot.h.
#include "kernels/twohot.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

// One result per element of x; `dy` is null in a forward pass. The two branches are generic lambdas, as `run`
// wants them.
template <class Device, class Cpu>
Tensor elementwise(const Tensor& x, const Tensor* dy, const char* what, const Device& device,
                   const Cpu& cpu) {
  check_float(x, x, what);
  if (dy) {
    check_float(*dy, x, what);
    check_same_shape(*dy, x, what);
  }
  Tensor y = new_like(x);
  const SymArgs args{in(x), dy ? in(*dy) : nullptr, out(y), x.numel()};
  run(
      x, [&](auto stream) { device(args, stream); },
      [&](auto threads) {
        threads.split(args.size, 2, [&](auto begin, auto end) { cpu(args, begin, end); });
      });
  return y;
}

// x (...) float32 -> (...)
Tensor symlog_fwd(Tensor x) {
  return elementwise(
      x, nullptr, "symlog_fwd: x", [](auto& a, auto stream) { launch_symlog_fwd(a, stream); },
      [](auto& a, auto begin, auto end) { cpu::symlog_fwd(a, begin, end); });
}
Tensor symexp_fwd(Tensor x) {
  return elementwise(
      x, nullptr, "symexp_fwd: x", [](auto& a, auto stream) { launch_symexp_fwd(a, stream); },
      [](auto& a, auto begin, auto end) { cpu::symexp_fwd(a, begin, end); });
}
// dy, x (...) -> dx (...)
Tensor symlog_bwd(Tensor dy, Tensor x) {
  return elementwise(
      x, &dy, "symlog_bwd: dy or x", [](auto& a, auto stream) { launch_symlog_bwd(a, stream); },
      [](auto& a, auto begin, auto end) { cpu::symlog_bwd(a, begin, end); });
}
Tensor symexp_bwd(Tensor dy, Tensor x) {
  return elementwise(
      x, &dy, "symexp_bwd: dy or x", [](auto& a, auto stream) { launch_symexp_bwd(a, stream); },
      [](auto& a, auto begin, auto end) { cpu::symexp_bwd(a, begin, end); });
}

void check_rows(const Tensor& logit, const Tensor& bins) {
  HD_CHECK(logit.dim() == 2 && cols(logit) >= 2, "twohot: logit must be (rows, bins), at least two bins", got(logit));
  check_float(logit, logit, "twohot: logit");
  check_float(bins, logit, "twohot: bins");
  check_shape(bins, {cols(logit)}, "twohot: bins");
}

std::tuple<Tensor, Tensor> twohot_loss_fwd(Tensor logit, Tensor target, Tensor bins) {
  check_rows(logit, bins);
  check_float(target, logit, "twohot_loss_fwd: target");
  HD_CHECK(target.dim() == 2 && target.size(1) == rows(logit),
           "twohot_loss_fwd: target must be (targets, rows)", got(target, logit));
  Tensor loss = new_like(target), stats = empty(logit, {rows(logit), 2});
  TwohotLossArgs args{};
  args.logit = in(logit), args.target = in(target), args.bins = in(bins);
  args.loss = out(loss), args.stats = out(stats);
  args.targets = target.size(0), args.rows = rows(logit), args.cols = cols(logit);
  run(
      logit, [&](auto stream) { launch_twohot_loss_fwd(args, stream); },
      [&](auto threads) {
        threads.split(args.rows, 2 * args.cols,
                      [&](int64_t begin, int64_t end) { cpu::twohot_loss_fwd(args, begin, end); });
      });
  return {loss, stats};
}

// dloss (M, N), logit (N, K), target (M, N), bins (K,), stats (N, 2) -> dlogit (N, K)
Tensor twohot_loss_bwd(Tensor dloss, Tensor logit, Tensor target, Tensor bins, Tensor stats) {
  check_rows(logit, bins);
  check_float(dloss, logit, "twohot_loss_bwd: dloss");
  check_float(target, logit, "twohot_loss_bwd: target");
  check_float(stats, logit, "twohot_loss_bwd: stats");
  HD_CHECK(target.dim() == 2 && target.size(1) == rows(logit),
           "twohot_loss_bwd: target must be (targets, rows)", got(target, logit));
  check_same_shape(dloss, target, "twohot_loss_bwd: dloss");
  check_shape(stats, {rows(logit), 2}, "twohot_loss_bwd: stats");
  Tensor dlogit = new_like(logit);
  TwohotLossArgs args{};
  args.logit = in(logit), args.target = in(target), args.bins = in(bins), args.dloss = in(dloss);
  args.stats = out(stats), args.dlogit = out(dlogit);
  args.targets = target.size(0), args.rows = rows(logit), args.cols = cols(logit);
  run(
      logit, [&](auto stream) { launch_twohot_loss_bwd(args, stream); },
      [&](auto threads) {
        threads.split(args.rows, 2 * args.cols,
                      [&](int64_t begin, int64_t end) { cpu::twohot_loss_bwd(args, begin, end); });
      });
  return dlogit;
}

// logit (N, K), bins (K,) -> mean (N,) in reward units, center (N,) in symlog units, stats (N, 2)
std::tuple<Tensor, Tensor, Tensor> twohot_mean_fwd(Tensor logit, Tensor bins) {
  check_rows(logit, bins);
  Tensor mean = new_rows(logit), center = new_rows(logit), stats = empty(logit, {rows(logit), 2});
  TwohotMeanArgs args{};
  args.logit = in(logit), args.bins = in(bins);
  args.mean = out(mean), args.center = out(center), args.stats = out(stats);
  args.rows = rows(logit), args.cols = cols(logit);
  run(
      logit, [&](auto stream) { launch_twohot_mean_fwd(args, stream); },
      [&](auto threads) {
        threads.split(args.rows, 2 * args.cols,
                      [&](int64_t begin, int64_t end) { cpu::twohot_mean_fwd(args, begin, end); });
      });
  return {mean, center, stats};
}

// dmean (N,), logit (N, K), bins (K,), center (N,), stats (N, 2) -> dlogit (N, K)
Tensor twohot_mean_bwd(Tensor dmean, Tensor logit, Tensor bins, Tensor center, Tensor stats) {
  check_rows(logit, bins);
  for (const Tensor& t : {dmean, center}) {
    check_float(t, logit, "twohot_mean_bwd: dmean or center");
    check_shape(t, {rows(logit)}, "twohot_mean_bwd: dmean or center");
  }
  check_float(stats, logit, "twohot_mean_bwd: stats");
  check_shape(stats, {rows(logit), 2}, "twohot_mean_bwd: stats");
  Tensor dlogit = new_like(logit);
  TwohotMeanArgs args{};
  args.logit = in(logit), args.bins = in(bins), args.dmean = in(dmean);
  args.center = out(center), args.stats = out(stats), args.dlogit = out(dlogit);
  args.rows = rows(logit), args.cols = cols(logit);
  run(
      logit, [&](auto stream) { launch_twohot_mean_bwd(args, stream); },
      [&](auto threads) {
        threads.split(args.rows, 2 * args.cols,
                      [&](int64_t begin, int64_t end) { cpu::twohot_mean_bwd(args, begin, end); });
      });
  return dlogit;
}

}  // namespace
}  // namespace hd::ops

HD_LIBRARY(m) {
  m.def("symlog_fwd(Tensor x) -> Tensor");
  m.def("symlog_bwd(Tensor dy, Tensor x) -> Tensor");
  m.def("symexp_fwd(Tensor x) -> Tensor");
  m.def("symexp_bwd(Tensor dy, Tensor x) -> Tensor");
  m.def("twohot_loss_fwd(Tensor logit, Tensor target, Tensor bins) -> (Tensor loss, Tensor stats)");
  m.def("twohot_loss_bwd(Tensor dloss, Tensor logit, Tensor target, Tensor bins, Tensor stats) -> Tensor");
  m.def("twohot_mean_fwd(Tensor logit, Tensor bins) -> (Tensor mean, Tensor center, Tensor stats)");
  m.def("twohot_mean_bwd(Tensor dmean, Tensor logit, Tensor bins, Tensor center, Tensor stats) -> Tensor");
}

HD_IMPLEMENT(m) {
  m.impl("symlog_fwd", HD_BOX(hd::ops::symlog_fwd));
  m.impl("symlog_bwd", HD_BOX(hd::ops::symlog_bwd));
  m.impl("symexp_fwd", HD_BOX(hd::ops::symexp_fwd));
  m.impl("symexp_bwd", HD_BOX(hd::ops::symexp_bwd));
  m.impl("twohot_loss_fwd", HD_BOX(hd::ops::twohot_loss_fwd));
  m.impl("twohot_loss_bwd", HD_BOX(hd::ops::twohot_loss_bwd));
  m.impl("twohot_mean_fwd", HD_BOX(hd::ops::twohot_mean_fwd));
  m.impl("twohot_mean_bwd", HD_BOX(hd::ops::twohot_mean_bwd));
}
