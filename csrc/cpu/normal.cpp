// CPU version of normal: vector passes; equations in kernels/normal.h.
#include "kernels/normal.h"

#include "cpu/rows.h"
#include "cpu/simd.h"

namespace hd::cpu {
namespace {

HD_INLINE float std_of(float raw) { return NORMAL_RANGE * fsigmoid(raw + NORMAL_SHIFT) + NORMAL_LEAST; }

// A row's action, unclipped and clipped.
HD_CLONES void sample_row(const NormalSampleArgs& a, int64_t n, float* __restrict taken) {
  const int64_t at = n * a.actions;
  const float* __restrict mean = a.mean_raw + at, * __restrict std = a.std_raw + at, * __restrict noise = a.noise + at;
  const float* __restrict mean_bias = a.mean_bias, * __restrict std_bias = a.std_bias;
  float* __restrict action = a.action + at;
  for (int64_t i = 0; i < a.actions; ++i) {
    const float x = ftanh(mean[i] + mean_bias[i]) + std_of(std[i] + std_bias[i]) * noise[i];
    action[i] = x;
    taken[i] = x * (1.f / fmax(fabs(x), 1.f));
  }
}

}  // namespace

HD_CLONES void normal_policy_fwd(const NormalPolicyArgs& a, int64_t begin, int64_t end) {
  const float* __restrict mean_raw = a.mean_raw, * __restrict std_raw = a.std_raw;
  float* __restrict mean = a.mean, * __restrict std = a.std;
  for (int64_t i = begin; i < end; ++i) mean[i] = ftanh(mean_raw[i]), std[i] = std_of(std_raw[i]);
}

HD_CLONES void normal_policy_bwd(const NormalPolicyArgs& a, int64_t begin, int64_t end) {
  const float* __restrict mean_raw = a.mean_raw, * __restrict std_raw = a.std_raw;
  const float* __restrict dmean = a.dmean, * __restrict dstd = a.dstd;
  float* __restrict to_mean = a.mean, * __restrict to_std = a.std;
  for (int64_t i = begin; i < end; ++i) {
    const float mean = ftanh(mean_raw[i]), t = fsigmoid(std_raw[i] + NORMAL_SHIFT);
    to_mean[i] = dmean[i] * (1.f - mean * mean);
    to_std[i] = dstd[i] * NORMAL_RANGE * t * (1.f - t);
  }
}

HD_CLONES void normal_log_prob_fwd(const NormalLogProbArgs& a, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const int64_t at = n * a.actions;
    const float* __restrict mean = a.mean + at, * __restrict std = a.std + at, * __restrict action = a.action + at;
    float squares = 0.f, scales = 0.f;
    for (int64_t i = 0; i < a.actions; ++i) {
      const float z = (action[i] - mean[i]) / std[i];
      squares += z * z, scales += flog(std[i]) + NORMAL_CONSTANT;
    }
    a.logp[n] = -0.5f * squares - scales;
    a.ent[n] = scales + 0.5f * float(a.actions);
  }
}

HD_CLONES void normal_log_prob_bwd(const NormalLogProbArgs& a, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const int64_t at = n * a.actions;
    const float* __restrict mean = a.mean + at, * __restrict std = a.std + at, * __restrict action = a.action + at;
    float* __restrict to_mean = a.dmean + at, * __restrict to_std = a.dstd + at;
    const float dlogp = a.dlogp ? a.dlogp[n] : 0.f, dent = a.dent ? a.dent[n] : 0.f;
    for (int64_t i = 0; i < a.actions; ++i) {
      const float inverse = 1.f / std[i], z = (action[i] - mean[i]) * inverse;
      to_mean[i] = dlogp * z * inverse;
      to_std[i] = (dlogp * (z * z - 1.f) + dent) * inverse;
    }
  }
}

void normal_sample(const NormalSampleArgs& a, int64_t begin, int64_t end) {
  const Floats taken = floats(a.actions);
  for (int64_t n = begin; n < end; ++n) {
    sample_row(a, n, taken.get());
    put(a.dtype, a.taken, n * a.actions, a.actions, taken.get());
  }
}

}  // namespace hd::cpu
