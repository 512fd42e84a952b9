// scan_step.cpp -- input of a scan's step and its backward on the CPU; equations in kernels/scan_step.h.
//
// The path of CUDA in the CPU's words, for tests and for comparing the two: on the CPU a scan is one call,
// scan_observe.cpp. One row at a time, so that its passes find it in L1.
#include "kernels/scan_step.h"

#include <cstring>
#include <limits>

#include "cpu/simd.h"
#include "kernels/norm_act.h"

namespace hd::cpu {
namespace {

template <class T>
HD_INLINE void add_row(const void* kernel, int64_t first, int64_t index, int64_t count, int64_t cols,
                       float* __restrict sum) {
  const bool inside = index >= 0 && index < count;
  const T* w = static_cast<const T*>(kernel) + (inside ? first + index : 0) * cols;
  const float scale = inside ? 1.f : std::numeric_limits<float>::quiet_NaN();
  for (int64_t c = 0; c < cols; ++c) sum[c] += scale * load(w + c);
}

template <class T>
HD_CLONES void forward(const ScanInputFwdArgs& a, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const bool reset = a.reset && a.reset[row];
    const int64_t* index = reset || !a.index ? a.start_index : a.index + row * a.groups;
    float* __restrict x = a.pre + row * a.cols;
    if (!a.accumulate) std::memset(x, 0, a.cols * sizeof(float));
    if (a.action) add_row<T>(a.action_kernel, 0, a.action[row], a.actions, a.cols, x);
    for (int64_t g = 0; index && g < a.groups; ++g)
      add_row<T>(a.kernel, g * a.classes, index[g], a.classes, a.cols, x);
    float sum = 0.f, squares = 0.f;
    for (int64_t c = 0; c < a.cols; ++c) sum += x[c];
    const float mean = sum / float(a.cols);
    for (int64_t c = 0; c < a.cols; ++c) squares += (x[c] - mean) * (x[c] - mean);
    const float rstd = 1.f / __builtin_sqrtf(squares / float(a.cols) + NORM_EPS);
    T* __restrict joint = static_cast<T*>(a.joint) + row * a.stride;
    for (int64_t c = 0; c < a.cols; ++c)
      store(joint + a.size + c, fsilu((x[c] - mean) * rstd * a.scale[c] + a.bias[c]));
    a.mean[row] = mean, a.rstd[row] = rstd;
    const float* deter = reset || !a.deter ? a.start : a.deter + row * a.size;
    for (int64_t c = 0; c < a.size; ++c) store(joint + c, deter[c]);
    if (a.before) std::memcpy(a.before + row * a.size, deter, a.size * sizeof(float));
  }
}

template <class T>
HD_CLONES void backward_row(const ScanInputBwdArgs& a, int64_t row, float* __restrict dscale,
                            float* __restrict dbias) {
  const bool reset = a.reset && a.reset[row];
  const float *__restrict dy = a.djoint + row * (a.size + a.cols) + a.size, *__restrict x = a.pre + row * a.cols;
  const float mean = a.mean[row], rstd = a.rstd[row];
  float sum = 0.f, dot = 0.f;
  for (int64_t c = 0; c < a.cols; ++c) {
    const float xhat = (x[c] - mean) * rstd, z = xhat * a.scale[c] + a.bias[c], s = fsigmoid(z);
    const float dz = dy[c] * s * (1.f + z * (1.f - s));
    dscale[c] += dz * xhat, dbias[c] += dz;
    sum += dz * a.scale[c], dot += dz * a.scale[c] * xhat;
  }
  sum /= float(a.cols), dot /= float(a.cols);
  for (int64_t c = 0; c < a.cols; ++c) {
    const float xhat = (x[c] - mean) * rstd, z = xhat * a.scale[c] + a.bias[c], s = fsigmoid(z);
    const float dx = rstd * (dy[c] * s * (1.f + z * (1.f - s)) * a.scale[c] - sum - xhat * dot);
    store(static_cast<T*>(a.dpre) + row * a.cols + c, dx);
    if (a.dmasked) store(static_cast<T*>(a.dmasked) + row * a.cols + c, reset ? 0.f : dx);
  }
  for (int64_t c = 0; c < a.size; ++c) {
    const float dh = a.djoint[row * (a.size + a.cols) + c] + a.direct[row * a.size + c];
    a.dbefore[row * a.size + c] = dh;
    if (a.carry && !reset) a.carry[row * a.size + c] += dh;
  }
}

}  // namespace

void scan_input_fwd(const ScanInputFwdArgs& a, int64_t begin, int64_t end) {
  a.dtype == DType::F32 ? forward<float>(a, begin, end) : forward<Bf16>(a, begin, end);
}

void scan_input_bwd(const ScanInputBwdArgs& a, int64_t begin, int64_t end) {
  for (int64_t p = begin; p < end; ++p) {
    float *dscale = a.partial + p * 2 * a.cols, *dbias = dscale + a.cols;
    std::memset(dscale, 0, 2 * a.cols * sizeof(float));
    for (int64_t row = p * a.rows / a.parts; row < (p + 1) * a.rows / a.parts; ++row)
      a.dtype == DType::F32 ? backward_row<float>(a, row, dscale, dbias) : backward_row<Bf16>(a, row, dscale, dbias);
  }
}

}  // namespace hd::cpu
