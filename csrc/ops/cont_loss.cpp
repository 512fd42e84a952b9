// cont_loss.cpp -- Bernoulli loss of the continue head as torch ops; the math stands in kernels/cont_loss.h.
#include "kernels/cont_loss.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

void check_element(const Tensor& t, const Tensor& like, const char* what) {
  check_float(t, like, what);
  check_same_shape(t, like, what);
}

// logit, cont (...) float32 -> loss (...)
Tensor cont_loss_fwd(Tensor logit, Tensor cont) {
  check_element(logit, logit, "cont_loss_fwd: logit");
  check_element(cont, logit, "cont_loss_fwd: cont");
  Tensor loss = new_like(logit);
  const ContLossArgs args{in(logit), in(cont), nullptr, out(loss), logit.numel()};
  run(
      logit, [&](auto stream) { launch_cont_loss_fwd(args, stream); },
      [&](auto threads) {
        threads.split(args.size, 20,
                      [&](int64_t begin, int64_t end) { cpu::cont_loss_fwd(args, begin, end); });
      });
  return loss;
}

// dloss, logit, cont (...) -> dlogit (...)
Tensor cont_loss_bwd(Tensor dloss, Tensor logit, Tensor cont) {
  check_element(logit, logit, "cont_loss_bwd: logit");
  check_element(cont, logit, "cont_loss_bwd: cont");
  check_element(dloss, logit, "cont_loss_bwd: dloss");
  Tensor dlogit = new_like(logit);
  const ContLossArgs args{in(logit), in(cont), in(dloss), out(dlogit), logit.numel()};
  run(
      logit, [&](auto stream) { launch_cont_loss_bwd(args, stream); },
      [&](auto threads) {
        threads.split(args.size, 20,
                      [&](int64_t begin, int64_t end) { cpu::cont_loss_bwd(args, begin, end); });
      });
  return dlogit;
}

}  // namespace
}  // namespace hd::ops

HD_LIBRARY(m) {
  m.def("cont_loss_fwd(Tensor logit, Tensor cont) -> Tensor");
  m.def("cont_loss_bwd(Tensor dloss, Tensor logit, Tensor cont) -> Tensor");
}

HD_IMPLEMENT(m) {
  m.impl("cont_loss_fwd", HD_BOX(hd::ops::cont_loss_fwd));
  m.impl("cont_loss_bwd", HD_BOX(hd::ops::cont_loss_bwd));
}
