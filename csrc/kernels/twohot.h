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

void launch_symlog_fwd(const SymArgs& args, hdStream stream);
void launch_symlog_bwd(const SymArgs& args, hdStream stream);
void launch_symexp_fwd(const SymArgs& args, hdStream stream);
void launch_symexp_bwd(const SymArgs& args, hdStream stream);
void launch_twohot_loss_fwd(const TwohotLossArgs& args, hdStream stream);
void launch_twohot_loss_bwd(const TwohotLossArgs& args, hdStream stream);
void launch_twohot_mean_fwd(const TwohotMeanArgs& args, hdStream stream);
void launch_twohot_mean_bwd(const TwohotMeanArgs& args, hdStream stream);

namespace cpu {  // each on elements or rows [begin, end)
void symlog_fwd(const SymArgs& args, int64_t begin, int64_t end);
void symlog_bwd(const SymArgs& args, int64_t begin, int64_t end);
void symexp_fwd(const SymArgs& args, int64_t begin, int64_t end);
void symexp_bwd(const SymArgs& args, int64_t begin, int64_t end);
void twohot_loss_fwd(const TwohotLossArgs& args, int64_t begin, int64_t end);
void twohot_loss_bwd(const TwohotLossArgs& args, int64_t begin, int64_t end);
void twohot_mean_fwd(const TwohotMeanArgs& args, int64_t begin, int64_t end);
void twohot_mean_bwd(const TwohotMeanArgs& args, int64_t begin, int64_t end);
}  // namespace cpu

}  // namespace hd
