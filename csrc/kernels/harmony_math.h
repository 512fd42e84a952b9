// harmony_math.h -- what harmony computes once the means are known; shared by the kernels and the CPU code.
#pragma once
#include "device/hd_math.h"
#include "kernels/harmony.h"

namespace hd {

HD_FN float harmony_reg(const HarmonyArgs& a, int j) {
  return a.mode == HarmonyMode::Rectified ? softplus(a.s[j]) : a.s[j];
}

// Weight of e^-s (or of the fixed scales) on the mean of loss i, without the regularizers.
HD_FN float harmony_weight(const HarmonyArgs& a, int i) {
  if (a.mode == HarmonyMode::Off) return a.scale[i];
  if (i == 4) return 1.f;
  if (i < 2) return expf(-a.s[i]);
  return (i == 2 ? a.dyn_share : a.rep_share) * expf(-a.s[2]);
}

HD_FN int harmony_term(int i) { return i < 2 ? i : 2; }  // of losses 0..3

HD_FN void harmony_finish(const HarmonyArgs& a) {
  const float* mean = a.mean;
  float terms[HARMONY_TERMS] = {harmony_weight(a, 0) * mean[0], harmony_weight(a, 1) * mean[1],
                                harmony_weight(a, 2) * mean[2] + harmony_weight(a, 3) * mean[3]};
  if (a.mode != HarmonyMode::Off) {
    terms[0] += harmony_reg(a, 0);
    terms[1] += harmony_reg(a, 1);
    terms[2] += a.dyn_share * harmony_reg(a, 2);
  }
  for (int j = 0; j < HARMONY_TERMS; ++j) a.terms[j] = terms[j];
  *a.total = terms[0] + terms[1] + terms[2] + harmony_weight(a, 4) * mean[4];
}

HD_FN void harmony_gradients(const HarmonyArgs& a) {
  const float count = float(a.size);
  for (int i = 0; i < HARMONY_LOSSES; ++i) {
    const float up = *a.dtotal + (i < 4 && a.dterms ? a.dterms[HD_MUTATE(HARMONY_TERM, harmony_term(i), i % 3)] : 0.f);
    a.coef[i] = up * harmony_weight(a, i) / count;
  }
  for (int j = 0; j < HARMONY_TERMS; ++j) {
    if (a.mode == HarmonyMode::Off) {
      a.ds[j] = 0.f;
      continue;
    }
    const float share = j == 2 ? HD_MUTATE(HARMONY_SHARE, a.dyn_share, 1.f) : 1.f;
    const float slope = a.mode == HarmonyMode::Rectified ? sigmoid(a.s[j]) : 1.f;
    const float loss =
        j < 2 ? harmony_weight(a, j) * a.mean[j] : harmony_weight(a, 2) * a.mean[2] + harmony_weight(a, 3) * a.mean[3];
    a.ds[j] = (*a.dtotal + (a.dterms ? a.dterms[j] : 0.f)) * (share * slope - loss);
  }
}

}  // namespace hd
