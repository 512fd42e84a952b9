// latent.cpp -- unimix and the inverse-CDF sample on the CPU; equations in kernels/latent.h.
//
// One group at a time, in scratch that stays in L1: memory sees each class once per operand. The CDF is
// summed in double and rounded at each class, as PyTorch's cumsum does it. 32 classes, what a Dreamer latent
// has, are compiled as a constant: without it the loops' prologues cost more than their bodies. A NaN makes its group
// NaN, and so does a largest logit that is not finite.
#include "kernels/latent.h"

#include <algorithm>
#include <cstring>

#include "cpu/rows.h"
#include "cpu/simd.h"

namespace hd::cpu {
namespace {

// s = softmax(x) of k classes.
template <class T>
HD_INLINE void softmax_row(const T* __restrict x, int64_t k, float* __restrict s) {
  const float top = largest(x, k);
  float sum = 0.f;
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
HD_INLINE void softmax_backward_row(const float* __restrict s, const float* __restrict w, int64_t k, float mix,
                                    T* __restrict dlogit) {
  float dot = 0.f;
  for (int64_t j = 0; j < k; ++j) dot += s[j] * w[j];
  for (int64_t j = 0; j < k; ++j) store(dlogit + j, (1.f - mix) * s[j] * (w[j] - dot));
}

// min(#{j : cdf_j <= u}, k - 1).
HD_INLINE int64_t inverse_cdf(const float* q, int64_t k, float u) {
  double cdf = 0;
  int64_t j = 0;
  for (; j < k; ++j) {
    cdf += q[j];
    if (!(float(cdf) <= u)) break;
  }
  return std::min(j, k - 1);
}

template <class T>
HD_INLINE void one_hot(T* row, int64_t k, int64_t index) {
  std::memset(row, 0, k * sizeof(T));
  store(row + index, 1.f);
}

// Probabilities of group g, whose biases, if any, are those of its place in a row.
template <class T, class Args>
HD_INLINE void latent_softmax(const Args& a, const T* logit, int64_t g, int64_t k, float* s) {
  if (!a.bias) return softmax_row(logit, k, s);
  const float* bias = a.bias + g % a.row_groups * k;
  float sum[LATENT_MAX_CLASSES];
  for (int64_t j = 0; j < k; ++j) sum[j] = load(logit + j) + bias[j];
  softmax_row(sum, k, s);
}

// `WIDTH` is the number of classes where it is known at compile time, else 0.
template <class T, int WIDTH>
HD_INLINE void forward_groups(const LatentFwdArgs& a, int64_t begin, int64_t end) {
  const int64_t k = WIDTH ? WIDTH : a.classes;
  float s[LATENT_MAX_CLASSES], q[LATENT_MAX_CLASSES];
  for (int64_t g = begin; g < end; ++g) {
    const T* logit = static_cast<const T*>(a.logit) + g * k;
    if (a.normalized) exp_row(logit, k, q);
    else latent_softmax(a, logit, g, k, s), mix_row(s, k, a.mix, q);
    if (a.logp) {
      T* __restrict logp = static_cast<T*>(a.logp) + g * k;
      if (a.normalized) std::memcpy(logp, logit, k * sizeof(T));
      else
        for (int64_t j = 0; j < k; ++j) store(logp + j, flog(q[j]));
    }
    if (!a.u) continue;
    const int64_t index = inverse_cdf(q, k, a.u[g]);
    if (a.index) a.index[g] = index;
    if (!a.onehot) continue;
    const int64_t at = g / a.row_groups * a.onehot_stride + g % a.row_groups * k;
    if (a.onehot_dtype == DType::F32) one_hot(static_cast<float*>(a.onehot) + at, k, index);
    else one_hot(static_cast<Bf16*>(a.onehot) + at, k, index);
  }
}

template <class T, class O, int WIDTH>
HD_INLINE void backward_groups(const LatentBwdArgs& a, int64_t begin, int64_t end) {
  const int64_t k = WIDTH ? WIDTH : a.classes;
  float s[LATENT_MAX_CLASSES], q[LATENT_MAX_CLASSES], w[LATENT_MAX_CLASSES];
  for (int64_t g = begin; g < end; ++g) {
    const T* logit = static_cast<const T*>(a.logit) + g * k;
    const T* __restrict donehot = a.donehot ? static_cast<const T*>(a.donehot) + g * k : nullptr;
    const T* __restrict dlogp = a.dlogp ? static_cast<const T*>(a.dlogp) + g * k : nullptr;
    O* __restrict dlogit = static_cast<O*>(a.dlogit) + g * k;
    for (int64_t j = 0; j < k; ++j) w[j] = donehot ? load(donehot + j) : 0.f;
    if (a.normalized) {
      exp_row(logit, k, q);
      for (int64_t j = 0; j < k; ++j) store(dlogit + j, w[j] * q[j] + (dlogp ? load(dlogp + j) : 0.f));
    } else {
      latent_softmax(a, logit, g, k, s);
      mix_row(s, k, a.mix, q);
      if (dlogp)
        for (int64_t j = 0; j < k; ++j) w[j] += load(dlogp + j) / q[j];
      softmax_backward_row(s, w, k, a.mix, dlogit);
    }
  }
}

template <class T>
HD_CLONES void forward(const LatentFwdArgs& a, int64_t begin, int64_t end) {
  if (a.classes == 32) return forward_groups<T, 32>(a, begin, end);
  forward_groups<T, 0>(a, begin, end);
}

template <class T, class O>
HD_CLONES void backward(const LatentBwdArgs& a, int64_t begin, int64_t end) {
  if (a.classes == 32) return backward_groups<T, O, 32>(a, begin, end);
  backward_groups<T, O, 0>(a, begin, end);
}

}  // namespace

HD_CLONES void unimix_bwd(int64_t groups, int64_t k, const float* dlogp, const float* dprob, const float* logp,
                          float mix, float* dlogit) {
  const float uniform = mix / float(k), inverse = 1.f / (1.f - mix);
  float s[LATENT_MAX_CLASSES], w[LATENT_MAX_CLASSES];
  for (int64_t at = 0; at < groups * k; at += k) {
    for (int64_t j = 0; j < k; ++j) {
      const float q = fexp(logp[at + j]);
      s[j] = (q - uniform) * inverse;
      w[j] = (dlogp ? dlogp[at + j] / q : 0.f) + (dprob ? dprob[at + j] : 0.f);
    }
    softmax_backward_row(s, w, k, mix, dlogit + at);
  }
}

void latent_fwd(const LatentFwdArgs& a, int64_t begin, int64_t end) {
  a.dtype == DType::F32 ? forward<float>(a, begin, end) : forward<Bf16>(a, begin, end);
}

void latent_bwd(const LatentBwdArgs& a, int64_t begin, int64_t end) {
  if (a.dtype == DType::BF16) return backward<Bf16, Bf16>(a, begin, end);
  a.dlogit_dtype == DType::F32 ? backward<float, float>(a, begin, end) : backward<float, Bf16>(a, begin, end);
}

}  // namespace hd::cpu
