// norm_act.h -- LayerNorm over the last axis, then SiLU: arguments and entry points of every implementation.
//
//   xhat = (x - mean) * rstd,  rstd = 1 / sqrt(var + 1e-3),  z = xhat * scale + bias,  y = z * sigmoid(z)
//   s = sigmoid(z),  g = dy * s * (1 + z * (1 - s)),  dbias = sum_rows g,  dscale = sum_rows g * xhat
//   dx = rstd * (g * scale - mean_row(g * scale) - xhat * mean_row(g * scale * xhat))
//
// x, y, dy, dx are (rows, cols) contiguous in `dtype`; everything else is float. Bytes moved: forward reads x
// and writes y; backward reads dy and x, writes dx; statistics (rows) and parameters (cols) are small beside
// them.
#pragma once
#include "kernels/types.h"

namespace hd {

constexpr float NORM_EPS = 1e-3f;

struct NormActFwdArgs {
  const void* x;       // (rows, cols) dtype
  const float* scale;  // (cols)
  const float* bias;   // (cols)
  void* y;             // (rows, cols) dtype
  float* mean;         // (rows)
  float* rstd;         // (rows)
  int64_t rows, cols;
  DType dtype;
};

struct NormActBwdArgs {
  const void* dy;      // (rows, cols) dtype
  const void* x;       // (rows, cols) dtype
  const float* mean;   // (rows)
  const float* rstd;   // (rows)
  const float* scale;  // (cols)
  const float* bias;   // (cols)
  void* dx;            // (rows, cols) dtype
  float* dscale;       // (cols)
  float* dbias;        // (cols)
  float* partial;      // (parts, 2, cols) scratch: sums of g * xhat and of g over a slice of rows
  int64_t parts;       // slices, from norm_act_parts; slice p is rows [p*rows/parts, (p+1)*rows/parts)
  int64_t rows, cols;
  DType dtype;
};

// Device: rows == 0 or cols == 0 is allowed (dscale and dbias become 0). `norm_act_parts` depends on the
// shape alone, so that sums come in the same order on every device.
int64_t norm_act_parts(int64_t rows, int64_t cols);
HD_ENTRY(norm_act_fwd, NormActFwdArgs)
HD_ENTRY(norm_act_bwd, NormActBwdArgs)

namespace cpu {
// The forward pass takes a range of rows; the backward pass a range of slices, then `norm_act_bwd_finish`
// once.
int64_t norm_act_parts(int64_t rows, int64_t cols);
void norm_act_bwd_finish(const NormActBwdArgs& args);
}  // namespace cpu

}  // namespace hd
