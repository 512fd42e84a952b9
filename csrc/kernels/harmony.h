// harmony.h -- harmonized mean of the world-model losses and its gradients: arguments and entry points.
//
// Loss i with mean L_i belongs to the term place_i, or to none (-1). With share_i and reg_j as weights:
//   weight_i = share_i e^-s_place_i, or share_i without s or place
//   term_j = sum_{place_i = j} weight_i L_i + reg_j reg(s_j),   total = sum_j term_j + sum_{place_i = -1} weight_i L_i
//   reg(s) = log(1 + e^s) or, plain, s; none without s.  slope = sigmoid(s) or 1
//   backward, t_j = dtotal + dterm_j: an element of loss i gets coef_i = t_place_i weight_i / n (no place: dtotal),
//             ds_j = t_j (reg_j slope_j - sum_{place_i = j} weight_i L_i)
// The KL has the losses dyn and rep in one place with shares a and 1 - a, and reg a. Fixed weights are all share, a
// place for each loss. A term without a loss has reg 0, so that it and its gradient are 0.
//
// One pass over 4 B an element and loss (1024 elements of 5 losses: 20 KB); the backward is arithmetic on a few
// numbers, because the gradient of a mean is one number per loss.
#pragma once
#include "kernels/types.h"

namespace hd {

constexpr int HARMONY_MAX = 16;  // losses, and terms

struct HarmonyArgs {
  const float* loss[HARMONY_MAX];  // [size] each, forward only
  const float* s;                  // [terms]; null: fixed weights
  float* total;                    // [1] forward only
  float* term;                     // [terms] forward only
  float* mean;                     // [losses]; out in the forward, in in the backward
  const float* dtotal;             // [1] backward only, as are the rest
  const float* dterms;             // [terms]; null: zero
  float* coef;                     // [losses] gradient of every element of each loss
  float* ds;                       // [terms], zeros without s
  int64_t size;                    // >= 1
  int losses, terms;
  bool plain;
  int place[HARMONY_MAX];    // -1 to terms - 1
  float share[HARMONY_MAX];  // of each loss
  float reg[HARMONY_MAX];    // of each term
};

void launch_harmony_fwd(const HarmonyArgs& args, hdStream stream);
void launch_harmony_bwd(const HarmonyArgs& args, hdStream stream);

namespace cpu {
void harmony_fwd(const HarmonyArgs& args);
void harmony_bwd(const HarmonyArgs& args);
}  // namespace cpu

}  // namespace hd
