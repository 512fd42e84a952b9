// scan_step.cpp -- input of a scan's step and its backward on the CPU; equations in kernels/scan_step.h.
//
// CUDA's execution on the CPU, for tests and for comparing the two: on the CPU a scan is one call, scan_observe.cpp.
// One row at a time, so that its passes find it in L1, by the row kernels of scan_rows.h. These compute in float32;
// what a product reads in bfloat16 is rounded from scratch.
#include "kernels/scan_step.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>

#include "cpu/scan_rows.h"
#include "cpu/simd.h"

namespace hd::cpu {
namespace {

// Elements [at, at + n) of `to`, which is stored as `type`.
void put(DType type, void* to, int64_t at, int64_t n, const float* from) {
  if (type == DType::BF16) return round_bf16(n, from, static_cast<Bf16*>(to) + at);
  std::memcpy(static_cast<float*>(to) + at, from, n * sizeof(float));
}

template <class T>
HD_INLINE void add_row(const void* kernel, int64_t first, int64_t index, int64_t count, int64_t cols,
                       float* __restrict sum) {
  const bool inside = index >= 0 && index < count;
  const T* w = static_cast<const T*>(kernel) + (inside ? first + index : 0) * cols;
  const float scale = inside ? 1.f : std::numeric_limits<float>::quiet_NaN();
  for (int64_t c = 0; c < cols; ++c) sum[c] += scale * load(w + c);
}

template <class T>
HD_CLONES void gather(const ScanInputFwdArgs& a, int64_t row, const int64_t* index, float* x) {
  if (a.action) add_row<T>(a.action_kernel, 0, a.action[row], a.actions, a.cols, x);
  for (int64_t g = 0; index && g < a.groups; ++g) add_row<T>(a.kernel, g * a.classes, index[g], a.classes, a.cols, x);
}

HD_CLONES void pass_state(const ScanInputBwdArgs& a, int64_t row, const float* __restrict dh) {
  const float* __restrict direct = a.direct + row * a.size;
  float* __restrict dbefore = a.dbefore + row * a.size;
  for (int64_t c = 0; c < a.size; ++c) dbefore[c] = dh[c] + direct[c];
  if (a.carry && !(a.reset && a.reset[row])) column_sums(1, a.size, dbefore, a.carry + row * a.size);
}

}  // namespace

void scan_input_fwd(const ScanInputFwdArgs& a, int64_t begin, int64_t end) {
  const auto y = std::make_unique_for_overwrite<float[]>(a.cols);
  for (int64_t row = begin; row < end; ++row) {
    const bool reset = a.reset && a.reset[row];
    const int64_t* index = reset || !a.index ? a.start_index : a.index + row * a.groups;
    float* x = a.pre + row * a.cols;
    if (!a.accumulate) std::memset(x, 0, a.cols * sizeof(float));
    a.dtype == DType::F32 ? gather<float>(a, row, index, x) : gather<Bf16>(a, row, index, x);
    float stats[2];
    norm_silu(1, a.cols, x, a.scale, a.bias, y.get(), a.cols, stats);
    a.mean[row] = stats[0], a.rstd[row] = stats[1];
    const float* deter = reset || !a.deter ? a.start : a.deter + row * a.size;
    put(a.dtype, a.joint, row * a.stride, a.size, deter);
    put(a.dtype, a.joint, row * a.stride + a.size, a.cols, y.get());
    if (a.before) put(DType::F32, a.before, row * a.size, a.size, deter);
  }
}

void scan_input_bwd(const ScanInputBwdArgs& a, int64_t begin, int64_t end) {
  const auto dx = std::make_unique_for_overwrite<float[]>(a.cols);
  for (int64_t p = begin; p < end; ++p) {
    float *dscale = a.partial + p * 2 * a.cols, *dbias = dscale + a.cols;
    std::memset(dscale, 0, 2 * a.cols * sizeof(float));
    for (int64_t row = p * a.rows / a.parts; row < (p + 1) * a.rows / a.parts; ++row) {
      const float *djoint = a.djoint + row * (a.size + a.cols), stats[2] = {a.mean[row], a.rstd[row]};
      norm_silu_bwd(1, a.cols, djoint + a.size, a.cols, a.pre + row * a.cols, stats, a.scale, a.bias, dx.get(), dscale,
                    dbias);
      put(a.dtype, a.dpre, row * a.cols, a.cols, dx.get());
      if (a.dmasked) {
        if (a.reset && a.reset[row]) std::fill_n(dx.get(), a.cols, 0.f);
        put(a.dtype, a.dmasked, row * a.cols, a.cols, dx.get());
      }
      pass_state(a, row, djoint);
    }
  }
}

}  // namespace hd::cpu
