// latent.cpp -- unimix and the inverse-CDF sample on the CPU; equations in kernels/latent.h.
//
// As many groups at a time as a vector has lanes, in scratch that stays in L1: they share their maxima and sums across
// lanes, and the division. The last groups are filled up with the last one, which is computed again, so that all take
// the same code. Groups of 1, 2 and 4 vectors have their length as a constant; those shorter than a vector take shorter
// vectors. The CDF is summed in double and rounded at each class, as PyTorch's cumsum does it. A NaN makes its group
// NaN, and so does a largest logit that is not finite.
#include "kernels/latent.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "cpu/rows.h"
#include "cpu/vec.h"

namespace hd::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// N groups in scratch, and what all of a kind are given.
template <int N>
struct Block {
  int64_t k, stride;
  float* s;  // (N, stride)

  // s[i] = e^(logit(i, j, count) - its largest); their sums.
  template <class Logit>
  HD_INLINE Vec<N> exponentials(const Logit& logit) const {
    alignas(64) float tops[N];
    Vec<N> v[N];
    for (int64_t i = 0; i < N; ++i) {
      Vec<N> top = all<Vec<N>>(-kInfinity);
      over<N>(k, [&](int64_t j, auto count, int64_t) __attribute__((always_inline)) {
        const Vec<N> x = logit(i, j, count);
        top = fmax(select(lanes<N>() < int(count), x, top), top);  // not of a NaN, which e^x keeps
      });
      v[i] = top;
    }
    put<N>(tops, fold<N>(v, Larger{}));
    for (int64_t i = 0; i < N; ++i) {
      Vec<N> sum{};
      over<N>(k, [&](int64_t j, auto count, int64_t again) __attribute__((always_inline)) {
        const Vec<N> e = fexp(logit(i, j, count) - tops[i]);
        put<N>(s + i * stride + j, e);
        sum += fresh<N>(e, count, again);
      });
      v[i] = sum;
    }
    return fold<N>(v);
  }

  // dlogit = (1 - mix) s (w - sum s w), w = donehot + dlogp / q the gradient of q; from s, the softmax. `group(i)` is
  // which, `w` scratch.
  template <class T, class O, class Group>
  HD_INLINE void backward(const LatentBwdArgs& a, const Group& group, float* w) const {
    const T *donehot = static_cast<const T*>(a.donehot), *dlogp = static_cast<const T*>(a.dlogp);
    O* dlogit = static_cast<O*>(a.dlogit);
    const float rest = 1.f - a.mix, uniform = a.mix / float(k);
    alignas(64) float dots[N];
    Vec<N> v[N];
    for (int64_t i = 0; i < N; ++i) {
      Vec<N> dot{};
      over<N>(k, [&](int64_t j, auto count, int64_t again) __attribute__((always_inline)) {
        const int64_t at = group(i) * k + j;
        const Vec<N> sj = get<N>(s + i * stride + j);
        Vec<N> wj{};
        if (donehot) wj = get<N>(donehot + at, count);
        if (dlogp) wj += get<N>(dlogp + at, count) / (rest * sj + uniform);
        put<N>(w + i * stride + j, wj);
        dot += fresh<N>(sj * wj, count, again);
      });
      v[i] = dot;
    }
    put<N>(dots, fold<N>(v));
    for (int64_t i = 0; i < N; ++i)
      over<N>(k, [&](int64_t j, auto count, int64_t) __attribute__((always_inline)) {
        const int64_t at = i * stride + j;
        put<N>(dlogit + group(i) * k + j, rest * get<N>(s + at) * (get<N>(w + at) - dots[i]), count);
      });
  }
};

// Sums of the first lanes up to each, of M doubles.
template <int M>
using Doubles = typename Lanes<2 * M>::Pairs;
template <int M, int S = 1, int... I>
HD_INLINE Doubles<M> running(const Doubles<M>& x, std::integer_sequence<int, I...> lanes) {
  if constexpr (S >= M) return x;
  else return running<M, 2 * S>(x + __builtin_shufflevector(Doubles<M>{}, x, (I < S ? 0 : M + I - S)...), lanes);
}
// min(#{j : cdf_j <= u}, k - 1).
template <int N>
HD_INLINE int64_t inverse_cdf(const float* q, int64_t k, float u) {
  constexpr int M = N > 8 ? N / 2 : 4;
  Ints<Vec<M>> below{};
  Doubles<M> before{};
  each<M>(k, [&](int64_t j, auto count) __attribute__((always_inline)) {
    const Doubles<M> x = __builtin_convertvector(get<M>(q + j, count), Doubles<M>);
    const Doubles<M> cdf = running<M>(x, std::make_integer_sequence<int, M>()) + before;
    before = Doubles<M>{} + cdf[M - 1];
    below -= __builtin_convertvector(cdf, Vec<M>) <= u;
  });
  int64_t index = 0;
  for (int i = 0; i < M; ++i) index += below[i];
  return std::min(index, k - 1);
}

