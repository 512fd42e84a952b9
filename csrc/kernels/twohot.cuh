// Kernels of twohot; equations in twohot.h.
//
// Tiling: one warp per row, eight rows per block of 256 threads. A row of 255 logits is 8 values per lane;
// the second pass over it (exponentials after the maximum) hits L1. Rows are not 16-byte aligned when K is
// odd, so lanes read consecutive floats: 128 bytes per warp and load, fully used. Symlog and symexp: one
// element a thread.
#pragma once
#include "device/hd_reduce.h"
#include "kernels/twohot.h"
#include "kernels/twohot_math.h"

namespace hd {

constexpr int TWOHOT_THREADS = 256;
constexpr int TWOHOT_ROWS = TWOHOT_THREADS / 32;  // rows per block

enum class SymOp { LogFwd, LogBwd, ExpFwd, ExpBwd };

template <SymOp OP>
__global__ void __launch_bounds__(TWOHOT_THREADS) symlog_kernel(SymArgs a) {
  const int64_t i = int64_t(blockIdx.x) * TWOHOT_THREADS + threadIdx.x;
  if (i >= a.size) return;
  const float x = a.x[i];
  if (OP == SymOp::LogFwd) a.y[i] = symlog(x);
  if (OP == SymOp::LogBwd) a.y[i] = symlog_slope(x, a.dy[i]);
  if (OP == SymOp::ExpFwd) a.y[i] = symexp(x);
  if (OP == SymOp::ExpBwd) a.y[i] = x == 0.f ? 0.f : a.dy[i] * expf(HD_MUTATE(TWOHOT_SLOPE, fabsf(x), x));
}

// Maximum of a row by one warp, the same in every lane.
__device__ __forceinline__ float row_max(const float* row, int64_t cols, int lane) {
  float top = -INFINITY;
  for (int64_t k = lane; k < cols; k += 32) top = fmaxf(top, row[k]);
  return warp_max(top);
}

__global__ void __launch_bounds__(TWOHOT_THREADS) twohot_loss_fwd_kernel(TwohotLossArgs a) {
  const int lane = int(threadIdx.x) % 32;
  const int64_t n = int64_t(blockIdx.x) * TWOHOT_ROWS + threadIdx.x / 32;
  if (n >= a.rows) return;  // whole warps
  const float* row = a.logit + n * a.cols;
  const float top = row_max(row, a.cols, lane);
  float sum = 0.f;
  for (int64_t k = lane; k < a.cols; k += 32) sum += expf(row[k] - top);
  const float log_sum = logf(warp_sum(sum));
  if (lane == 0) {
    a.stats[2 * n] = top;
    a.stats[2 * n + 1] = log_sum;
  }
  for (int64_t m = lane; m < a.targets; m += 32) {
    const BinPair p = bin_pair(symlog(a.target[m * a.rows + n]), a.bins, a.cols);
    const float below = row[HD_MUTATE(TWOHOT_BELOW, p.below, p.above)];
    a.loss[m * a.rows + n] =
        -((1.f - p.weight) * log_softmax(below, top, log_sum) + p.weight * log_softmax(row[p.above], top, log_sum));
  }
}

// Every lane finds the pairs itself: a few dozen instructions beside 8 exponentials, and no exchange.
__global__ void __launch_bounds__(TWOHOT_THREADS) twohot_loss_bwd_kernel(TwohotLossArgs a) {
  const int lane = int(threadIdx.x) % 32;
  const int64_t n = int64_t(blockIdx.x) * TWOHOT_ROWS + threadIdx.x / 32;
  if (n >= a.rows) return;
  const float* row = a.logit + n * a.cols;
  float* out = a.dlogit + n * a.cols;
  const float top = a.stats[2 * n], log_sum = a.stats[2 * n + 1];
  float coef = 0.f;
  for (int64_t m = 0; m < a.targets; ++m) coef += a.dloss[m * a.rows + n];
  for (int64_t k = lane; k < a.cols; k += 32) out[k] = coef * expf(log_softmax(row[k], top, log_sum));
  for (int64_t m = 0; m < a.targets; ++m) {
    const BinPair p = bin_pair(symlog(a.target[m * a.rows + n]), a.bins, a.cols);
    const float d = a.dloss[m * a.rows + n];
    if (p.below % 32 == lane) out[p.below] -= d * (1.f - p.weight);  // the lane that wrote it
    if (HD_MUTATE(TWOHOT_OWNER, p.above, p.below) % 32 == lane) out[p.above] -= d * p.weight;
  }
}

__global__ void __launch_bounds__(TWOHOT_THREADS) twohot_mean_fwd_kernel(TwohotMeanArgs a) {
  const int lane = int(threadIdx.x) % 32;
  const int64_t n = int64_t(blockIdx.x) * TWOHOT_ROWS + threadIdx.x / 32;
  if (n >= a.rows) return;
  const float* row = a.logit + n * a.cols;
  const float top = row_max(row, a.cols, lane);
  float sum = 0.f, center = 0.f;
  for (int64_t k = lane; k < a.cols; k += 32) {
    const float e = expf(row[k] - top);
    sum += e;
    center += e * a.bins[k];
  }
  sum = warp_sum(sum);
  center = warp_sum(center) / sum;
  if (lane != 0) return;
  a.stats[2 * n] = top;
  a.stats[2 * n + 1] = logf(sum);
  a.center[n] = center;
  a.mean[n] = symexp(center);
}

__global__ void __launch_bounds__(TWOHOT_THREADS) twohot_mean_bwd_kernel(TwohotMeanArgs a) {
  const int lane = int(threadIdx.x) % 32;
  const int64_t n = int64_t(blockIdx.x) * TWOHOT_ROWS + threadIdx.x / 32;
  if (n >= a.rows) return;
  const float* row = a.logit + n * a.cols;
  const float top = a.stats[2 * n], log_sum = a.stats[2 * n + 1];
  const float center = a.center[n], slope = center == 0.f ? 0.f : a.dmean[n] * expf(fabsf(center));
  for (int64_t k = lane; k < a.cols; k += 32)
    a.dlogit[n * a.cols + k] =
        slope * expf(log_softmax(row[k], top, log_sum)) * (a.bins[k] - HD_MUTATE(TWOHOT_CENTER, center, 0.f));
}

}  // namespace hd
