// CPU version of twohot; equations in kernels/twohot.h. As many rows as a vector has lanes share their sums across
// lanes and what they compute from one number a row.
#include "kernels/twohot.h"

#include <algorithm>

#include "cpu/vec.h"
#include "kernels/twohot_math.h"

namespace hd::cpu {
namespace {

// y of x and dy, which the forward does not look at.
template <class F>
struct Elements {
  template <int N>
  static HD_INLINE void run(const SymArgs& a, int64_t begin, int64_t end) {
    each<N>(end - begin, [&](int64_t j, auto count) __attribute__((always_inline)) {
      const int64_t at = begin + j;
      put<N>(a.y + at, F::of(get<N>(a.x + at, count), get<N>(a.dy + at, count)), count);
    });
  }
};

struct Symlog {
  template <class V>
  static HD_INLINE V of(const V& x, const V&) {
    return fsymlog(x);
  }
};
struct Symexp {
  template <class V>
  static HD_INLINE V of(const V& x, const V&) {
    return fsymexp(x);
  }
};
struct SymlogSlope {
  template <class V>
  static HD_INLINE V of(const V& x, const V& dy) {
    return select(x == 0.f, V{}, dy / (1.f + fabs(x)));
  }
};
struct SymexpSlope {
  template <class V>
  static HD_INLINE V of(const V& x, const V& dy) {
    return select(x == 0.f, V{}, dy * fexp(fabs(x)));
  }
};

// Rows [begin, end), as many at a time as a vector has lanes.
template <class Rows>
struct Blocks {
  template <int N, class Args>
  static HD_INLINE void run(const Args& a, int64_t begin, int64_t end) {
    for (; begin < end; begin += N) Rows::template run<N>(a, begin, int(std::min<int64_t>(N, end - begin)));
  }
};

// (logit - top) - log_sum, in this order: a large maximum must not meet the small logarithm.
template <class V>
HD_INLINE V log_prob(const V& logit, const V& top, const V& log_sum) {
  return (logit - top) - log_sum;
}

// Maximum and log-sum of `count` rows from `first` on. Returns, with `bins`, the expected bin of each.
template <int N, class Args>
HD_INLINE Vec<N> softmax_stats(const Args& a, int64_t first, int count, const float* bins) {
  Vec<N> tops[N] = {}, sums[N] = {}, weighted[N] = {};
  const float* rows = a.logit + first * a.cols;
  for (int i = 0; i < count; ++i) {
    Vec<N> most = all<Vec<N>>(-std::numeric_limits<float>::infinity());
    over<N>(a.cols, [&](int64_t j, auto some, int64_t) __attribute__((always_inline)) {
      const Vec<N> x = get<N>(rows + i * a.cols + j, some);
      most = fmax(select(lanes<N>() < int(some), x, most), most);  // not of a NaN, which e^x keeps
    });
    tops[i] = most;
  }
  const Vec<N> top = fold<N>(tops, Larger{});
  for (int i = 0; i < count; ++i) {
    Vec<N> sum{}, weight{};
    over<N>(a.cols, [&](int64_t j, auto some, int64_t again) __attribute__((always_inline)) {
      const Vec<N> e = fresh<N>(fexp(get<N>(rows + i * a.cols + j, some) - top[i]), some, again);
      sum += e;
      if (bins) weight += e * get<N>(bins + j, some);
    });
    sums[i] = sum;
    weighted[i] = weight;
  }
  const Vec<N> sum = fold<N>(sums), log_sum = flog(sum);
  for (int i = 0; i < count; ++i) {
    a.stats[2 * (first + i)] = top[i];
    a.stats[2 * (first + i) + 1] = log_sum[i];
  }
  return bins ? fold<N>(weighted) / sum : sum;
}

struct LossForward {
  template <int N>
  static HD_INLINE void run(const TwohotLossArgs& a, int64_t first, int count) {
    softmax_stats<N>(a, first, count, nullptr);
    for (int64_t m = 0; m < a.targets; ++m) {
      const Vec<N> y = fsymlog(get<N>(a.target + m * a.rows + first, count));
      for (int i = 0; i < count; ++i) {
        const int64_t n = first + i;
        const float *row = a.logit + n * a.cols, top = a.stats[2 * n], log_sum = a.stats[2 * n + 1];
        const BinPair p = bin_pair(y[i], a.bins, a.cols);
        a.loss[m * a.rows + n] = -((1.f - p.weight) * log_prob(row[p.below], top, log_sum) +
                                   p.weight * log_prob(row[p.above], top, log_sum));
      }
    }
  }
};

// out = coef times the probabilities of a row, and with `bins` the distance of each from the expected one.
template <int N>
HD_INLINE void gradient_row(const float* row, int64_t cols, const float* stats, float coef, const float* bins,
                            float center, float* out) {
  const Vec<N> top = all<Vec<N>>(stats[0]), log_sum = all<Vec<N>>(stats[1]);
  over<N>(cols, [&](int64_t j, auto some, int64_t) __attribute__((always_inline)) {
    const Vec<N> d = coef * fexp(log_prob(get<N>(row + j, some), top, log_sum));
    put<N>(out + j, bins ? d * (get<N>(bins + j, some) - center) : d, some);
  });
}

struct LossBackward {
  template <int N>
  static HD_INLINE void run(const TwohotLossArgs& a, int64_t first, int count) {
    Vec<N> coef = {};
    for (int64_t m = 0; m < a.targets; ++m) coef += get<N>(a.dloss + m * a.rows + first, count);
    for (int i = 0; i < count; ++i) {
      const int64_t n = first + i;
      gradient_row<N>(a.logit + n * a.cols, a.cols, a.stats + 2 * n, coef[i], nullptr, 0.f, a.dlogit + n * a.cols);
    }
    for (int64_t m = 0; m < a.targets; ++m) {
      const Vec<N> y = fsymlog(get<N>(a.target + m * a.rows + first, count));
      for (int i = 0; i < count; ++i) {
        const int64_t n = first + i;
        const float d = a.dloss[m * a.rows + n];
        const BinPair p = bin_pair(y[i], a.bins, a.cols);
        float* out = a.dlogit + n * a.cols;
        out[p.below] -= d * (1.f - p.weight);
        out[p.above] -= d * p.weight;
      }
    }
  }
};

struct MeanForward {
  template <int N>
  static HD_INLINE void run(const TwohotMeanArgs& a, int64_t first, int count) {
    const Vec<N> center = softmax_stats<N>(a, first, count, a.bins);
    put<N>(a.center + first, center, count);
    put<N>(a.mean + first, fsymexp(center), count);
  }
};

struct MeanBackward {
  template <int N>
  static HD_INLINE void run(const TwohotMeanArgs& a, int64_t first, int count) {
    const Vec<N> center = get<N>(a.center + first, count);
    const Vec<N> coef = SymexpSlope::of(center, get<N>(a.dmean + first, count));
    for (int i = 0; i < count; ++i) {
      const int64_t n = first + i;
      gradient_row<N>(a.logit + n * a.cols, a.cols, a.stats + 2 * n, coef[i], a.bins, center[i], a.dlogit + n * a.cols);
    }
  }
};

}  // namespace

void symlog_fwd(const SymArgs& a, int64_t begin, int64_t end) { vectors<Elements<Symlog>>(a, begin, end); }
void symlog_bwd(const SymArgs& a, int64_t begin, int64_t end) { vectors<Elements<SymlogSlope>>(a, begin, end); }
void symexp_fwd(const SymArgs& a, int64_t begin, int64_t end) { vectors<Elements<Symexp>>(a, begin, end); }
void symexp_bwd(const SymArgs& a, int64_t begin, int64_t end) { vectors<Elements<SymexpSlope>>(a, begin, end); }

void twohot_loss_fwd(const TwohotLossArgs& a, int64_t begin, int64_t end) {
  vectors<Blocks<LossForward>>(a, begin, end);
}
void twohot_loss_bwd(const TwohotLossArgs& a, int64_t begin, int64_t end) {
  vectors<Blocks<LossBackward>>(a, begin, end);
}
void twohot_mean_fwd(const TwohotMeanArgs& a, int64_t begin, int64_t end) {
  vectors<Blocks<MeanForward>>(a, begin, end);
}
void twohot_mean_bwd(const TwohotMeanArgs& a, int64_t begin, int64_t end) {
  vectors<Blocks<MeanBackward>>(a, begin, end);
}

}  // namespace hd::cpu
