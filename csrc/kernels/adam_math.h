// adam_math.h -- the scalars of one Adam update and its element; shared by the kernels and the CPU code.
// Equations: adam.h.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstdint>

#include "device/hd_math.h"
#include "kernels/adam.h"

namespace hd {

// What every element of one update shares.
struct AdamStep {
  float factor, mean_scale, var_scale, mix;
  float decay1, beta2, decay2, eps;  // decay = 1 - beta
};

// From the sum of squares of all gradients: the norm, the step count and the scalars of this update.
HD_FN void adam_scalars(const AdamArgs& a, double sum) {
  const float norm = float(sqrt(sum)), clip = float(a.clip), part = clip * (1.f / norm);
  a.stats[0] = norm;
  a.stats[1] = HD_MUTATE(ADAM_PART, part > 1.f, part < 1.f) ? 1.f : part;  // NaN where the norm is
  a.stats[2] = float(*a.step);
  a.scale[0] = -1.f;
  if (HD_MUTATE(ADAM_FINITE, !(norm <= FLT_MAX), norm != norm)) return;
  const int64_t k = *a.step += *a.step < INT64_MAX;
  a.stats[2] = float(k);
  a.scale[0] = norm < clip ? 1.f : clip / norm;
  a.scale[1] = float(a.lr / (1.0 - pow(a.beta1, double(k))));
  a.scale[2] = float(1.0 / (1.0 - pow(HD_MUTATE(ADAM_BIAS, a.beta2, a.beta1), double(k))));
  a.scale[3] = k == 1 ? 1.f : float(a.slow_fraction);
}

HD_FN bool adam_skipped(const AdamArgs& a) { return a.scale[0] < 0.f; }

HD_FN AdamStep adam_step(const AdamArgs& a) {
  return {a.scale[0],           a.scale[1],     a.scale[2],           a.scale[3],
          float(1.0 - a.beta1), float(a.beta2), float(1.0 - a.beta2), float(a.eps)};
}

HD_FN void adam_element(float& p, float& g, float& m, float& v, const AdamStep& s) {
  g *= s.factor;
  m += s.decay1 * (g - m);
  v = v * s.beta2 + s.decay2 * (g * g);
  p -= s.mean_scale * m / (sqrtf(v * s.var_scale) + s.eps);
}

}  // namespace hd
