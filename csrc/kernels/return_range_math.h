// return_range_math.h -- keys, interpolation and moving average of return_range; shared by the kernel and the
// CPU code.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstring>

#include "device/hd_math.h"
#include "kernels/return_range.h"

namespace hd {

// Unsigned order of keys = order of floats: negative numbers reversed, positive ones moved above them.
HD_FN uint32_t float_key(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

HD_FN float key_float(uint32_t key) {
  const uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// From the end that is nearer, so that both ends are exact.
HD_FN float interpolate(float a, float b, float fraction) {
  return fraction < 0.5f ? a + fraction * (b - a) : b - (b - a) * (1.f - fraction);
}

HD_FN bool is_finite(float x) { return fabsf(x) <= FLT_MAX; }

// `order` holds the RANGE_RANKS order statistics; `bad`: some return is not finite.
HD_FN void range_finish(const ReturnRangeArgs& a, const float* order, bool bad) {
  const float low = interpolate(order[0], order[1], a.fraction[0]);
  const float high = interpolate(order[2], order[3], a.fraction[1]);
  a.out[0] = bad ? *a.low : a.decay * *a.low + a.rest * low;
  a.out[1] = bad ? *a.high : a.decay * *HD_MUTATE(RANGE_AVERAGE, a.high, a.low) + a.rest * high;
  const float width = a.out[1] - a.out[0];
  a.out[2] = width < a.floor ? a.floor : width;  // NaN stays NaN
}

}  // namespace hd
