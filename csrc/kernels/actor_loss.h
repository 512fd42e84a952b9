// actor_loss.h -- REINFORCE with an entropy bonus, per element: arguments and entry points.
//
//   logp = logit[action];  ent = -sum_k e^logit_k logit_k;  loss = weight (-logp advantage - entropy ent)
//   backward: to_logp = dlogp - dloss weight advantage;  to_ent = dent - dloss weight entropy
//             dlogit_k = [k = action] to_logp - to_ent e^logit_k (logit_k + 1)
//
// logit are log-probabilities; advantage and weight carry no gradient. Bytes per row: 4 A read forward, 4 A
// read and 4 A written backward, A <= 18 for Atari. Saved for backward: the inputs as they are.
#pragma once
#include "kernels/types.h"

namespace hd {

struct ActorLossArgs {
  const float* logit;      // [rows, actions]
  const int64_t* action;   // [rows]; outside [0, actions) gives NaN
  const float* advantage;  // [rows]
  const float* weight;     // [rows]
  float* loss;             // [rows] forward only, as are logp and ent
  float* logp;             // [rows]
  float* ent;              // [rows]
  const float* dloss;      // [rows] backward only, as are dlogp, dent and dlogit
  const float* dlogp;      // [rows]; null: zero
  const float* dent;       // [rows]; null: zero
  float* dlogit;           // [rows, actions]
  int64_t rows, actions;
  float entropy;
};

// Ranges are of rows.
HD_ENTRY(actor_loss_fwd, ActorLossArgs)
HD_ENTRY(actor_loss_bwd, ActorLossArgs)

}  // namespace hd
