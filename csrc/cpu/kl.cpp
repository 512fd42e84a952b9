// kl.cpp -- balanced KL with free nats on the CPU; equations in kernels/kl.h.
//
// Of log-probabilities the groups do not matter: a row is one vector of groups * classes, summed and then,
// where gradients are wanted, read again from L1 (8 KiB for 32 x 32 latents). Of logits each group is
// normalised in scratch, once for the sum and once for the gradients.
#include "kernels/kl.h"

#include "cpu/categorical.h"

namespace hd::cpu {
namespace {

template <class T>
HD_INLINE float log_probability_kl(const T* __restrict post, const T* __restrict prior, int64_t n) {
  float sum = 0.f;
  for (int64_t j = 0; j < n; ++j) sum += fexp(load(post + j)) * (load(post + j) - load(prior + j));
  return sum;
}

template <class T>
HD_INLINE void log_probability_gradients(const T* __restrict post, const T* __restrict prior, int64_t n,
                                         float ddyn, float drep, T* __restrict dpost, T* __restrict dprior) {
  if (dpost)
    for (int64_t j = 0; j < n; ++j)
      store(dpost + j, drep * fexp(load(post + j)) * (load(post + j) - load(prior + j) + 1.f));
  if (dprior)
    for (int64_t j = 0; j < n; ++j) store(dprior + j, -ddyn * fexp(load(post + j)));
}

// Both distributions of one group from logits, and their log-ratio.
struct Pair {
  float post_s[KL_MAX_CLASSES], post[KL_MAX_CLASSES], prior_s[KL_MAX_CLASSES], prior[KL_MAX_CLASSES];
  float gap[KL_MAX_CLASSES], w[KL_MAX_CLASSES];
};

template <class T>
HD_INLINE void normalise(const T* post, const T* prior, int64_t k, float mix, Pair& p) {
  softmax_row(post, k, p.post_s);
  softmax_row(prior, k, p.prior_s);
  mix_row(p.post_s, k, mix, p.post);
  mix_row(p.prior_s, k, mix, p.prior);
  for (int64_t j = 0; j < k; ++j) p.gap[j] = flog(p.post[j]) - flog(p.prior[j]);
}

template <class T>
HD_INLINE float logit_kl(const T* post, const T* prior, int64_t groups, int64_t k, float mix) {
  Pair p;
  float sum = 0.f;
  for (int64_t g = 0; g < groups; ++g) {
    normalise(post + g * k, prior + g * k, k, mix, p);
    for (int64_t j = 0; j < k; ++j) sum += p.post[j] * p.gap[j];
  }
  return sum;
}

template <class T>
HD_INLINE void logit_gradients(const T* post, const T* prior, int64_t groups, int64_t k, float mix,
                               float ddyn, float drep, T* dpost, T* dprior) {
  Pair p;
  for (int64_t g = 0; g < groups; ++g) {
    normalise(post + g * k, prior + g * k, k, mix, p);
    if (dpost) {
      for (int64_t j = 0; j < k; ++j) p.w[j] = drep * p.gap[j];
      softmax_backward_row(p.post_s, p.w, k, mix, dpost + g * k);
    }
    if (dprior) {
      for (int64_t j = 0; j < k; ++j) p.w[j] = -ddyn * p.post[j] / p.prior[j];
      softmax_backward_row(p.prior_s, p.w, k, mix, dprior + g * k);
    }
  }
}

template <class T>
HD_CLONES void loss_rows(const BalancedKlArgs& a, int64_t begin, int64_t end) {
  const int64_t n = a.groups * a.classes;
  for (int64_t i = begin; i < end; ++i) {
    const T* post = static_cast<const T*>(a.post) + i * n;
    const T* prior = static_cast<const T*>(a.prior) + i * n;
    T* dpost = a.dpost ? static_cast<T*>(a.dpost) + i * n : nullptr;
    T* dprior = a.dprior ? static_cast<T*>(a.dprior) + i * n : nullptr;
    const float kl = a.logits ? logit_kl(post, prior, a.groups, a.classes, a.mix)
                              : log_probability_kl(post, prior, n);
    const bool off = kl < a.free_nats;  // not of a NaN, which passes on
    const float loss = select(off, a.free_nats, kl);
    if (a.dyn) a.dyn[i] = loss;
    if (a.rep) a.rep[i] = loss;
    if (a.kl) a.kl[i] = kl;
    const float ddyn = off ? 0.f : a.ddyn ? a.ddyn[i] : 1.f, drep = off ? 0.f : a.drep ? a.drep[i] : 1.f;
    if (a.logits) logit_gradients(post, prior, a.groups, a.classes, a.mix, ddyn, drep, dpost, dprior);
    else log_probability_gradients(post, prior, n, ddyn, drep, dpost, dprior);
  }
}

}  // namespace

void balanced_kl(const BalancedKlArgs& a, int64_t begin, int64_t end) {
  a.dtype == DType::F32 ? loss_rows<float>(a, begin, end) : loss_rows<Bf16>(a, begin, end);
}

}  // namespace hd::cpu