template <int N, class T>
HD_INLINE void one_hot(T* row, int64_t k, int64_t index) {
  over<N>(k, [&](int64_t j, auto count, int64_t) __attribute__((always_inline)) {
    put<N>(row + j, select(lanes<N>() == int32_t(index - j), all<Vec<N>>(1.f), Vec<N>{}), count);
  });
}

struct Forward {
  template <int N, int VECTORS, class T>
  static HD_INLINE void run(const LatentFwdArgs& a, int64_t begin, int64_t end, float* s, float* probs) {
    const int64_t k = VECTORS ? VECTORS * N : a.classes;
    const Block<N> block{k, (k + N - 1) / N * N, s};
    const float uniform = a.mix / float(k);
    for (int64_t g = begin; g < end; g += N) {
      const auto group = [&](int64_t i) __attribute__((always_inline)) { return std::min(g + i, end - 1); };
      const auto logit = [&](int64_t i, int64_t j, auto count) __attribute__((always_inline)) {
        const Vec<N> x = get<N>(static_cast<const T*>(a.logit) + group(i) * k + j, count);
        return a.bias ? x + get<N>(a.bias + group(i) % a.row_groups * k + j, count) : x;
      };
      alignas(64) float scales[N];
      if (!a.normalized) put<N>(scales, (1.f - a.mix) / block.exponentials(logit));
      for (int64_t i = 0; i < N; ++i)
        over<N>(k, [&](int64_t j, auto count, int64_t) __attribute__((always_inline)) {
          const int64_t at = i * block.stride + j;
          const Vec<N> q = a.normalized ? fexp(logit(i, j, count)) : get<N>(s + at) * scales[i] + uniform;
          put<N>(probs + at, q);
          if (a.logp && !a.normalized) put<N>(static_cast<T*>(a.logp) + group(i) * k + j, flog(q), count);
        });
      for (int64_t i = g; a.u && i < std::min(g + N, end); ++i) {
        const int64_t index = inverse_cdf<N>(probs + (i - g) * block.stride, k, a.u[i]);
        if (a.index) a.index[i] = index;
        if (!a.onehot) continue;
        const int64_t at = i / a.row_groups * a.onehot_stride + i % a.row_groups * k;
        if (a.onehot_dtype == DType::F32) one_hot<N>(static_cast<float*>(a.onehot) + at, k, index);
        else one_hot<N>(static_cast<Bf16*>(a.onehot) + at, k, index);
      }
    }
  }
};

template <class O>
struct Backward {
  template <int N, class T>
  static HD_INLINE void of_normalized(const LatentBwdArgs& a, int64_t begin, int64_t end) {
    const T *logp = static_cast<const T*>(a.logit), *donehot = static_cast<const T*>(a.donehot);
    const T* dlogp = static_cast<const T*>(a.dlogp);
    O* dlogit = static_cast<O*>(a.dlogit);
    each<N>((end - begin) * a.classes, [&](int64_t j, auto count) __attribute__((always_inline)) {
      const int64_t at = begin * a.classes + j;
      Vec<N> d{};
      if (donehot) d = get<N>(donehot + at, count) * fexp(get<N>(logp + at, count));
      if (dlogp) d += get<N>(dlogp + at, count);
      put<N>(dlogit + at, d, count);
    });
  }

