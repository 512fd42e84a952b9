// Kernels of gru_gates; equations in gru_gates.h.
//
// Tiling: a block holds one row in registers, four elements of each gate a thread (16-byte loads in fp32,
// 8-byte in bf16), 128 threads for D = 512: in the scan the batch is 16 rows, so the row must be spread wide
// to be quick, and one element's three gates meet in one thread. Backward walks a slice of rows; a thread
// owns its columns, so their sums need no exchange at all. D up to 2048 (a multiple of 4); other sizes go
// through the row kernels, which re-read the row.
#pragma once
#include "device/hd_columns.h"
#include "kernels/gru_gates.h"
#include "kernels/layer_norm.cuh"
#include "kernels/operand.cuh"

namespace hd {

constexpr int GRU_THREADS = 512;
constexpr int GRU_VEC = 4;
constexpr int64_t GRU_MAX_SIZE = GRU_THREADS * GRU_VEC;
constexpr int64_t GRU_MAX_PARTS = 264;

template <class T>
__global__ void __launch_bounds__(GRU_THREADS) gru_gates_fwd_kernel(GruGatesFwdArgs a) {
  const int64_t row = blockIdx.x, c = int64_t(threadIdx.x) * GRU_VEC;
  const bool live = c < a.size;
  const T* x = static_cast<const T*>(a.x) + row * 3 * a.size;
  float v[3][GRU_VEC], sum = 0.f;
  const auto each = [&](const auto& f) {
    if (!live) return;
#pragma unroll
    for (int g = 0; g < 3; ++g)
#pragma unroll
      for (int j = 0; j < GRU_VEC; ++j) f(v[g][j]);
  };
#pragma unroll
  for (int g = 0; g < 3; ++g)
    if (live) load(x + g * a.size + c, v[g]);
  each([&](float one) { sum += one; });
  const Moments norm = block_moments(sum, 3 * a.size, each);
  if (!live) return;
#pragma unroll
  for (int g = 0; g < 3; ++g) {
    float scale[GRU_VEC], bias[GRU_VEC];
    load(a.scale + g * a.size + c, scale);
    load(a.bias + g * a.size + c, bias);
#pragma unroll
    for (int j = 0; j < GRU_VEC; ++j) v[g][j] = (v[g][j] - norm.mean) * norm.rstd * scale[j] + bias[j];
  }
  float h[GRU_VEC];
  load(a.deter + row * a.size + c, h);
#pragma unroll
  for (int j = 0; j < GRU_VEC; ++j)
    h[j] = gru_cell(v[HD_MUTATE(GRU_SWAP, 0, 2)][j], v[1][j], v[HD_MUTATE(GRU_SWAP, 2, 0)][j], h[j]).next;
  store(a.next + row * a.size + c, h);
  if (a.next_copy) store_operand(a.next_copy, row * a.copy_stride + c, a.copy_dtype, h);
  if (threadIdx.x == 0) a.mean[row] = norm.mean, a.rstd[row] = norm.rstd;
}

template <class T>
__global__ void __launch_bounds__(GRU_THREADS) gru_gates_bwd_kernel(GruGatesBwdArgs a) {
  const int64_t part = blockIdx.x, c = int64_t(threadIdx.x) * GRU_VEC;
  const int64_t begin = part * a.rows / a.parts, end = (part + 1) * a.rows / a.parts;
  const bool live = c < a.size;
  const float inverse = 1.f / float(3 * a.size);
  float dscale[3][GRU_VEC] = {}, dbias[3][GRU_VEC] = {};
  for (int64_t row = begin; row < end; ++row) {
    const float mean = a.mean[row], rstd = a.rstd[row];
    float xhat[3][GRU_VEC], grad[3][GRU_VEC], sums[2] = {0.f, 0.f};
    if (live) {
      float z[3][GRU_VEC], h[GRU_VEC], dnext[GRU_VEC];
      load(a.deter + row * a.size + c, h);
      load(a.dnext + row * a.size + c, dnext);
#pragma unroll
      for (int g = 0; g < 3; ++g) {
        float scale[GRU_VEC], bias[GRU_VEC];
        load(static_cast<const T*>(a.x) + (row * 3 + g) * a.size + c, xhat[g]);
        load(a.scale + g * a.size + c, scale);
        load(a.bias + g * a.size + c, bias);
#pragma unroll
        for (int j = 0; j < GRU_VEC; ++j) {
          xhat[g][j] = (xhat[g][j] - mean) * rstd;
          z[g][j] = xhat[g][j] * scale[j] + bias[j];
        }
      }
#pragma unroll
      for (int j = 0; j < GRU_VEC; ++j) {
        const GruGrad d = gru_cell_grad(gru_cell(z[0][j], z[1][j], z[2][j], h[j]), z[1][j], h[j], dnext[j]);
        grad[0][j] = d.reset, grad[1][j] = d.cand, grad[2][j] = d.update;
        h[j] = d.h;
      }
      store(a.ddeter + row * a.size + c, h);
#pragma unroll
      for (int g = 0; g < 3; ++g) {
        float scale[GRU_VEC];
        load(a.scale + g * a.size + c, scale);
#pragma unroll
        for (int j = 0; j < GRU_VEC; ++j) {
          dscale[g][j] += grad[g][j] * xhat[g][j];
          dbias[g][j] += grad[g][j];
          grad[g][j] *= scale[j];
          sums[0] += grad[g][j];
          sums[1] += grad[g][j] * xhat[g][j];
        }
      }
    }
    block_sums(sums);
    if (live) {
#pragma unroll
      for (int g = 0; g < 3; ++g) {
#pragma unroll
        for (int j = 0; j < GRU_VEC; ++j)
          grad[g][j] = rstd * (grad[g][j] - (sums[0] + HD_MUTATE(GRU_MEAN_TERM, xhat[g][j], 0.f) * sums[1]) * inverse);
        store_operand(a.dx, (row * 3 + g) * a.size + c, a.dx_dtype, grad[g]);
      }
    }
  }
  if (!live) return;
#pragma unroll
  for (int g = 0; g < 3; ++g) {
    store(a.partial + (part * 6 + g) * a.size + c, dscale[g]);
    store(a.partial + (part * 6 + 3 + g) * a.size + c, dbias[g]);
  }
}

// ---- any size and alignment: one block per row, element by element ----

template <class T>
__global__ void __launch_bounds__(GRU_THREADS) gru_gates_fwd_row_kernel(GruGatesFwdArgs a) {
  const int64_t row = blockIdx.x, all = 3 * a.size;
  const T* x = static_cast<const T*>(a.x) + row * all;
  const Moments norm = row_moments(x, all);
  for (int64_t c = threadIdx.x; c < a.size; c += blockDim.x) {
    float z[3];
#pragma unroll
    for (int g = 0; g < 3; ++g)
      z[g] = (to_float(x[g * a.size + c]) - norm.mean) * norm.rstd * a.scale[g * a.size + c] + a.bias[g * a.size + c];
    const float next = gru_cell(z[0], z[1], z[2], a.deter[row * a.size + c]).next;
    a.next[row * a.size + c] = next;
    if (a.next_copy) store_operand(a.next_copy, row * a.copy_stride + c, a.copy_dtype, next);
  }
  if (threadIdx.x == 0) a.mean[row] = norm.mean, a.rstd[row] = norm.rstd;
}

// What both passes of the backward need of one column: xhat and the gradients behind the LayerNorm.
struct GruColumn {
  float xhat[3], grad[3], dh;
};
template <class T>
__device__ __forceinline__ GruColumn gru_column(const GruGatesBwdArgs& a, int64_t row, int64_t c) {
  GruColumn k;
  float z[3];
#pragma unroll
  for (int g = 0; g < 3; ++g) {
    k.xhat[g] = (to_float(static_cast<const T*>(a.x)[(row * 3 + g) * a.size + c]) - a.mean[row]) * a.rstd[row];
    z[g] = k.xhat[g] * a.scale[g * a.size + c] + a.bias[g * a.size + c];
  }
  const float h = a.deter[row * a.size + c];
  const GruGrad d = gru_cell_grad(gru_cell(z[0], z[1], z[2], h), z[1], h, a.dnext[row * a.size + c]);
  k.grad[0] = d.reset, k.grad[1] = d.cand, k.grad[2] = d.update, k.dh = d.h;
  return k;
}

// The column partials are read and written in global memory, each element by one thread only.
template <class T>
__global__ void __launch_bounds__(GRU_THREADS) gru_gates_bwd_row_kernel(GruGatesBwdArgs a) {
  const int64_t part = blockIdx.x, begin = part * a.rows / a.parts, end = (part + 1) * a.rows / a.parts;
  float *dscale = a.partial + part * 6 * a.size, *dbias = dscale + 3 * a.size;
  for (int64_t c = threadIdx.x; c < a.size; c += blockDim.x) {
#pragma unroll
    for (int g = 0; g < 3; ++g) dscale[g * a.size + c] = dbias[g * a.size + c] = 0.f;
  }
  for (int64_t row = begin; row < end; ++row) {
    float sums[2] = {0.f, 0.f};
    for (int64_t c = threadIdx.x; c < a.size; c += blockDim.x) {
      const GruColumn k = gru_column<T>(a, row, c);
#pragma unroll
      for (int g = 0; g < 3; ++g) {
        const float v = k.grad[g] * a.scale[g * a.size + c];
        dscale[g * a.size + c] += k.grad[g] * k.xhat[g];
        dbias[g * a.size + c] += k.grad[g];
        sums[0] += v;
        sums[1] += v * k.xhat[g];
      }
      a.ddeter[row * a.size + c] = k.dh;
    }
    block_sums(sums);
    for (int64_t c = threadIdx.x; c < a.size; c += blockDim.x) {
      const GruColumn k = gru_column<T>(a, row, c);
#pragma unroll
      for (int g = 0; g < 3; ++g) {
        const float v = k.grad[g] * a.scale[g * a.size + c] - (sums[0] + k.xhat[g] * sums[1]) / float(3 * a.size);
        store_operand(a.dx, (row * 3 + g) * a.size + c, a.dx_dtype, a.rstd[row] * v);
      }
    }
  }
}

}  // namespace hd
