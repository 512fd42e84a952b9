// gru_gates.h -- LayerNorm over the joint 3D pre-activations, then the GRU's gates: arguments and entry
// points.
//
//   [r, c, u] = (x - mean) * rstd * scale + bias,   reset = sigmoid(r),  update = sigmoid(u - 1)
//   cand = tanh(reset * c),   next = update * cand + (1 - update) * deter
//   backward: dt = dnext * update * (1 - cand^2);  dr = dt * c * reset * (1 - reset);  dc = dt * reset
//             du = dnext * (cand - deter) * update * (1 - update);  ddeter = dnext * (1 - update)
//   then LayerNorm's backward over [dr, dc, du] with one mean and rstd for all 3D, as in norm_act.h without
//   its SiLU.
//
// Saved: x, deter and the row statistics; the gates are computed again. Bytes moved per row: forward 3D of x,
// D of deter, D of next; backward 3D of x and dx, D of deter, dnext and ddeter.
#pragma once
#include "kernels/types.h"

namespace hd {

struct GruGatesFwdArgs {
  const void* x;       // (rows, 3, size) dtype: reset, cand, update
  const float* deter;  // (rows, size)
  const float* scale;  // (3, size)
  const float* bias;   // (3, size)
  float* next;         // (rows, size)
  void* next_copy;     // (rows, copy_stride) copy_dtype, the next GEMM's operand; null where not wanted
  float* mean;         // (rows)
  float* rstd;         // (rows)
  int64_t rows, size;
  DType dtype;
  int64_t copy_stride = size;
  DType copy_dtype = dtype;
};

struct GruGatesBwdArgs {
  const float* dnext;  // (rows, size)
  const void* x;       // (rows, 3, size) dtype
  const float* deter;  // (rows, size)
  const float* mean;   // (rows)
  const float* rstd;   // (rows)
  const float* scale;  // (3, size)
  const float* bias;   // (3, size)
  void* dx;            // (rows, 3, size) dx_dtype
  float* ddeter;       // (rows, size)
  float* dscale;       // (3, size); null: the slices' sums stay in `partial`, for the caller to add up
  float* dbias;        // (3, size)
  float* partial;      // (parts, 2, 3 * size) scratch, uninitialized
  int64_t parts;       // from gru_gates_parts, or any number where dscale is null
  int64_t rows, size;
  DType dtype;
  DType dx_dtype = dtype;
};

// rows == 0 or size == 0 is allowed (dscale and dbias become 0). The parts depend on the shape alone.
int64_t gru_gates_parts(int64_t rows, int64_t size);
HD_ENTRY(gru_gates_fwd, GruGatesFwdArgs)
HD_ENTRY(gru_gates_bwd, GruGatesBwdArgs)

namespace cpu {
// The forward pass takes a range of rows; the backward pass a range of slices, then `gru_gates_bwd_finish`
// once.
int64_t gru_gates_parts(int64_t rows, int64_t size);
void gru_gates_bwd_finish(const GruGatesBwdArgs& args);
}  // namespace cpu

}  // namespace hd
