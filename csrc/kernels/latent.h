// latent.h -- categorical latents: uniform mixing, inverse-CDF sample, straight-through gradient; arguments,
// entry points.
//
// Per group of K classes:  s = softmax(logit + bias),  q = (1 - mix) s + mix / K,  logp = log q
//   index = min(#{k : cdf_k <= u}, K - 1) with cdf the running sum of q;  onehot_index = 1
//   backward, the sample passing its gradient to q:  w = donehot + dlogp / q
//     dlogit = (1 - mix) s (w - sum_k s w)
// With `normalized` the input is logp itself: q = exp(logp), no softmax and no mixing; the backward is then
//   dlogit = donehot q + dlogp.
// So one pair of kernels serves unimix (u null), sample_latent (normalized) and the two in one pass.
//
// Bytes moved per class: forward one read and one write for each wanted output; backward one read for each
// gradient given, one of logit, one write.
#pragma once
#include "kernels/types.h"

namespace hd {

constexpr int64_t LATENT_MAX_CLASSES = 1024;

struct LatentFwdArgs {
  const void* logit;  // (groups, classes) dtype
  const float* u;     // (groups) uniforms in [0, 1); null: no sample
  void* logp;         // (groups, classes) dtype; null where not wanted
  void* onehot;       // onehot_dtype, row_groups groups in every onehot_stride; null where not wanted
  int64_t* index;     // (groups); null where not wanted
  int64_t groups, classes;
  float mix;
  bool normalized;
  DType dtype;
  int64_t row_groups = 1, onehot_stride = classes;
  DType onehot_dtype = dtype;
  const float* bias = nullptr;  // (row_groups, classes), the same for every row of groups; null: none
};

struct LatentBwdArgs {
  const void* logit;    // (groups, classes) dtype
  const void* donehot;  // (groups, classes) dtype; null: zero
  const void* dlogp;    // (groups, classes) dtype; null: zero
  void* dlogit;         // (groups, classes) dlogit_dtype
  int64_t groups, classes;
  float mix;
  bool normalized;
  DType dtype;
  DType dlogit_dtype = dtype;
  const float* bias = nullptr;  // (row_groups, classes)
  int64_t row_groups = 1;
};

// At most LATENT_MAX_CLASSES classes; groups == 0 is allowed. Ranges are of groups.
HD_ENTRY(latent_fwd, LatentFwdArgs)
HD_ENTRY(latent_bwd, LatentBwdArgs)

}  // namespace hd
