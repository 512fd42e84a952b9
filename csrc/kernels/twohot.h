// twohot.h -- symlog, symexp and the two-hot categorical over symlog bins: arguments and entry points.
//
//   symlog(x) = sign(x) log(1 + |x|),  slope 1 / (1 + |x|);   symexp(x) = sign(x) (e^|x| - 1),  slope e^|x|
//   (at exactly 0 both slopes are 0, as the sign in the definition makes them)
//   loss_mn  = lse_n - (1 - w) logit[n, below] - w logit[n, above]       for the pair (below, above, w)
//       of symlog(x_mn)
//   backward : dlogit[n] = sum_m dloss_mn (softmax(logit[n]) - (1 - w) e_below - w e_above)
//   mean_n   = symexp(center_n),  center_n = sum_k softmax(logit[n])_k bins_k
//   backward : dlogit_k = dmean e^|center| softmax_k (bins_k - center)
//
// The pair is found in O(1) from the bins' even spacing and settled by comparison with the table, so it
// equals a binary search bit for bit; no target as wide as the bins is ever built. Bytes per row: forward 4 K
// read; backward 4 K read, 4 K written. Saved for backward: the logits as they are and two numbers a row, the
// maximum and the logarithm of the sum behind it: their sum alone would round away the digits of the loss
// where logits are large.
#pragma once
#include "kernels/types.h"

namespace hd {

struct SymArgs {
  const float* x;   // [size]
  const float* dy;  // [size] backward only
  float* y;         // [size] value, or dx in the backward
  int64_t size;
};

struct TwohotLossArgs {
  const float* logit;   // [rows, cols]
  const float* target;  // [targets, rows] in reward units
  const float* bins;    // [cols] ascending
  const float* dloss;   // [targets, rows] backward only
  float* loss;          // [targets, rows] forward only
  float* stats;         // [rows, 2] maximum and log-sum; out in the forward, in in the backward
  float* dlogit;        // [rows, cols] backward only
  int64_t targets, rows, cols;
};

struct TwohotMeanArgs {
  const float* logit;  // [rows, cols]
  const float* bins;   // [cols]
  const float* dmean;  // [rows] backward only
  float* mean;         // [rows] forward only
  float* center;       // [rows] expected bin; out in the forward, in in the backward
  float* stats;        // [rows, 2] maximum and log-sum, likewise
  float* dlogit;       // [rows, cols] backward only
  int64_t rows, cols;
};

// Ranges are of elements, or of rows.
HD_ENTRY(symlog_fwd, SymArgs)
HD_ENTRY(symlog_bwd, SymArgs)
HD_ENTRY(symexp_fwd, SymArgs)
HD_ENTRY(symexp_bwd, SymArgs)
HD_ENTRY(twohot_loss_fwd, TwohotLossArgs)
HD_ENTRY(twohot_loss_bwd, TwohotLossArgs)
HD_ENTRY(twohot_mean_fwd, TwohotMeanArgs)
HD_ENTRY(twohot_mean_bwd, TwohotMeanArgs)

}  // namespace hd
