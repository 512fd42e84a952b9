// Kernels of scan_step; equations in scan_step.h.
//
// Tiling: a block takes a row (backward: a slice of rows), since a scan has few rows and each must be spread
// wide to be quick. In the gather the block is cut into strips of a row's width, each of which adds a share of
// the groups' rows of the kernel, so that a thread waits for 8 loads in flight rather than for 32; the strips
// meet in shared memory and are added in order. From there on a thread owns its columns: the row stays in
// shared memory between the passes of the LayerNorm and needs no barriers beyond those of its two sums.
// A sample that comes first takes a warp a group; the indices reach the gather through shared memory.
// VEC is 4 where sizes and addresses allow 16-byte accesses, else 1.
#pragma once
#include "kernels/latent.cuh"
#include "kernels/layer_norm.cuh"
#include "kernels/scan_step.h"

namespace hd {

constexpr int SCAN_THREADS = 512;
constexpr int SCAN_UNROLL = 8;  // rows of the kernel in flight per thread

// Strips of `vectors` threads that a block has room for; each keeps a row of partial sums.
HD_FN int64_t scan_strips(int64_t threads, int64_t vectors) { return vectors >= threads ? 1 : threads / vectors; }

template <class T, int VEC>
__device__ __forceinline__ void scan_add_row(const void* kernel, int64_t first, int64_t index, int64_t count,
                                             int64_t cols, int64_t c, float (&sum)[VEC]) {
  const bool inside = index >= 0 && index < count;
  float w[VEC];
  load(static_cast<const T*>(kernel) + (inside ? first + index : 0) * cols + c, w);
#pragma unroll
  for (int j = 0; j < VEC; ++j) sum[j] += inside ? w[j] : NAN;
}

// Sums of a row of the kernel for each group, strip by strip: strips[s][c], s < scan_strips.
template <class T, int VEC>
__device__ __forceinline__ void scan_gather(const ScanInputFwdArgs& a, const int64_t* index, float* strips) {
  const int64_t vectors = a.cols / VEC, count = scan_strips(blockDim.x, vectors);
  const int64_t strip = count == 1 ? 0 : threadIdx.x / vectors;
  if (strip >= count) return;
  const int64_t first = count == 1 ? threadIdx.x : threadIdx.x % vectors;
  for (int64_t v = first; v < vectors; v += blockDim.x) {
    float sum[VEC] = {};
#pragma unroll SCAN_UNROLL
    for (int64_t g = strip; g < a.groups; g += count) {
      scan_add_row<T>(a.kernel, g * a.classes, index[g], a.classes, a.cols, v * VEC, sum);
    }
    store(strips + strip * a.cols + v * VEC, sum);
  }
}

// Room for the indices of a row's sample, in floats; whole 16 bytes.
HD_FN int64_t scan_picks(int64_t groups) { return (groups + 1) / 2 * 4; }

template <class T, int VEC>
__global__ void __launch_bounds__(SCAN_THREADS) scan_input_fwd_kernel(ScanInputFwdArgs a, LatentFwdArgs sample) {
  HD_DYN_SHARED(float, shared);
  const int64_t row = blockIdx.x, sampled = sample.row_groups;
  int64_t* picks = reinterpret_cast<int64_t*>(shared);
  float* strips = shared + scan_picks(sampled);
  for (int64_t g = threadIdx.x / 32; g < sampled; g += blockDim.x / 32) {
    const int64_t pick = latent_group<float, 1>(sample, row * sampled + g);
    if (threadIdx.x % 32 == 0) picks[g] = pick;
  }
  if (sampled > 0 && HD_MUTATE(SCAN_PICKS, true, false)) __syncthreads();
  const bool reset = a.reset != nullptr && HD_MUTATE(SCAN_RESET, a.reset[row], false);
  const int64_t* index = reset || a.index == nullptr          ? a.start_index
                         : sampled > 0 && a.action == nullptr ? picks
                                                              : a.index + row * a.groups;
  const int64_t vectors = a.cols / VEC, count = index == nullptr ? 0 : scan_strips(blockDim.x, vectors);
  if (index != nullptr) {
    scan_gather<T, VEC>(a, index, strips);
    if (HD_MUTATE(SCAN_STRIPS, true, false)) __syncthreads();
  }
  // A thread's own columns from here on.
  float sum = 0.f;
  for (int64_t v = threadIdx.x; v < vectors; v += blockDim.x) {
    float x[VEC] = {};
    if (a.accumulate) load(a.pre + row * a.cols + v * VEC, x);
    if (a.action != nullptr) {
      scan_add_row<T>(a.action_kernel, 0, sampled > 0 ? picks[0] : a.action[row], a.actions, a.cols, v * VEC, x);
    }
    for (int64_t s = 0; s < count; ++s) {
      float part[VEC];
      load(strips + s * a.cols + v * VEC, part);
#pragma unroll
      for (int j = 0; j < VEC; ++j) x[j] += part[j];
    }
    if (!a.accumulate || count > 0 || a.action != nullptr) store(a.pre + row * a.cols + v * VEC, x);
    store(strips + v * VEC, x);
#pragma unroll
    for (int j = 0; j < VEC; ++j) sum += x[j];
  }
  const Moments norm = block_moments(sum, a.cols, [&](const auto& f) {
    for (int64_t v = threadIdx.x; v < vectors; v += blockDim.x) {
      float x[VEC];
      load(strips + v * VEC, x);
#pragma unroll
      for (int j = 0; j < VEC; ++j) f(x[j]);
    }
  });
  T* joint = static_cast<T*>(a.joint) + row * a.stride;
  for (int64_t v = threadIdx.x; v < vectors; v += blockDim.x) {
    float x[VEC], scale[VEC], bias[VEC];
    load(strips + v * VEC, x);
    load(a.scale + v * VEC, scale);
    load(a.bias + v * VEC, bias);
#pragma unroll
    for (int j = 0; j < VEC; ++j) x[j] = silu((x[j] - norm.mean) * norm.rstd * scale[j] + bias[j]);
    store(joint + a.size + v * VEC, x);
  }
  if (threadIdx.x == 0) a.mean[row] = norm.mean, a.rstd[row] = norm.rstd;
  const float* deter = reset || a.deter == nullptr ? a.start : a.deter + row * a.size;
  for (int64_t c = int64_t(threadIdx.x) * VEC; c < a.size; c += blockDim.x * VEC) {
    float h[VEC];
    load(deter + c, h);
    store(joint + c, h);
    if (a.before != nullptr) store(a.before + row * a.size + c, h);
  }
}

template <class T, int VEC>
__global__ void __launch_bounds__(SCAN_THREADS) scan_input_bwd_kernel(ScanInputBwdArgs a) {
  HD_DYN_SHARED(float, shared);  // (3, cols): gradient of the row, sums of the gradients of scale and bias
  float *grad = shared, *dscale = shared + a.cols, *dbias = dscale + a.cols;
  const int64_t part = blockIdx.x, begin = part * a.rows / a.parts, end = (part + 1) * a.rows / a.parts;
  const int64_t first = int64_t(threadIdx.x) * VEC, step = int64_t(blockDim.x) * VEC;
  for (int64_t c = first; c < a.cols; c += step) {
    const float zero[VEC] = {};
    store(dscale + c, zero), store(dbias + c, zero);
  }
  for (int64_t row = begin; row < end; ++row) {
    const bool reset = a.reset != nullptr && a.reset[row];
    const float *djoint = a.djoint + row * (a.size + a.cols), *pre = a.pre + row * a.cols;
    const Moments norm{a.mean[row], a.rstd[row]};
    float sums[2] = {0.f, 0.f};
    for (int64_t c = first; c < a.cols; c += step) {
      float x[VEC], g[VEC], scale[VEC], bias[VEC], ds[VEC], db[VEC];
      load(pre + c, x), load(djoint + a.size + c, g), load(a.scale + c, scale), load(a.bias + c, bias);
      load(dscale + c, ds), load(dbias + c, db);
#pragma unroll
      for (int j = 0; j < VEC; ++j) {
        const NormActGrad d = norm_act_grad(x[j], g[j], norm, scale[j], bias[j]);
        ds[j] += d.dz * d.xhat, db[j] += d.dz;
        g[j] = d.dz * scale[j];
        sums[0] += g[j], sums[1] += g[j] * d.xhat;
      }
      store(grad + c, g), store(dscale + c, ds), store(dbias + c, db);
    }
    block_sums(sums);
    sums[0] /= float(a.cols), sums[1] /= float(a.cols);
    for (int64_t c = first; c < a.cols; c += step) {
      float x[VEC], g[VEC];
      load(pre + c, x), load(grad + c, g);
#pragma unroll
      for (int j = 0; j < VEC; ++j)
        g[j] = norm.rstd * (g[j] - HD_MUTATE(SCAN_MEAN_TERM, sums[0], 0.f) - (x[j] - norm.mean) * norm.rstd * sums[1]);
      store(static_cast<T*>(a.dpre) + row * a.cols + c, g);
      if (a.dmasked == nullptr) continue;
#pragma unroll
      for (int j = 0; j < VEC; ++j) g[j] = reset ? 0.f : g[j];
      store(static_cast<T*>(a.dmasked) + row * a.cols + c, g);
    }
    for (int64_t c = first; c < a.size; c += step) {
      float dh[VEC], direct[VEC];
      load(djoint + c, dh), load(a.direct + row * a.size + c, direct);
#pragma unroll
      for (int j = 0; j < VEC; ++j) dh[j] += direct[j];
      if (a.dbefore != nullptr) store(a.dbefore + row * a.size + c, dh);
      if (a.carry == nullptr || HD_MUTATE(SCAN_CARRY, reset, false)) continue;
      load(a.carry + row * a.size + c, direct);
#pragma unroll
      for (int j = 0; j < VEC; ++j) dh[j] += direct[j];
      store(a.carry + row * a.size + c, dh);
    }
  }
  for (int64_t c = first; c < a.cols; c += step) {
    float ds[VEC], db[VEC];
    load(dscale + c, ds), load(dbias + c, db);
    store(a.partial + part * 2 * a.cols + c, ds), store(a.partial + (part * 2 + 1) * a.cols + c, db);
  }
}

}  // namespace hd
