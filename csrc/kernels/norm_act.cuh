// Kernels of norm_act; equations in norm_act.h.
//
// Tiling: LANES lanes hold a row in registers, 16 bytes a load, ITER loads a lane; both passes of the
// statistics (mean, then squared deviations, so no cancellation) cost no memory traffic. NHWC pixels of 32
// channels take 8 lanes (fp32) or 4 (bf16), so a warp works on 4 to 8 rows; 256 channels and more take a
// warp. Rows up to 1024 elements; longer or unaligned ones go through the row kernels, which re-read the row
// from L1/L2 with a block.
//
// Forward moves 2 elements per element (x in, y out); backward 3 (dy, x in, dx out) plus 2 * parts * cols
// floats of column partials. Backward is persistent: at most two blocks per SM, each with a contiguous slice
// of rows, its column sums in registers until the end; a second launch adds the slices in order. No atomics,
// one order of every sum.
#pragma once
#include "device/hd_columns.h"
#include "kernels/layer_norm.cuh"

namespace hd {

constexpr int NORM_THREADS = 256;
constexpr int NORM_WARPS = NORM_THREADS / 32;
constexpr int NORM_MAX_COLS = 1024;      // held in registers: 32 elements a lane
constexpr int64_t NORM_MAX_PARTS = 264;  // two blocks on each of 132 SMs

template <class T, int LANES, int ITER>
__global__ void __launch_bounds__(NORM_THREADS) norm_act_fwd_kernel(NormActFwdArgs a) {
  constexpr int VEC = 16 / int(sizeof(T)), ROWS = NORM_THREADS / LANES;
  const int lane = int(threadIdx.x) % LANES;
  const int64_t row = int64_t(blockIdx.x) * ROWS + threadIdx.x / LANES;
  const bool live = row < a.rows;  // idle lanes still take part in the shuffles
  const T* x = static_cast<const T*>(a.x) + row * a.cols;

  float v[ITER][VEC], sum = 0.f;
#pragma unroll
  for (int i = 0; i < ITER; ++i) {
    const int64_t c = int64_t(i * LANES + lane) * VEC;
    if (live && c < a.cols) {
      load(x + c, v[i]);
#pragma unroll
      for (int j = 0; j < VEC; ++j) sum += v[i][j];
    }
  }
  const float mean = warp_sum<LANES>(sum) / float(a.cols);
  float squares = 0.f;
#pragma unroll
  for (int i = 0; i < ITER; ++i) {
    const int64_t c = int64_t(i * LANES + lane) * VEC;
    if (live && c < a.cols) {
#pragma unroll
      for (int j = 0; j < VEC; ++j) squares += (v[i][j] - mean) * (v[i][j] - mean);
    }
  }
  const float rstd = rsqrtf(warp_sum<LANES>(squares) / float(a.cols) + NORM_EPS);
  if (!live) return;
  T* y = static_cast<T*>(a.y) + row * a.cols;
#pragma unroll
  for (int i = 0; i < ITER; ++i) {
    const int64_t c = int64_t(i * LANES + lane) * VEC;
    if (c >= a.cols) continue;
    float scale[VEC], bias[VEC];
    load(a.scale + c, scale);
    load(a.bias + c, bias);
#pragma unroll
    for (int j = 0; j < VEC; ++j) v[i][j] = silu((v[i][j] - mean) * rstd * scale[j] + bias[j]);
    store(y + c, v[i]);
  }
  if (lane == 0) a.mean[row] = mean, a.rstd[row] = rstd;
}

// Adds up one column partial per lane and element over the rows of the block and writes slice `part`. Rows of
// one warp meet through shuffles, the warps in shared memory.
template <int LANES, int ITER, int VEC>
__device__ __forceinline__ void norm_column_sums(float (&sums)[ITER][VEC], float* out, int64_t cols) {
  HD_SHARED(float, tile, [NORM_WARPS][ITER * LANES * VEC]);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < ITER; ++i)
#pragma unroll
    for (int j = 0; j < VEC; ++j)
#pragma unroll
      for (int d = 16; d >= LANES; d /= 2) sums[i][j] += __shfl_xor_sync(0xffffffffu, sums[i][j], d);
  __syncthreads();  // the previous use of the tile is over
  if (lane < LANES) {
#pragma unroll
    for (int i = 0; i < ITER; ++i)
#pragma unroll
      for (int j = 0; j < VEC; ++j) tile[warp][(i * LANES + lane) * VEC + j] = sums[i][j];
  }
  if (HD_MUTATE(NORM_BARRIER, true, false)) __syncthreads();
  for (int64_t c = threadIdx.x; c < cols; c += NORM_THREADS) {
    float total = 0.f;
#pragma unroll
    for (int w = 0; w < NORM_WARPS; ++w) total += tile[w][c];
    out[c] = total;
  }
}

