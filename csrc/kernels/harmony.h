// harmony.h -- harmonized mean of the world-model losses and its gradients: arguments and entry points.
//
// With L the five loss means (reward, image, dyn, rep, cont) and a = dyn_share:
//   rectified, plain : terms = e^-s0 L_reward + reg(s0), e^-s1 L_image + reg(s1),
//                              e^-s2 (a L_dyn + (1 - a) L_rep) + a reg(s2);   total = sum terms + L_cont
//   reg(s) = log(1 + e^s) (rectified) or s (plain), slope sigmoid(s) or 1
//   off              : total = sum_i scale_i L_i without s,  terms = scale_0 L_reward, scale_1 L_image, both of KL
//   backward, t_j = dtotal + dterms_j: an element of loss i gets coef_i = t_j(i) weight_i / n (cont: dtotal / n),
//              ds_j = t_j (share_j reg'(s_j) - e^-s_j L_j),  L_2 = a L_dyn + (1 - a) L_rep,  share = 1, 1, a
//
// One pass over 20 B an element (1024 elements: 20 KB); the backward is arithmetic on 13 numbers, because the
// gradient of a mean is one number per loss.
#pragma once
#include "kernels/types.h"

namespace hd {

constexpr int HARMONY_LOSSES = 5;  // reward, image, dyn, rep, cont
constexpr int HARMONY_TERMS = 3;   // reward, image, kl

enum class HarmonyMode : int32_t { Rectified = 0, Plain = 1, Off = 2 };

struct HarmonyArgs {
  const float* loss[HARMONY_LOSSES];  // [size] each, forward only
  const float* s;                     // [3], null in mode Off
  float* total;                       // [1] forward only
  float* terms;                       // [3] forward only
  float* mean;                        // [5] loss means; out in the forward, in in the backward
  const float* dtotal;                // [1] backward only, as are the rest
  const float* dterms;                // [3]; null: zero
  float* coef;                        // [5] gradient of every element of each loss
  float* ds;                          // [3], zeros in mode Off
  int64_t size;                       // >= 1
  HarmonyMode mode;
  float dyn_share, rep_share;   // rep_share = 1 - dyn_share, subtracted in double
  float scale[HARMONY_LOSSES];  // fixed weights, mode Off only
};

void launch_harmony_fwd(const HarmonyArgs& args, hdStream stream);
void launch_harmony_bwd(const HarmonyArgs& args, hdStream stream);

namespace cpu {
void harmony_fwd(const HarmonyArgs& args);
void harmony_bwd(const HarmonyArgs& args);
}  // namespace cpu

}  // namespace hd