  template <int N, int VECTORS, class T>
  static HD_INLINE void run(const LatentBwdArgs& a, int64_t begin, int64_t end, float* s, float* w) {
    const int64_t k = VECTORS ? VECTORS * N : a.classes;
    const T* logits = static_cast<const T*>(a.logit);
    if (a.normalized) return of_normalized<N, T>(a, begin, end);
    const Block<N> block{k, (k + N - 1) / N * N, s};
    for (int64_t g = begin; g < end; g += N) {
      const auto group = [&](int64_t i) __attribute__((always_inline)) { return std::min(g + i, end - 1); };
      alignas(64) float inverses[N];
      put<N>(inverses, 1.f / block.exponentials([&](int64_t i, int64_t j, auto count) __attribute__((always_inline)) {
        const Vec<N> x = get<N>(logits + group(i) * k + j, count);
        return a.bias ? x + get<N>(a.bias + group(i) % a.row_groups * k + j, count) : x;
      }));
      for (int64_t i = 0; i < N; ++i)
        for (int64_t j = 0; j < block.stride; j += N) {
          float* at = s + i * block.stride + j;
          put<N>(at, get<N>(at) * inverses[i]);
        }
      block.template backward<T, O>(a, group, w);
    }
  }
};

// From log-probabilities: the softmax is found from them.
struct OfUnimix {
  template <int N, int VECTORS, class T>
  static HD_INLINE void run(const LatentBwdArgs& a, int64_t begin, int64_t end, float* s, float* w) {
    const int64_t k = VECTORS ? VECTORS * N : a.classes;
    const T* logp = static_cast<const T*>(a.logit);
    const Block<N> block{k, (k + N - 1) / N * N, s};
    const float uniform = a.mix / float(k), inverse = 1.f / (1.f - a.mix);
    for (int64_t g = begin; g < end; g += N) {
      const auto group = [&](int64_t i) __attribute__((always_inline)) { return std::min(g + i, end - 1); };
      for (int64_t i = 0; i < N; ++i)
        over<N>(k, [&](int64_t j, auto count, int64_t) __attribute__((always_inline)) {
          put<N>(s + i * block.stride + j, (fexp(get<N>(logp + group(i) * k + j, count)) - uniform) * inverse);
        });
      block.template backward<T, float>(a, group, w);
    }
  }
};

template <class Groups, class T, int VECTORS>
struct Scratched {
  template <int N, class Args>
  static HD_INLINE void run(const Args& a, int64_t begin, int64_t end) {
    alignas(64) float s[N * LATENT_MAX_CLASSES], w[N * LATENT_MAX_CLASSES];
    Groups::template run<N, VECTORS, T>(a, begin, end, s, w);
  }
};
// Groups in vectors no longer than one, their number a constant where it is small. Each is a function of its own: all
// in one take a compiler minutes with sanitizers.
template <class Groups, class T, class Args>
void by_classes(const Args& a, int64_t begin, int64_t end) {
  const int64_t k = a.classes, width = std::min<int64_t>(vector_width(), k >= 16 ? 16 : k >= 8 ? 8 : 4);
  const auto run = [&](auto vectors) { vectors_up_to<Scratched<Groups, T, vectors>>(width, a, begin, end); };
  if constexpr (std::is_same_v<T, float>) {
    if (k == width) return run(std::integral_constant<int, 1>());
    if (k == 2 * width) return run(std::integral_constant<int, 2>());
    if (k == 4 * width) return run(std::integral_constant<int, 4>());
  }
  run(std::integral_constant<int, 0>());
}

}  // namespace

void latent_fwd(const LatentFwdArgs& a, int64_t begin, int64_t end) {
  if (a.normalized && a.logp && begin < end) {
    const int64_t bytes = a.classes * (a.dtype == DType::F32 ? sizeof(float) : sizeof(Bf16));
    std::memcpy(static_cast<char*>(a.logp) + begin * bytes, static_cast<const char*>(a.logit) + begin * bytes,
                (end - begin) * bytes);
  }
  if (a.normalized && !a.u) return;
  a.dtype == DType::F32 ? by_classes<Forward, float>(a, begin, end) : by_classes<Forward, Bf16>(a, begin, end);
}

void latent_bwd(const LatentBwdArgs& a, int64_t begin, int64_t end) {
  if (a.dtype == DType::BF16) by_classes<Backward<Bf16>, Bf16>(a, begin, end);
  else if (a.dlogit_dtype == DType::F32) by_classes<Backward<float>, float>(a, begin, end);
  else by_classes<Backward<Bf16>, float>(a, begin, end);
}

void unimix_bwd(int64_t groups, int64_t k, const float* dlogp, const float* dprob, const float* logp, float mix,
                float* dlogit) {
  LatentBwdArgs a{logp, dprob, dlogp, dlogit, groups, k, mix, true, DType::F32};
  by_classes<OfUnimix, float>(a, 0, groups);
}

}  // namespace hd::cpu
