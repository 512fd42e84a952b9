// harmony.cpp -- harmonised mean of the world-model losses as torch ops; the math stands in
// kernels/harmony.h.
#include "kernels/harmony.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

// `weights` (5,): the fixed scales in mode 2 (off); unused in modes 0 (rectified) and 1 (plain), which need s
// (3,).
HarmonyArgs checked(const Tensor& like, const std::optional<Tensor>& s, int64_t mode, double dyn_share,
                    const std::vector<double>& scales, int64_t size) {
  HD_CHECK(mode >= 0 && mode <= 2, "harmony: mode must be 0, 1 or 2, got ", mode, "; choose one");
  HD_CHECK(mode == 2 ? scales.size() == HARMONY_LOSSES : s.has_value(),
           "harmony: scales must be five in mode 2, s must be there in the others, got ", scales.size(),
           " scales in mode ", mode, "; give the other");
  HD_CHECK(size >= 1, "harmony: losses must have at least one element, got ", size, "; leave the call out");
  if (s) check_tensor(*s, {HARMONY_TERMS}, like, "harmony: s");
  HarmonyArgs args{};
  args.s = s ? in(*s) : nullptr;
  args.size = size, args.mode = HarmonyMode(int32_t(mode));
  args.dyn_share = float(dyn_share), args.rep_share = float(1.0 - dyn_share);
  for (size_t i = 0; i < scales.size() && i < HARMONY_LOSSES; ++i) args.scale[i] = float(scales[i]);
  return args;
}

// five losses (N,) float32, s (3,) or none -> total (), terms (3,), loss means (5,)
std::tuple<Tensor, Tensor, Tensor> harmony_fwd(Tensor reward, Tensor image, Tensor dyn, Tensor rep,
                                               Tensor cont, std::optional<Tensor> s, int64_t mode,
                                               double dyn_share, std::vector<double> scales) {
  const int64_t size = reward.numel();
  HarmonyArgs args = checked(reward, s, mode, dyn_share, scales, size);
  int i = 0;
  for (const Tensor& t : {reward, image, dyn, rep, cont}) {
    check_tensor(t, {size}, reward, "harmony_fwd: a loss");
    args.loss[i++] = in(t);
  }
  Tensor total = empty(reward, {}), terms = empty(reward, {HARMONY_TERMS}),
         mean = empty(reward, {HARMONY_LOSSES});
  args.total = out(total), args.terms = out(terms), args.mean = out(mean);
  run(reward, [&](auto stream) { launch_harmony_fwd(args, stream); }, [&](auto) { cpu::harmony_fwd(args); });
  return {total, terms, mean};
}

// dtotal (), dterms (3,) or none, means (5,) of `size` elements -> coef (5,) the gradient of each element, ds (3,)
std::tuple<Tensor, Tensor> harmony_bwd(Tensor dtotal, std::optional<Tensor> dterms, Tensor mean,
                                       std::optional<Tensor> s, int64_t size, int64_t mode, double dyn_share,
                                       std::vector<double> scales) {
  HarmonyArgs args = checked(mean, s, mode, dyn_share, scales, size);
  check_tensor(mean, {HARMONY_LOSSES}, mean, "harmony_bwd: mean");
  check_tensor(dtotal, {}, mean, "harmony_bwd: dtotal");
  if (dterms) check_tensor(*dterms, {HARMONY_TERMS}, mean, "harmony_bwd: dterms");
  Tensor coef = empty(mean, {HARMONY_LOSSES}), ds = empty(mean, {HARMONY_TERMS});
  args.mean = out(mean), args.dtotal = in(dtotal), args.dterms = dterms ? in(*dterms) : nullptr;
  args.coef = out(coef), args.ds = out(ds);
  run(mean, [&](auto stream) { launch_harmony_bwd(args, stream); }, [&](auto) { cpu::harmony_bwd(args); });
  return {coef, ds};
}

}  // namespace
}  // namespace hd::ops

HD_LIBRARY(m) {
  m.def(
      "harmony_fwd(Tensor reward, Tensor image, Tensor dyn, Tensor rep, Tensor cont, Tensor? s, int mode, "
      "float dyn_share, float[] scales) -> (Tensor total, Tensor terms, Tensor mean)");
  m.def(
      "harmony_bwd(Tensor dtotal, Tensor? dterms, Tensor mean, Tensor? s, int size, int mode, float "
      "dyn_share, "
      "float[] scales) -> (Tensor coef, Tensor ds)");
}

HD_IMPLEMENT(m) {
  m.impl("harmony_fwd", HD_BOX(hd::ops::harmony_fwd));
  m.impl("harmony_bwd", HD_BOX(hd::ops::harmony_bwd));
}
