// harmony_math.h -- what harmony computes once the means are known; shared by the kernels and the CPU code.
#pragma once
#include "device/hd_math.h"
#include "kernels/harmony.h"

namespace hd {

// A loss's part of its term or of the total, without the regularizers.
HD_FN float harmony_part(const HarmonyArgs& a, int i) {
  return a.share[i] * (a.s && a.place[i] >= 0 ? expf(-a.s[a.place[i]]) : 1.f);
}

// Sum of the parts that have this place.
HD_FN float harmony_sum(const HarmonyArgs& a, int place) {
  float sum = 0.f;
  for (int i = 0; i < a.losses; ++i)
    if (a.place[i] == place) sum += harmony_part(a, i) * a.mean[i];
  return sum;
}

HD_FN void harmony_finish(const HarmonyArgs& a) {
  float total = harmony_sum(a, -1);
  for (int j = 0; j < a.terms; ++j) {
    float term = harmony_sum(a, j);
    if (a.s) term += a.reg[j] * (a.plain ? a.s[j] : softplus(a.s[j]));
    a.term[j] = term;
    total += term;
  }
  *a.total = total;
}

HD_FN void harmony_gradients(const HarmonyArgs& a) {
  for (int i = 0; i < a.losses; ++i) {
    const int j = HD_MUTATE(HARMONY_TERM, a.place[i], i % a.terms);
    const float up = *a.dtotal + (j >= 0 && a.dterms ? a.dterms[j] : 0.f);
    a.coef[i] = up * harmony_part(a, i) / float(a.size);
  }
  for (int j = 0; j < a.terms; ++j) {
    if (!a.s) {
      a.ds[j] = 0.f;
      continue;
    }
    const float slope = a.plain ? 1.f : sigmoid(a.s[j]), reg = HD_MUTATE(HARMONY_SHARE, a.reg[j], 1.f);
    a.ds[j] = (*a.dtotal + (a.dterms ? a.dterms[j] : 0.f)) * (reg * slope - harmony_sum(a, j));
  }
}

}  // namespace hd
