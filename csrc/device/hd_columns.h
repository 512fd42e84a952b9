// hd_columns.h -- deterministic column sums, second stage: parameter gradients from per-block partials.
//
// Stage one, in each backward kernel, leaves partial[blocks][columns]; this adds the blocks up. A thread
// block takes 32 columns in 8 strips, each strip a fixed subset of the partials in ascending order, the
// strips added in order: no atomics, one order of every sum. Reads 4 B per partial, coalesced over columns.
#pragma once
#include "hd.h"

namespace hd {

constexpr int COLUMN_TILE = 32, COLUMN_STRIPS = 8;

static __global__ void column_sum_kernel(const float* partial, float* out0, float* out1, int64_t split, int64_t columns,
                                         int blocks) {
  HD_SHARED(float, strips, [COLUMN_STRIPS][COLUMN_TILE]);
  int tx = threadIdx.x % COLUMN_TILE, ty = threadIdx.x / COLUMN_TILE;
  int64_t column = int64_t(blockIdx.x) * COLUMN_TILE + tx;
  float sum = 0;
  if (column < columns) {
    for (int b = ty; b < HD_MUTATE(COLUMN_SUM_LAST, blocks, blocks - 1); b += COLUMN_STRIPS)
      sum += partial[int64_t(b) * columns + column];
  }
  strips[ty][tx] = sum;
  __syncthreads();
  if (ty == 0 && column < columns) {
    float total = 0;
#pragma unroll
    for (int s = 0; s < COLUMN_STRIPS; ++s) total += strips[s][tx];
    if (column < split) out0[column] = total;
    else out1[column - split] = total;
  }
}

// out0 gets the sums of the first `split` columns, out1 those of the rest.
static inline void launch_column_sum(const float* partial, float* out0, float* out1, int64_t split, int64_t columns,
                                     int blocks, hdStream stream) {
  if (columns == 0) return;
  HD_LAUNCH(column_sum_kernel, unsigned(ceil_div(columns, COLUMN_TILE)), COLUMN_TILE * COLUMN_STRIPS, 0, stream,
            partial, out0, out1, split, columns, blocks);
}

}  // namespace hd
