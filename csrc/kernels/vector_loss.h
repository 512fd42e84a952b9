// vector_loss.h -- squared symlog error summed over the features of a vector: arguments and entry points.
//
//   e_ni = recon_ni - symlog(vector_ni), 0 where e_ni^2 < 1e-8;  loss_n = sum_i e_ni^2;  backward: drecon = 2 dloss_n e
//
// Bytes a feature: 8 read forward, 8 read and 4 written backward. Saved for backward: the inputs as they are.
#pragma once
#include "kernels/types.h"

namespace hd {

constexpr float VECTOR_UNSEEN = 1e-8f;

struct VectorLossArgs {
  const float* recon;   // [rows, cols] in symlog units
  const float* vector;  // [rows, cols] raw
  const float* dloss;   // [rows] backward only
  float* loss;          // [rows] forward only
  float* drecon;        // [rows, cols] backward only
  int64_t rows, cols;
};

// Ranges are of rows.
HD_ENTRY(vector_loss_fwd, VectorLossArgs)
HD_ENTRY(vector_loss_bwd, VectorLossArgs)

}  // namespace hd
