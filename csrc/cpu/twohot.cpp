// CPU version of twohot: rows of logits with the exponential vectorized; equations in kernels/twohot.h.
#include <algorithm>

#include "cpu/simd.h"
#include "kernels/twohot.h"
#include "kernels/twohot_math.h"

namespace hd::cpu {
namespace {

// Maximum and log-sum of rows, and of MEAN their expected bin.
template <bool MEAN>
HD_CLONES void stats_rows(const float* logit, int64_t cols, const float* __restrict bins, float* stats, float* center,
                          int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const float* __restrict row = logit + n * cols;
    const float top = largest(row, cols);
    float sum = 0.f, weighted = 0.f;
    for (int64_t k = 0; k < cols; ++k) {
      const float e = fexp(row[k] - top);
      sum += e;
      if constexpr (MEAN) weighted += e * bins[k];
    }
    stats[2 * n] = top;
    stats[2 * n + 1] = logf(sum);
    if constexpr (MEAN) center[n] = weighted / sum;
  }
}

// (logit - top) - log_sum, in this order: a large maximum must not meet the small logarithm.
HD_INLINE float log_prob(float logit, float top, float log_sum) { return HD_KEEP(logit - top) - log_sum; }

// coef times the probabilities of a row, and of MEAN the distance of each bin from the expected one.
template <bool MEAN>
HD_CLONES void gradient_row(const float* __restrict row, int64_t cols, const float* stats, float coef,
                            const float* __restrict bins, float center, float* __restrict out) {
  const float top = stats[0], log_sum = stats[1];
  for (int64_t k = 0; k < cols; ++k) {
    const float d = coef * fexp(log_prob(row[k], top, log_sum));
    out[k] = MEAN ? d * (bins[k] - center) : d;
  }
}

}  // namespace

HD_CLONES void symlog_fwd(const SymArgs& a, int64_t begin, int64_t end) {
  const float* __restrict x = a.x;
  float* __restrict y = a.y;
  for (int64_t i = begin; i < end; ++i) y[i] = copysign(flog1p(fabs(x[i])), x[i]);
}

HD_CLONES void symexp_fwd(const SymArgs& a, int64_t begin, int64_t end) {
  const float* __restrict x = a.x;
  float* __restrict y = a.y;
  for (int64_t i = begin; i < end; ++i) y[i] = copysign(fexpm1(fabs(x[i])), x[i]);
}

HD_CLONES void symexp_bwd(const SymArgs& a, int64_t begin, int64_t end) {
  const float* __restrict x = a.x, * __restrict dy = a.dy;
  float* __restrict y = a.y;
  for (int64_t i = begin; i < end; ++i) y[i] = select(x[i] == 0.f, 0.f, dy[i] * fexp(fabs(x[i])));
}

HD_CLONES void symlog_bwd(const SymArgs& a, int64_t begin, int64_t end) {
  const float* __restrict x = a.x, * __restrict dy = a.dy;
  float* __restrict y = a.y;
  for (int64_t i = begin; i < end; ++i) y[i] = select(x[i] == 0.f, 0.f, dy[i] / (1.f + fabs(x[i])));
}

void twohot_loss_fwd(const TwohotLossArgs& a, int64_t begin, int64_t end) {
  stats_rows<false>(a.logit, a.cols, nullptr, a.stats, nullptr, begin, end);
  for (int64_t m = 0; m < a.targets; ++m) {
    for (int64_t n = begin; n < end; ++n) {
      const float* row = a.logit + n * a.cols;
      const BinPair p = bin_pair(symlog(a.target[m * a.rows + n]), a.bins, a.cols);
      const float top = a.stats[2 * n], log_sum = a.stats[2 * n + 1];
      a.loss[m * a.rows + n] =
          -((1.f - p.weight) * log_prob(row[p.below], top, log_sum) + p.weight * log_prob(row[p.above], top, log_sum));
    }
  }
}

void twohot_loss_bwd(const TwohotLossArgs& a, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    float* out = a.dlogit + n * a.cols;
    float coef = 0.f;
    for (int64_t m = 0; m < a.targets; ++m) coef += a.dloss[m * a.rows + n];
    gradient_row<false>(a.logit + n * a.cols, a.cols, a.stats + 2 * n, coef, nullptr, 0.f, out);
    for (int64_t m = 0; m < a.targets; ++m) {
      const float d = a.dloss[m * a.rows + n];
      const BinPair p = bin_pair(symlog(a.target[m * a.rows + n]), a.bins, a.cols);
      out[p.below] -= d * (1.f - p.weight);
      out[p.above] -= d * p.weight;
    }
  }
}

void twohot_mean_fwd(const TwohotMeanArgs& a, int64_t begin, int64_t end) {
  stats_rows<true>(a.logit, a.cols, a.bins, a.stats, a.center, begin, end);
  for (int64_t n = begin; n < end; ++n) a.mean[n] = symexp(a.center[n]);
}

void twohot_mean_bwd(const TwohotMeanArgs& a, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n)
    gradient_row<true>(a.logit + n * a.cols, a.cols, a.stats + 2 * n,
                       a.center[n] == 0.f ? 0.f : a.dmean[n] * expf(fabsf(a.center[n])), a.bins, a.center[n],
                       a.dlogit + n * a.cols);
}

}  // namespace hd::cpu
