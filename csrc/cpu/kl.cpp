// kl.cpp -- balanced KL with free nats on the CPU; equations in kernels/kl.h.
//
// The groups do not matter: a row is one vector of groups * classes, summed and then, where gradients are wanted, read
// again from L1 (8 KiB for 32 x 32 latents).
#include "kernels/kl.h"

#include "cpu/simd.h"

namespace hd::cpu {
namespace {

template <class T>
HD_INLINE float divergence(const T* __restrict post, const T* __restrict prior, int64_t n) {
  float sum = 0.f;
  for (int64_t j = 0; j < n; ++j) sum += fexp(load(post + j)) * (load(post + j) - load(prior + j));
  return sum;
}

template <class T>
HD_INLINE void gradients(const T* __restrict post, const T* __restrict prior, int64_t n, float ddyn, float drep,
                         T* __restrict dpost, T* __restrict dprior) {
  if (dpost)
    for (int64_t j = 0; j < n; ++j)
      store(dpost + j, drep * fexp(load(post + j)) * (load(post + j) - load(prior + j) + 1.f));
  if (dprior)
    for (int64_t j = 0; j < n; ++j) store(dprior + j, -ddyn * fexp(load(post + j)));
}

template <class T>
HD_CLONES void loss_rows(const BalancedKlArgs& a, int64_t begin, int64_t end) {
  const int64_t n = a.groups * a.classes;
  for (int64_t i = begin; i < end; ++i) {
    const T* post = static_cast<const T*>(a.post) + i * n;
    const T* prior = static_cast<const T*>(a.prior) + i * n;
    T* dpost = a.dpost ? static_cast<T*>(a.dpost) + i * n : nullptr;
    T* dprior = a.dprior ? static_cast<T*>(a.dprior) + i * n : nullptr;
    const float kl = divergence(post, prior, n);
    const bool off = kl < a.free_nats;  // not of a NaN, which passes on
    const float loss = select(off, a.free_nats, kl);
    if (a.dyn) a.dyn[i] = loss;
    if (a.rep) a.rep[i] = loss;
    if (a.kl) a.kl[i] = kl;
    const float ddyn = off ? 0.f : a.ddyn ? a.ddyn[i] : 1.f, drep = off ? 0.f : a.drep ? a.drep[i] : 1.f;
    gradients(post, prior, n, ddyn, drep, dpost, dprior);
  }
}

}  // namespace

void balanced_kl(const BalancedKlArgs& a, int64_t begin, int64_t end) {
  a.dtype == DType::F32 ? loss_rows<float>(a, begin, end) : loss_rows<Bf16>(a, begin, end);
}

}  // namespace hd::cpu
