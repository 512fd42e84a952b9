// cont_loss.h -- negative log-likelihood of "the episode goes on" under a Bernoulli logit: arguments and
// entry points.
//
//   loss = softplus(z),  z = -logit where cont > 1/2 else logit;   backward: dlogit = dloss
//       (sigmoid(logit) - [cont > 1/2])
//
// Element by element: 8 B read and 4 written forward, 12 and 4 backward. Saved for backward: the inputs as
// they are.
#pragma once
#include "kernels/types.h"

namespace hd {

struct ContLossArgs {
  const float* logit;  // [size]
  const float* cont;   // [size]
  const float* dloss;  // [size] backward only
  float* out;          // [size] loss, or dlogit in the backward
  int64_t size;
};

// Ranges are of elements.
HD_ENTRY(cont_loss_fwd, ContLossArgs)
HD_ENTRY(cont_loss_bwd, ContLossArgs)

}  // namespace hd
