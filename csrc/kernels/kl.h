// kl.h -- balanced KL with free nats: values and both gradients in one pass; arguments and entry points.
//
// Per row, over S groups of K classes, with P the posterior and Q the prior:
//   kl = sum qP (log qP - log qQ),   dyn = rep = max(kl, free_nats),   on = [kl >= free_nats]
// dyn's gradient goes to the prior alone, rep's to the posterior alone, scaled by ddyn and drep:
//   inputs are log-probabilities:  dprior = -on ddyn qP          dpost = on drep qP (log qP - log qQ + 1)
//   inputs are logits (`logits`): q = (1 - mix) softmax + mix / K, and through its Jacobian
//     dprior = (1 - mix) sQ (w - sum sQ w),  w = -on ddyn qP / qQ
//     dpost  = (1 - mix) sP (w - sum sP w),  w =  on drep (log qP - log qQ)
// In the learner ddyn and drep are known before the forward pass (they depend on the harmony scalars only),
// so one call gives everything. Bytes moved per class: two reads from memory (the second pass hits L1) and
// one write per gradient.
#pragma once
#include "kernels/types.h"

namespace hd {

constexpr int64_t KL_MAX_CLASSES = 512;

struct BalancedKlArgs {
  const void* post;   // (rows, groups, classes) dtype
  const void* prior;  // (rows, groups, classes) dtype
  const float* ddyn;  // (rows); null: 1
  const float* drep;  // (rows); null: 1
  float* dyn;         // (rows); null where not wanted, like all outputs
  float* rep;         // (rows)
  float* kl;          // (rows)
  void* dpost;        // (rows, groups, classes) dtype
  void* dprior;       // (rows, groups, classes) dtype
  int64_t rows, groups, classes;
  float free_nats, mix;
  bool logits;
  DType dtype;
};

// At most KL_MAX_CLASSES classes; rows == 0 is allowed.
void launch_balanced_kl(const BalancedKlArgs& args, hdStream stream);

namespace cpu {
void balanced_kl(const BalancedKlArgs& args, int64_t row_begin, int64_t row_end);
}  // namespace cpu

}  // namespace hd
