// categorical.h -- one row of a categorical distribution on the CPU, shared by latent.cpp and kl.cpp; the
// equations stand in kernels/latent.h.
//
// Everything between the read of a row and the writes is in scratch of a few KiB, which stays in L1. A NaN
// makes its row NaN, and so does a largest logit that is not finite.
#pragma once
#include <cstdint>
#include <limits>

#include "cpu/simd.h"

namespace hd::cpu {

// s = softmax(x) of k classes.
template <class T>
HD_INLINE void softmax_row(const T* __restrict x, int64_t k, float* __restrict s) {
  float top = -std::numeric_limits<float>::infinity(), sum = 0.f;
  for (int64_t j = 0; j < k; ++j) top = fmax(load(x + j), top);
  for (int64_t j = 0; j < k; ++j) {
    const float e = fexp(load(x + j) - top);
    s[j] = e;
    sum += e;
  }
  const float inverse = 1.f / sum;
  for (int64_t j = 0; j < k; ++j) s[j] *= inverse;
}

// q = (1 - mix) s + mix / k.
HD_INLINE void mix_row(const float* __restrict s, int64_t k, float mix, float* __restrict q) {
  const float uniform = mix / float(k);
  for (int64_t j = 0; j < k; ++j) q[j] = (1.f - mix) * s[j] + uniform;
}

// q = exp(logp), of log-probabilities.
template <class T>
HD_INLINE void exp_row(const T* __restrict logp, int64_t k, float* __restrict q) {
  for (int64_t j = 0; j < k; ++j) q[j] = fexp(load(logp + j));
}

// dlogit = (1 - mix) s (w - sum s w), the gradient of the logits from w, that of q.
template <class T>
HD_INLINE void softmax_backward_row(const float* __restrict s, const float* __restrict w, int64_t k,
                                    float mix, T* __restrict dlogit) {
  float dot = 0.f;
  for (int64_t j = 0; j < k; ++j) dot += s[j] * w[j];
  for (int64_t j = 0; j < k; ++j) store(dlogit + j, (1.f - mix) * s[j] * (w[j] - dot));
}

}  // namespace hd::cpu
