// latent.cpp -- unimix and the categorical sample as torch ops; the math stands in kernels/latent.h.
#include "kernels/latent.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

// x (..., K) of a storage type, 1 <= K <= LATENT_MAX_CLASSES.
void check_classes(const Tensor& x, const char* what) {
  HD_CHECK(x.dim() >= 1, what, " must have an axis of classes", got(x));
  check_layout(x, x, what);
  HD_CHECK(cols(x) >= 1 && cols(x) <= LATENT_MAX_CLASSES, what,
           " must have 1 to ", LATENT_MAX_CLASSES, " classes", got(x));
}

void check_like(const Tensor& t, const Tensor& x, const char* what) {
  check_layout(t, x, what);
  check_type(t, x.scalar_type(), what);
  check_same_shape(t, x, what);
}

// u (...) float32, x's shape without its last axis.
void check_uniforms(const Tensor& u, const Tensor& x, const char* what) {
  check_float(u, x, what);
  bool same = u.dim() == x.dim() - 1;
  for (int64_t d = 0; same && d < u.dim(); ++d) same = u.size(d) == x.size(d);
  HD_CHECK(same, what, " must have the shape of the logits without classes, ", shape_of(x), got(u));
}

void forward(const Tensor& x, const LatentFwdArgs& args) {
  run(
      x, [&](auto stream) { launch_latent_fwd(args, stream); },
      [&](auto threads) {
        threads.split(args.groups, 2 * args.classes,
                      [&](int64_t begin, int64_t end) { cpu::latent_fwd(args, begin, end); });
      });
}

void backward(const Tensor& x, const LatentBwdArgs& args) {
  run(
      x, [&](auto stream) { launch_latent_bwd(args, stream); },
      [&](auto threads) {
        threads.split(args.groups, 2 * args.classes,
                      [&](int64_t begin, int64_t end) { cpu::latent_bwd(args, begin, end); });
      });
}

// logit (..., K) -> log-probabilities like it
Tensor unimix_fwd(Tensor logit, double mix) {
  check_classes(logit, "unimix: logit");
  Tensor logp = new_like(logit);
  forward(logit, {in<void>(logit), nullptr, out<void>(logp), nullptr, nullptr, rows(logit), cols(logit),
                  float(mix), false, storage(logit, "unimix: logit")});
  return logp;
}

// dlogp, logit (..., K) -> dlogit like logit
Tensor unimix_bwd(Tensor dlogp, Tensor logit, double mix) {
  check_classes(logit, "unimix: logit");
  check_like(dlogp, logit, "unimix: dlogp");
  Tensor dlogit = new_like(logit);
  backward(logit, {in<void>(logit), nullptr, in<void>(dlogp), out<void>(dlogit), rows(logit), cols(logit),
                   float(mix), false, storage(logit, "unimix: logit")});
  return dlogit;
}

// logp (..., K), u (...) -> index (...) int64
Tensor sample_index(Tensor logp, Tensor u) {
  check_classes(logp, "sample_index: logit");
  check_uniforms(u, logp, "sample_index: u");
  Tensor index = new_rows(logp, 1, ScalarType::Long);
  forward(logp, {in<void>(logp), in(u), nullptr, nullptr, out<int64_t>(index), rows(logp), cols(logp), 0.f,
                 true, storage(logp, "sample_index: logit")});
  return index;
}

// logp (..., K), u (...) -> onehot like logp, index (...) int64
std::tuple<Tensor, Tensor> sample_latent_fwd(Tensor logp, Tensor u) {
  check_classes(logp, "sample_latent: logit");
  check_uniforms(u, logp, "sample_latent: u");
  Tensor onehot = new_like(logp), index = new_rows(logp, 1, ScalarType::Long);
  forward(logp, {in<void>(logp), in(u), nullptr, out<void>(onehot), out<int64_t>(index), rows(logp),
                 cols(logp), 0.f, true, storage(logp, "sample_latent: logit")});
  return {onehot, index};
}

// donehot, logp (..., K) -> dlogp like logp
Tensor sample_latent_bwd(Tensor donehot, Tensor logp) {
  check_classes(logp, "sample_latent: logit");
  check_like(donehot, logp, "sample_latent: donehot");
  Tensor dlogp = new_like(logp);
  backward(logp, {in<void>(logp), in<void>(donehot), nullptr, out<void>(dlogp), rows(logp), cols(logp), 0.f,
                  true, storage(logp, "sample_latent: logit")});
  return dlogp;
}

}  // namespace
}  // namespace hd::ops

HD_LIBRARY(m) {
  m.def("unimix_fwd(Tensor logit, float mix) -> Tensor");
  m.def("unimix_bwd(Tensor dlogp, Tensor logit, float mix) -> Tensor");
  m.def("sample_index(Tensor logp, Tensor u) -> Tensor");
  m.def("sample_latent_fwd(Tensor logp, Tensor u) -> (Tensor onehot, Tensor index)");
  m.def("sample_latent_bwd(Tensor donehot, Tensor logp) -> Tensor");
}

HD_IMPLEMENT(m) {
  m.impl("unimix_fwd", HD_BOX(hd::ops::unimix_fwd));
  m.impl("unimix_bwd", HD_BOX(hd::ops::unimix_bwd));
  m.impl("sample_index", HD_BOX(hd::ops::sample_index));
  m.impl("sample_latent_fwd", HD_BOX(hd::ops::sample_latent_fwd));
  m.impl("sample_latent_bwd", HD_BOX(hd::ops::sample_latent_bwd));
}
