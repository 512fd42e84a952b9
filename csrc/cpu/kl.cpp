// kl.cpp -- balanced KL with free nats on the CPU; equations in kernels/kl.h.
//
// The groups do not matter: a row is one vector of groups * classes, read once. Its gradients are written as if its
// divergence counted, and set to zero where it does not.
#include "kernels/kl.h"

#include <algorithm>

#include "cpu/vec.h"

namespace hd::cpu {
namespace {

template <class T>
struct Loss {
  template <int N>
  static HD_INLINE void run(const BalancedKlArgs& a, int64_t begin, int64_t end) {
    const int64_t n = a.groups * a.classes;
    for (int64_t i = begin; i < end; ++i) {
      const T* post = static_cast<const T*>(a.post) + i * n;
      const T* prior = static_cast<const T*>(a.prior) + i * n;
      T* dpost = a.dpost ? static_cast<T*>(a.dpost) + i * n : nullptr;
      T* dprior = a.dprior ? static_cast<T*>(a.dprior) + i * n : nullptr;
      const float ddyn = a.ddyn ? a.ddyn[i] : 1.f, drep = a.drep ? a.drep[i] : 1.f;
      Vec<N> sum{};
      each<N>(n, [&](int64_t j, auto count) __attribute__((always_inline)) {
        const Vec<N> logp = get<N>(post + j, count), less = logp - get<N>(prior + j, count), p = fexp(logp);
        sum += p * less;
        if (dpost) put<N>(dpost + j, drep * p * (less + 1.f), count);
        if (dprior) put<N>(dprior + j, -ddyn * p, count);
      });
      const float kl = total<N>(sum);
      const bool off = kl < a.free_nats;  // not of a NaN, which passes on
      const float loss = off ? a.free_nats : kl;
      if (a.dyn) a.dyn[i] = loss;
      if (a.rep) a.rep[i] = loss;
      if (a.kl) a.kl[i] = kl;
      if (off && dpost) std::fill_n(dpost, n, T{});
      if (off && dprior) std::fill_n(dprior, n, T{});
    }
  }
};

}  // namespace

void balanced_kl(const BalancedKlArgs& a, int64_t begin, int64_t end) {
  a.dtype == DType::F32 ? vectors<Loss<float>>(a, begin, end) : vectors<Loss<Bf16>>(a, begin, end);
}

}  // namespace hd::cpu