// One block per slice of rows. xhat and the gradient of z stay in registers between the row sums and dx.
template <class T, int LANES, int ITER>
__global__ void __launch_bounds__(NORM_THREADS) norm_act_bwd_kernel(NormActBwdArgs a) {
  constexpr int VEC = 16 / int(sizeof(T)), ROWS = NORM_THREADS / LANES;
  const int lane = int(threadIdx.x) % LANES, slot = int(threadIdx.x) / LANES;
  const int64_t part = blockIdx.x;
  const int64_t begin = part * a.rows / a.parts;
  const int64_t end = HD_MUTATE(NORM_LAST_ROW, (part + 1) * a.rows / a.parts, (part + 1) * a.rows / a.parts - 1);
  const float inverse = 1.f / float(a.cols);

  float dscale[ITER][VEC] = {}, dbias[ITER][VEC] = {};
  for (int64_t first = begin; first < end; first += ROWS) {
    const int64_t row = first + slot;
    const bool live = row < end;
    const Moments norm{live ? a.mean[row] : 0.f, live ? a.rstd[row] : 0.f};
    float xhat[ITER][VEC], grad[ITER][VEC], sum = 0.f, dot = 0.f;
#pragma unroll
    for (int i = 0; i < ITER; ++i) {
      const int64_t c = int64_t(i * LANES + lane) * VEC;
      if (live && c < a.cols) {
        float scale[VEC], bias[VEC];
        load(static_cast<const T*>(a.x) + row * a.cols + c, xhat[i]);
        load(static_cast<const T*>(a.dy) + row * a.cols + c, grad[i]);
        load(a.scale + c, scale);
        load(a.bias + c, bias);
#pragma unroll
        for (int j = 0; j < VEC; ++j) {
          const NormActGrad g = norm_act_grad(xhat[i][j], grad[i][j], norm, scale[j], bias[j]);
          dscale[i][j] += g.dz * g.xhat;
          dbias[i][j] += g.dz;
          xhat[i][j] = g.xhat, grad[i][j] = g.dz * scale[j];
          sum += grad[i][j];
          dot += grad[i][j] * xhat[i][j];
        }
      }
    }
    sum = warp_sum<LANES>(sum) * inverse;
    dot = warp_sum<LANES>(dot) * inverse;
#pragma unroll
    for (int i = 0; i < ITER; ++i) {
      const int64_t c = int64_t(i * LANES + lane) * VEC;
      if (live && c < a.cols) {
#pragma unroll
        for (int j = 0; j < VEC; ++j) grad[i][j] = norm.rstd * (grad[i][j] - sum - xhat[i][j] * dot);
        store(static_cast<T*>(a.dx) + row * a.cols + c, grad[i]);
      }
    }
  }
  norm_column_sums<LANES>(dscale, a.partial + part * 2 * a.cols, a.cols);
  norm_column_sums<LANES>(dbias, a.partial + (part * 2 + 1) * a.cols, a.cols);
}

// ---- rows of any length and alignment: one block per row, element by element ----

template <class T>
__global__ void __launch_bounds__(NORM_THREADS) norm_act_fwd_row_kernel(NormActFwdArgs a) {
  const int64_t row = blockIdx.x;
  const T* x = static_cast<const T*>(a.x) + row * a.cols;
  T* y = static_cast<T*>(a.y) + row * a.cols;
  const Moments norm = row_moments(x, a.cols);
  for (int64_t c = threadIdx.x; c < a.cols; c += blockDim.x)
    y[c] = from_float<T>(silu((to_float(x[c]) - norm.mean) * norm.rstd * a.scale[c] + a.bias[c]));
  if (threadIdx.x == 0) a.mean[row] = norm.mean, a.rstd[row] = norm.rstd;
}

// The column partials are read and written in global memory, each element by one thread only.
template <class T>
__global__ void __launch_bounds__(NORM_THREADS) norm_act_bwd_row_kernel(NormActBwdArgs a) {
  const int64_t part = blockIdx.x, begin = part * a.rows / a.parts, end = (part + 1) * a.rows / a.parts;
  float *dscale = a.partial + part * 2 * a.cols, *dbias = dscale + a.cols;
  for (int64_t c = threadIdx.x; c < a.cols; c += blockDim.x) dscale[c] = dbias[c] = 0.f;
  for (int64_t row = begin; row < end; ++row) {
    const T *x = static_cast<const T*>(a.x) + row * a.cols, *dy = static_cast<const T*>(a.dy) + row * a.cols;
    T* dx = static_cast<T*>(a.dx) + row * a.cols;
    const Moments norm{a.mean[row], a.rstd[row]};
    const auto grad = [&](int64_t c) {
      return norm_act_grad(to_float(x[c]), to_float(dy[c]), norm, a.scale[c], a.bias[c]);
    };
    float sums[2] = {0.f, 0.f};
    for (int64_t c = threadIdx.x; c < a.cols; c += blockDim.x) {
      const NormActGrad g = grad(c);
      dscale[c] += g.dz * g.xhat;
      dbias[c] += g.dz;
      sums[0] += g.dz * a.scale[c];
      sums[1] += g.dz * a.scale[c] * g.xhat;
    }
    block_sums(sums);
    for (int64_t c = threadIdx.x; c < a.cols; c += blockDim.x) {
      const NormActGrad g = grad(c);
      dx[c] = from_float<T>(norm.rstd * (g.dz * a.scale[c] - (sums[0] + g.xhat * sums[1]) / float(a.cols)));
    }
  }
}

}  // namespace hd
