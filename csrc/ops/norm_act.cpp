// norm_act.cpp -- LayerNorm + SiLU as torch ops; the math stands in kernels/norm_act.h.
#include "kernels/norm_act.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

// x (..., C) float32 or bfloat16; scale (C,), bias (C,) -> y like x, mean (...), rstd (...)
std::tuple<Tensor, Tensor, Tensor> norm_act_fwd(Tensor x, Tensor scale, Tensor bias) {
  HD_CHECK(x.dim() >= 1, "norm_act_fwd: x must have an axis to normalise", got(x));
  check_layout(x, x, "norm_act_fwd: x");
  for (const Tensor& t : {scale, bias}) {
    check_tensor(t, {cols(x)}, x, "norm_act_fwd: scale or bias");
  }
  Tensor y = new_like(x), mean = new_rows(x), rstd = new_rows(x);
  const NormActFwdArgs args{in<void>(x), in(scale), in(bias), out<void>(y), out(mean), out(rstd),
                            rows(x),     cols(x),   storage(x, "norm_act_fwd: x")};
  run(
      x, [&](auto stream) { launch_norm_act_fwd(args, stream); },
      [&](auto threads) {
        threads.split(args.rows, args.cols,
                      [&](int64_t begin, int64_t end) { cpu::norm_act_fwd(args, begin, end); });
      });
  return {y, mean, rstd};
}

// dy, x (..., C); mean, rstd (...); scale, bias (C,) -> dx like x, dscale (C,), dbias (C,)
std::tuple<Tensor, Tensor, Tensor> norm_act_bwd(Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor scale,
                                                Tensor bias) {
  HD_CHECK(x.dim() >= 1, "norm_act_bwd: x must have an axis to normalise", got(x));
  check_layout(x, x, "norm_act_bwd: x");
  check_layout(dy, x, "norm_act_bwd: dy");
  check_type(dy, x.scalar_type(), "norm_act_bwd: dy");
  check_same_shape(dy, x, "norm_act_bwd: dy");
  for (const Tensor& t : {mean, rstd}) {
    check_float(t, x, "norm_act_bwd: mean or rstd");
    check_count(t, rows(x), "norm_act_bwd: mean or rstd");
  }
  for (const Tensor& t : {scale, bias}) {
    check_tensor(t, {cols(x)}, x, "norm_act_bwd: scale or bias");
  }
  const int64_t n = rows(x), c = cols(x);
  const int64_t parts = pick(
      x, [&](auto) { return norm_act_parts(n, c); }, [&](auto) { return cpu::norm_act_parts(n, c); });
  Tensor dx = new_like(x), dscale = empty(x, {c}), dbias = empty(x, {c}), partial = empty(x, {parts, 2, c});
  const NormActBwdArgs args{in<void>(dy), in<void>(x),   in(mean),    in(rstd),   in(scale),
                            in(bias),     out<void>(dx), out(dscale), out(dbias), out(partial),
                            parts,        n,             c,           storage(x, "norm_act_bwd: x")};
  run(
      x, [&](auto stream) { launch_norm_act_bwd(args, stream); },
      [&](auto threads) {
        threads.split(parts, 3 * (n * c / std::max<int64_t>(1, parts)),
                      [&](int64_t begin, int64_t end) { cpu::norm_act_bwd(args, begin, end); });
        cpu::norm_act_bwd_finish(args);
      });
  return {dx, dscale, dbias};
}

}  // namespace
}  // namespace hd::ops

HD_LIBRARY(m) {
  m.def("norm_act_fwd(Tensor x, Tensor scale, Tensor bias) -> (Tensor y, Tensor mean, Tensor rstd)");
  m.def(
      "norm_act_bwd(Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor scale, Tensor bias) -> "
      "(Tensor dx, Tensor dscale, Tensor dbias)");
}

HD_IMPLEMENT(m) {
  m.impl("norm_act_fwd", HD_BOX(hd::ops::norm_act_fwd));
  m.impl("norm_act_bwd", HD_BOX(hd::ops::norm_act_bwd));
}
