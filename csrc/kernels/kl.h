// kl.h -- balanced KL with free nats: values and both gradients in one pass; arguments and entry points.
//
// Per row, over S groups of K classes of log-probabilities, P the posterior's and Q the prior's:
//   kl = sum e^P (P - Q),   dyn = rep = max(kl, free_nats),   on = [kl >= free_nats]
// dyn's gradient goes to the prior alone, rep's to the posterior alone, scaled by ddyn and drep:
//   dprior = -on ddyn e^P,   dpost = on drep e^P (P - Q + 1)
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
  float free_nats;
  DType dtype;
};

// At most KL_MAX_CLASSES classes; rows == 0 is allowed. Ranges are of rows.
HD_ENTRY(balanced_kl, BalancedKlArgs)

}  // namespace hd
