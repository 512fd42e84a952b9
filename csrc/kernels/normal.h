// normal.h -- the policy over continuous actions, a diagonal normal distribution: arguments and entry points.
//
//   policy:   mean = tanh(mean_raw),  std = 0.9 sigmoid(std_raw + 2) + 0.1
//     backward: dmean_raw = dmean (1 - mean^2);  dstd_raw = dstd 0.9 t (1 - t), t = sigmoid(std_raw + 2)
//   log_prob: z_i = (action_i - mean_i) / std_i,  logp = sum_i -z_i^2 / 2 - log std_i - log(2 pi) / 2,
//             ent = sum_i log std_i + (1 + log(2 pi)) / 2
//     backward: dmean = dlogp z / std;  dstd = (dlogp (z^2 - 1) + dent) / std;  the action has no gradient
//   sample:   action = mean + std noise of raw outputs with their biases added,  taken = action / max(1, |action|)
//
// Rows are of A actions, up to some 40. Bytes per action: policy 16 forward, 24 backward; log_prob 12 and 20;
// sample 20. Saved for backward: the inputs as they are.
#pragma once
#include "kernels/types.h"

namespace hd {

constexpr float NORMAL_LEAST = 0.1f, NORMAL_RANGE = 0.9f, NORMAL_SHIFT = 2.f;  // of std
constexpr float NORMAL_CONSTANT = 0.918938533f;                                // log(2 pi) / 2

struct NormalPolicyArgs {
  const float* mean_raw;  // [size]
  const float* std_raw;   // [size]
  const float* dmean;     // [size] backward only, as is dstd
  const float* dstd;      // [size]
  float* mean;            // [size]; in the backward the gradient of mean_raw
  float* std;             // [size]; in the backward the gradient of std_raw
  int64_t size;
};

struct NormalLogProbArgs {
  const float* mean;    // [rows, actions]
  const float* std;     // [rows, actions]
  const float* action;  // [rows, actions]
  float* logp;          // [rows] forward only, as is ent
  float* ent;           // [rows]
  const float* dlogp;   // [rows]; null: zero; backward only, as are the rest
  const float* dent;    // [rows]; null: zero
  float* dmean;         // [rows, actions]
  float* dstd;          // [rows, actions]
  int64_t rows, actions;
};

struct NormalSampleArgs {
  const float* mean_raw;   // [rows, actions]
  const float* std_raw;    // [rows, actions]
  const float* mean_bias;  // [actions]
  const float* std_bias;   // [actions]
  const float* noise;      // [rows, actions] standard normals
  float* action;           // [rows, actions]
  void* taken;             // [rows, actions] dtype
  int64_t rows, actions;
  DType dtype;
};

// Ranges of normal_policy are of numbers, the others' of rows.
HD_ENTRY(normal_policy_fwd, NormalPolicyArgs)
HD_ENTRY(normal_policy_bwd, NormalPolicyArgs)
HD_ENTRY(normal_log_prob_fwd, NormalLogProbArgs)
HD_ENTRY(normal_log_prob_bwd, NormalLogProbArgs)
HD_ENTRY(normal_sample, NormalSampleArgs)

}  // namespace hd
