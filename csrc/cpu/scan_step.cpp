// scan_step.cpp -- input of a scan's step and its backward on the CPU; equations in kernels/scan_step.h.
//
// CUDA's execution on the CPU, for tests and for comparing the two: on the CPU a scan is one call, scan_observe.cpp.
// CUDA's execution on the CPU, for tests and for comparing the two: on the CPU a scan is one call, scan_observe.cpp.
// The norm is norm_act's, which computes in float32 here; what a product reads in bfloat16 is rounded from scratch.
#include "kernels/scan_step.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "cpu/rows.h"
#include "cpu/vec.h"
#include "kernels/norm_act.h"

namespace hd::cpu {
namespace {

template <class T>
struct Gather {
  template <int N>
  static HD_INLINE void run(const ScanInputFwdArgs& a, int64_t row, const int64_t* index, float* x) {
    const auto add = [&](const void* kernel, int64_t first, int64_t at, int64_t size) __attribute__((always_inline)) {
      const bool inside = at >= 0 && at < size;
      const T* w = static_cast<const T*>(kernel) + (inside ? first + at : 0) * a.cols;
      const float scale = inside ? 1.f : std::numeric_limits<float>::quiet_NaN();
      each<N>(a.cols, [&](int64_t c, auto count) __attribute__((always_inline)) {
        put<N>(x + c, get<N>(x + c, count) + scale * get<N>(w + c, count), count);
      });
    };
    if (a.action) add(a.action_kernel, 0, a.action[row], a.actions);
    for (int64_t g = 0; index && g < a.groups; ++g) add(a.kernel, g * a.classes, index[g], a.classes);
  }
};

struct PassState {
  template <int N>
  static HD_INLINE void run(const ScanInputBwdArgs& a, int64_t row, const float* dh) {
    const float* direct = a.direct + row * a.size;
    float* dbefore = a.dbefore ? a.dbefore + row * a.size : nullptr;
    float* carry = a.carry && !(a.reset && a.reset[row]) ? a.carry + row * a.size : nullptr;
    each<N>(a.size, [&](int64_t c, auto count) __attribute__((always_inline)) {
      const Vec<N> d = get<N>(dh + c, count) + get<N>(direct + c, count);
      if (dbefore) put<N>(dbefore + c, d, count);
      if (carry) put<N>(carry + c, get<N>(carry + c, count) + d, count);
    });
  }
};

}  // namespace

void scan_input_fwd(const ScanInputFwdArgs& a, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const bool reset = a.reset && a.reset[row];
    const int64_t* index = reset || !a.index ? a.start_index : a.index + row * a.groups;
    float* x = a.pre + row * a.cols;
    if (!a.accumulate) std::memset(x, 0, a.cols * sizeof(float));
    a.dtype == DType::F32 ? vectors<Gather<float>>(a, row, index, x) : vectors<Gather<Bf16>>(a, row, index, x);
    const float* deter = reset || !a.deter ? a.start : a.deter + row * a.size;
    put(a.dtype, a.joint, row * a.stride, a.size, deter);
    if (a.before) put(DType::F32, a.before, row * a.size, a.size, deter);
  }
  const Floats y = floats(a.rows * a.cols);
  norm_act_fwd({a.pre, a.scale, a.bias, y.get(), a.mean, a.rstd, a.rows, a.cols, DType::F32}, begin, end);
  for (int64_t row = begin; row < end; ++row) put(a.dtype, a.joint, row * a.stride + a.size, a.cols, &y[row * a.cols]);
}

void scan_input_bwd(const ScanInputBwdArgs& a, int64_t begin, int64_t end) {
  const Floats dy = floats(a.rows * a.cols), dx = floats(a.rows * a.cols);
  const int64_t first = begin * a.rows / a.parts, last = end * a.rows / a.parts;
  for (int64_t row = first; row < last; ++row) {
    const float* djoint = a.djoint + row * (a.size + a.cols);
    put(DType::F32, dy.get(), row * a.cols, a.cols, djoint + a.size);
    vectors<PassState>(a, row, djoint);
  }
  norm_act_bwd({dy.get(), a.pre, a.mean, a.rstd, a.scale, a.bias, dx.get(), nullptr, nullptr, a.partial, a.parts,
                a.rows, a.cols, DType::F32},
               begin, end);
  for (int64_t row = first; row < last; ++row) {
    float* of_row = &dx[row * a.cols];
    put(a.dtype, a.dpre, row * a.cols, a.cols, of_row);
    if (!a.dmasked) continue;
    if (a.reset && a.reset[row]) std::fill_n(of_row, a.cols, 0.f);
    put(a.dtype, a.dmasked, row * a.cols, a.cols, of_row);
  }
}

}  // namespace hd::cpu
