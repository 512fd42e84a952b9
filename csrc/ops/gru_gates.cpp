// gru_gates.cpp -- LayerNorm and gates of the GRU as torch ops; the equations are in kernels/gru_gates.h.
#include "kernels/gru_gates.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

// What both directions take: x (..., 3D) of a storage type; deter (..., D), scale (3D,), bias (3D,) float32.
template <class Args>
Args gates_args(const Tensor& x, const Tensor& deter, const Tensor& scale, const Tensor& bias) {
  HD_CHECK(x.dim() >= 1 && deter.dim() == x.dim(), "x must be (..., 3D), deter (..., D)", got(x, deter));
  check_layout(x, x, "x");
  check_layout(deter, x, "deter");
  check_type(deter, ScalarType::Float, "deter");
  bool fit = cols(x) == 3 * cols(deter);
  for (int64_t d = 0; d + 1 < x.dim(); ++d) fit = fit && deter.size(d) == x.size(d);
  HD_CHECK(fit, "x must be (..., 3D), deter (..., D)", got(x, deter));
  Args args{};
  args.rows = rows(deter), args.size = cols(deter), args.dtype = storage(x, "x");
  args.x = in<void>(x), args.deter = in(deter);
  HD_TAKE(args, scale, {cols(x)}, x), HD_TAKE(args, bias, {cols(x)}, x);
  return args;
}

// -> next like deter, mean (...), rstd (...)
HD_OP(Results<3>, gru_gates_fwd, (Tensor x, Tensor deter, Tensor scale, Tensor bias)) {
  auto args = gates_args<GruGatesFwdArgs>(x, deter, scale, bias);
  Tensor next = new_like(deter, args.next), mean = new_rows(x, args.mean), rstd = new_rows(x, args.rstd);
  HD_RUN(gru_gates_fwd, x, args, args.rows, 6 * args.size);
  return {next, mean, rstd};
}

// dnext (..., D) float32; mean, rstd (...) -> dx like x, ddeter like deter, dscale (3D,), dbias (3D,)
HD_OP(Results<4>, gru_gates_bwd,
      (Tensor dnext, Tensor x, Tensor deter, Tensor mean, Tensor rstd, Tensor scale, Tensor bias)) {
  auto args = gates_args<GruGatesBwdArgs>(x, deter, scale, bias);
  const int64_t n = args.rows, d = args.size;
  HD_TAKE(args, dnext, deter), args.dx_dtype = args.dtype;
  args.mean = take_count(mean, n, x, "mean"), args.rstd = take_count(rstd, n, x, "rstd");
  args.parts = pick(x, [&](auto) { return gru_gates_parts(n, d); }, [&](auto) { return cpu::gru_gates_parts(n, d); });
  Tensor dx = new_like(x, args.dx), ddeter = new_like(deter, args.ddeter), dscale = empty(x, {3 * d}, args.dscale),
         dbias = empty(x, {3 * d}, args.dbias);
  Tensor partial = empty(x, {args.parts, 2, 3 * d}, args.partial);
  run(
      x, [&](auto stream) { launch_gru_gates_bwd(args, stream); },
      [&](auto threads) {
        threads.split(args.parts, 12 * n * d / args.parts,
                      [&](int64_t begin, int64_t end) { cpu::gru_gates_bwd(args, begin, end); });
        cpu::gru_gates_bwd_finish(args);
      });
  return {dx, ddeter, dscale, dbias};
}

}  // namespace
}  // namespace hd::ops
