// harmony.cpp -- harmonized mean of the world-model losses as torch ops; the equations are in kernels/harmony.h.
#include "kernels/harmony.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

// `scales` are the five fixed ones in mode 2 (off); unused in modes 0 (rectified) and 1 (plain), which need s (3,).
HarmonyArgs harmony_args(const Tensor& like, const Maybe& s, int64_t mode, double dyn_share,
                         const std::vector<double>& scales, int64_t size) {
  HD_CHECK(mode >= 0 && mode <= 2, "mode must be 0, 1 or 2, got ", mode, "; choose one");
  HD_CHECK(mode == 2 ? scales.size() == HARMONY_LOSSES : s.has_value(),
           "scales must be five in mode 2, s must be there in the others, got ", scales.size(), " scales in mode ",
           mode, "; give the other");
  HD_CHECK(size >= 1, "losses must have at least one element, got ", size, "; leave the call out");
  HarmonyArgs args{};
  HD_TAKE(args, s, {HARMONY_TERMS}, like);
  args.size = size, args.mode = HarmonyMode(int32_t(mode));
  args.dyn_share = float(dyn_share), args.rep_share = float(1.0 - dyn_share);
  for (size_t i = 0; i < scales.size() && i < HARMONY_LOSSES; ++i) args.scale[i] = float(scales[i]);
  return args;
}

// five losses (N,) float32, s (3,) or none -> total (), terms (3,), loss means (5,)
HD_OP(Results<3>, harmony_fwd,
      (Tensor reward, Tensor image, Tensor dyn, Tensor rep, Tensor cont, Maybe s, int64_t mode, double dyn_share,
       Numbers scales)) {
  const int64_t size = reward.numel();
  HarmonyArgs args = harmony_args(reward, s, mode, dyn_share, scales, size);
  int i = 0;
  for (const Tensor& t : {reward, image, dyn, rep, cont}) args.loss[i++] = take(t, {size}, reward, "a loss");
  Tensor total = empty(reward, {}, args.total), terms = empty(reward, {HARMONY_TERMS}, args.terms),
         mean = empty(reward, {HARMONY_LOSSES}, args.mean);
  run(reward, [&](auto stream) { launch_harmony_fwd(args, stream); }, [&](auto) { cpu::harmony_fwd(args); });
  return {total, terms, mean};
}

// dtotal (), dterms (3,) or none, means (5,) of `size` elements -> coef (5,) the gradient of each element, ds (3,)
HD_OP(Results<2>, harmony_bwd,
      (Tensor dtotal, Maybe dterms, Tensor mean, Maybe s, int64_t size, int64_t mode, double dyn_share,
       Numbers scales)) {
  HarmonyArgs args = harmony_args(mean, s, mode, dyn_share, scales, size);
  HD_TAKE(args, mean, {HARMONY_LOSSES}, mean), HD_TAKE(args, dtotal, {}, mean);
  HD_TAKE(args, dterms, {HARMONY_TERMS}, mean);
  Tensor coef = empty(mean, {HARMONY_LOSSES}, args.coef), ds = empty(mean, {HARMONY_TERMS}, args.ds);
  run(mean, [&](auto stream) { launch_harmony_bwd(args, stream); }, [&](auto) { cpu::harmony_bwd(args); });
  return {coef, ds};
}

}  // namespace
}  // namespace hd::ops
