// scan_step.h -- what a step of the recurrence does before and after its first matrix product, in one pass
// each way: arguments and entry points.
//
//   index, or where there is one action: a sample as in latent.h, optionally
//   h = reset ? start : deter,  z = reset ? start_index : index
//   pre += sum_g kernel[g * classes + z_g] + action_kernel[action]
//   joint = [h | y],  y = silu(LN(pre)) as in norm_act.h,  before = h
//   backward, from djoint = [dh | dy] and direct, the gradient of h that does not pass the product:
//     dpre from dy as in norm_act.h;  dmasked = reset ? 0 : dpre
//     dbefore = dh + direct;  carry += reset ? 0 : dbefore
// Without a state (size 0) they are norm_act alone: y of any row stride, and no sum over columns at the end,
// so that a step is one launch; `partial` is summed once, after all steps.
// ops/scan_step.cpp names the combinations that there are: norm (no state), start (all rows from `start`), next (with
// reset, after a sample of the latents), gather and act (after a sample of the action), joint (the state alone).
//
// Products read `joint`, `dpre`, `dmasked` and both kernels in `dtype`; all else is float. Bytes moved per row
// in float32: forward groups * cols of kernel (from L2), cols of pre read and written, size + cols of joint,
// size of deter and before; backward size + cols of djoint, size of direct, dbefore and carry, cols of pre and
// three of the gradients.
#pragma once
#include "kernels/types.h"

namespace hd {

// Three rows, and the 256 bytes of a block's sums, fit the 48 KiB of shared memory that every device gives unasked.
constexpr int64_t SCAN_MAX_COLS = 4064;
// What one launch samples beside the step: a row's groups by its block, the classes of one by a warp.
constexpr int64_t SCAN_MAX_GROUPS = 1024;
constexpr int64_t SCAN_MAX_CLASSES = 32;

struct LatentFwdArgs;  // latent.h

struct ScanInputFwdArgs {
  const float* deter;          // (rows, size) state before the step; null: start everywhere
  const int64_t* index;        // (rows, groups) of the latents; null: start_index everywhere
  const int64_t* action;       // (rows); null: none is added
  const bool* reset;           // (rows); null: never
  const float* start;          // (size); null only where deter is given and reset is not
  const int64_t* start_index;  // (groups); null likewise
  const void* kernel;          // (groups * classes, cols) dtype
  const void* action_kernel;   // (actions, cols) dtype
  const float* scale;          // (cols)
  const float* bias;           // (cols)
  float* pre;                  // (rows, cols), read where `accumulate`
  float* before;               // (rows, size); null where not wanted
  void* joint;                 // (rows, stride) dtype, of which size + cols are written
  float* mean;                 // (rows)
  float* rstd;                 // (rows)
  int64_t rows, size, cols, stride, groups, classes, actions;
  bool accumulate;
  DType dtype;
};

struct ScanInputBwdArgs {
  const float* djoint;  // (rows, size + cols)
  const float* direct;  // (rows, size)
  const bool* reset;    // (rows); null: never
  const float* pre;     // (rows, cols)
  const float* mean;    // (rows)
  const float* rstd;    // (rows)
  const float* scale;   // (cols)
  const float* bias;    // (cols)
  void* dpre;           // (rows, cols) dtype
  void* dmasked;        // (rows, cols) dtype; null where not wanted
  float* dbefore;       // (rows, size); null where not wanted
  float* carry;         // (rows, size), added to; null where not wanted
  float* partial;       // (parts, 2, cols): sums of the gradients of scale and bias over a slice of rows
  int64_t rows, size, cols, parts;
  DType dtype;
};

// An index out of its range makes its row NaN. rows == 0 is allowed in the forward; the backward writes all
// parts, slice p being rows [p * rows / parts, (p + 1) * rows / parts).
//
// `sample`, of float logits and `row_groups` groups a row, at most the numbers above, is taken first, and the step
// goes on from it: it is the action where there are any, else the latents. Its `index` must be args.action or
// args.index. Null: nothing is sampled. On the CPU the caller samples; ranges are of rows, or of parts.
void launch_scan_input_fwd(const ScanInputFwdArgs& args, const LatentFwdArgs* sample, hdStream stream);
HD_ENTRY(scan_input_bwd, ScanInputBwdArgs)

namespace cpu {
void scan_input_fwd(const ScanInputFwdArgs& args, int64_t row_begin, int64_t row_end);
}  // namespace cpu

}  // namespace hd
