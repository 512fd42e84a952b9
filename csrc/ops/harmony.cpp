// harmony.cpp -- harmonized mean of the world-model losses as torch ops; the equations are in kernels/harmony.h.
#include "kernels/harmony.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

// place and share of each loss, reg of each term, s (terms,) or none.
HarmonyArgs harmony_args(const Tensor& like, const Maybe& s, int64_t size, const Integers& place, const Numbers& share,
                         const Numbers& reg, bool plain) {
  HD_CHECK(place.size() >= 1 && std::max(place.size(), reg.size()) <= HARMONY_MAX && share.size() == place.size(),
           "place and share must have a number for each of 1 to ", HARMONY_MAX, " losses, reg for as many terms, got ",
           place.size(), ", ", share.size(), " and ", reg.size(), " numbers; give them all");
  HD_CHECK(size >= 1, "losses must have at least one element, got ", size, "; leave the call out");
  HarmonyArgs args{};
  args.size = size, args.losses = int(place.size()), args.terms = int(reg.size()), args.plain = plain;
  HD_TAKE(args, s, {args.terms}, like);
  for (size_t i = 0; i < place.size(); ++i) {
    HD_CHECK(place[i] >= -1 && place[i] < args.terms, "place must be -1 to ", args.terms - 1, ", got ", place[i],
             "; give the term of each loss");
    args.place[i] = int(place[i]), args.share[i] = float(share[i]);
  }
  std::copy(reg.begin(), reg.end(), args.reg);
  return args;
}

// losses (N,) float32, s (terms,) or none -> total (), terms (terms,), loss means (losses,)
HD_OP(Results<3>, harmony_fwd, (Tensors losses, Maybe s, Integers place, Numbers share, Numbers reg, bool plain)) {
  HD_CHECK(losses.size() >= 1 && losses.size() == place.size(), "losses must be as many as place, at least one, got ",
           losses.size(), " and ", place.size(), "; give them all");
  const Tensor& first = losses[0];
  HarmonyArgs args = harmony_args(first, s, first.numel(), place, share, reg, plain);
  for (int i = 0; i < args.losses; ++i) args.loss[i] = take(losses[i], {args.size}, first, "a loss");
  Tensor total = empty(first, {}, args.total), terms = empty(first, {args.terms}, args.term),
         mean = empty(first, {args.losses}, args.mean);
  run(first, [&](auto stream) { launch_harmony_fwd(args, stream); }, [&](auto) { cpu::harmony_fwd(args); });
  return {total, terms, mean};
}

// dtotal (), dterms (terms,) or none, means (losses,) of `size` elements -> coef (losses,) the gradient of each
// element, ds (terms,)
HD_OP(Results<2>, harmony_bwd,
      (Tensor dtotal, Maybe dterms, Tensor mean, Maybe s, int64_t size, Integers place, Numbers share, Numbers reg,
       bool plain)) {
  HarmonyArgs args = harmony_args(mean, s, size, place, share, reg, plain);
  HD_TAKE(args, mean, {args.losses}, mean), HD_TAKE(args, dtotal, {}, mean);
  HD_TAKE(args, dterms, {args.terms}, mean);
  Tensor coef = empty(mean, {args.losses}, args.coef), ds = empty(mean, {args.terms}, args.ds);
  run(mean, [&](auto stream) { launch_harmony_bwd(args, stream); }, [&](auto) { cpu::harmony_bwd(args); });
  return {coef, ds};
}

}  // namespace
}  // namespace hd::ops
