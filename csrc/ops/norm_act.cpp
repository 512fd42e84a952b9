// norm_act.cpp -- LayerNorm + SiLU as torch ops; the equations are in kernels/norm_act.h.
#include "kernels/norm_act.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

// The columns of x (..., C).
int64_t normalized(const Tensor& x) {
  HD_CHECK(x.dim() >= 1, "x must have an axis to normalize", got(x));
  check_layout(x, x, "x");
  return cols(x);
}

// x (..., C) float32 or bfloat16; scale (C,), bias (C,) -> y like x, mean (...), rstd (...)
HD_OP(Results<3>, norm_act_fwd, (Tensor x, Tensor scale, Tensor bias)) {
  const int64_t c = normalized(x);
  NormActFwdArgs args{};
  args.x = in<void>(x), HD_TAKE(args, scale, {c}, x), HD_TAKE(args, bias, {c}, x);
  args.rows = rows(x), args.cols = c, args.dtype = storage(x, "x");
  Tensor y = new_like(x, args.y), mean = new_rows(x, args.mean), rstd = new_rows(x, args.rstd);
  HD_RUN(norm_act_fwd, x, args, args.rows, c);
  return {y, mean, rstd};
}

// dy, x (..., C); mean, rstd (...); scale, bias (C,) -> dx like x, dscale (C,), dbias (C,)
HD_OP(Results<3>, norm_act_bwd, (Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor scale, Tensor bias)) {
  const int64_t c = normalized(x), n = rows(x);
  NormActBwdArgs args{};
  HD_TAKE(args, dy, x), args.x = in<void>(x);
  args.mean = take_count(mean, n, x, "mean"), args.rstd = take_count(rstd, n, x, "rstd");
  HD_TAKE(args, scale, {c}, x), HD_TAKE(args, bias, {c}, x);
  args.rows = n, args.cols = c, args.dtype = storage(x, "x");
  args.parts = pick(x, [&](auto) { return norm_act_parts(n, c); }, [&](auto) { return cpu::norm_act_parts(n, c); });
  Tensor dx = new_like(x, args.dx), dscale = empty(x, {c}, args.dscale), dbias = empty(x, {c}, args.dbias),
         partial = empty(x, {args.parts, 2, c}, args.partial);
  run(
      x, [&](auto stream) { launch_norm_act_bwd(args, stream); },
      [&](auto threads) {
        threads.split(args.parts, 3 * n * c / args.parts,
                      [&](int64_t begin, int64_t end) { cpu::norm_act_bwd(args, begin, end); });
        cpu::norm_act_bwd_finish(args);
      });
  return {dx, dscale, dbias};
}

}  // namespace
}  // namespace hd::ops
