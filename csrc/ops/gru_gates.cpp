// gru_gates.cpp -- LayerNorm and gates of the GRU as torch ops; the math stands in kernels/gru_gates.h.
#include "kernels/gru_gates.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

// What both directions take: x (..., 3D) of a storage type; deter (..., D), scale (3D,), bias (3D,) float32.
void check_inputs(const Tensor& x, const Tensor& deter, const Tensor& scale, const Tensor& bias) {
  HD_CHECK(x.dim() >= 1 && deter.dim() == x.dim(), "gru_gates: x must be (..., 3D), deter (..., D)", got(x, deter));
  check_layout(x, x, "gru_gates: x");
  check_float(deter, x, "gru_gates: deter");
  HD_CHECK(cols(x) == 3 * cols(deter), "gru_gates: x must be (..., 3D), deter (..., D)", got(x, deter));
  for (int64_t d = 0; d + 1 < x.dim(); ++d)
    HD_CHECK(deter.size(d) == x.size(d), "gru_gates: x must be (..., 3D), deter (..., D)", got(x, deter));
  for (const Tensor& t : {scale, bias}) {
    check_tensor(t, {cols(x)}, x, "gru_gates: scale or bias");
  }
}

// -> next like deter, mean (...), rstd (...)
std::tuple<Tensor, Tensor, Tensor> gru_gates_fwd(Tensor x, Tensor deter, Tensor scale, Tensor bias) {
  check_inputs(x, deter, scale, bias);
  Tensor next = new_like(deter), mean = new_rows(x), rstd = new_rows(x);
  const GruGatesFwdArgs args{in<void>(x), in(deter), in(scale), in(bias),    out(next),
                             nullptr,     out(mean), out(rstd), rows(deter), cols(deter),
                             storage(x, "gru_gates: x")};
  run(
      x, [&](auto stream) { launch_gru_gates_fwd(args, stream); },
      [&](auto threads) {
        threads.split(args.rows, 6 * args.size,
                      [&](int64_t begin, int64_t end) { cpu::gru_gates_fwd(args, begin, end); });
      });
  return {next, mean, rstd};
}

// dnext (..., D) float32; mean, rstd (...) -> dx like x, ddeter like deter, dscale (3D,), dbias (3D,)
std::tuple<Tensor, Tensor, Tensor, Tensor> gru_gates_bwd(Tensor dnext, Tensor x, Tensor deter, Tensor mean,
                                                         Tensor rstd, Tensor scale, Tensor bias) {
  check_inputs(x, deter, scale, bias);
  check_float(dnext, x, "gru_gates: dnext");
  check_same_shape(dnext, deter, "gru_gates: dnext");
  for (const Tensor& t : {mean, rstd}) {
    check_float(t, x, "gru_gates: mean or rstd");
    check_count(t, rows(x), "gru_gates: mean or rstd");
  }
  const int64_t n = rows(deter), d = cols(deter);
  const int64_t parts = pick(
      x, [&](auto) { return gru_gates_parts(n, d); }, [&](auto) { return cpu::gru_gates_parts(n, d); });
  Tensor dx = new_like(x), ddeter = new_like(deter), dscale = empty(x, {3 * d}), dbias = empty(x, {3 * d});
  Tensor partial = empty(x, {parts, 2, 3 * d});
  const GruGatesBwdArgs args{in(dnext),   in<void>(x), in(deter),   in(mean),     in(rstd),
                             in(scale),   in(bias),    out<void>(dx), out(ddeter), out(dscale),
                             out(dbias),  out(partial), parts,      n,            d,
                             storage(x, "gru_gates: x")};
  run(
      x, [&](auto stream) { launch_gru_gates_bwd(args, stream); },
      [&](auto threads) {
        threads.split(parts, 12 * (n * d / std::max<int64_t>(1, parts)),
                      [&](int64_t begin, int64_t end) { cpu::gru_gates_bwd(args, begin, end); });
        cpu::gru_gates_bwd_finish(args);
      });
  return {dx, ddeter, dscale, dbias};
}

}  // namespace
}  // namespace hd::ops

HD_LIBRARY(m) {
  m.def(
      "gru_gates_fwd(Tensor x, Tensor deter, Tensor scale, Tensor bias) -> "
      "(Tensor next, Tensor mean, Tensor rstd)");
  m.def(
      "gru_gates_bwd(Tensor dnext, Tensor x, Tensor deter, Tensor mean, Tensor rstd, Tensor scale, "
      "Tensor bias) -> (Tensor dx, Tensor ddeter, Tensor dscale, Tensor dbias)");
}

HD_IMPLEMENT(m) {
  m.impl("gru_gates_fwd", HD_BOX(hd::ops::gru_gates_fwd));
  m.impl("gru_gates_bwd", HD_BOX(hd::ops::gru_gates_bwd));
}
