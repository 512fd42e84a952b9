// gru_gates.cpp -- the GRU's LayerNorm and gates on the CPU; equations in kernels/gru_gates.h.
//
// One row at a time, so that its passes find it in L1 and memory sees it once. Forward is the row kernel of
// the sequence loops, cpu/scan_rows.h, which computes in float32: a bfloat16 row is widened into scratch
// first. Backward is gru_row.h's, which stores either type itself.
#include "kernels/gru_gates.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "cpu/gru_row.h"
#include "cpu/scan_rows.h"
#include "cpu/simd.h"

namespace hd::cpu {
namespace {

// `g` is scratch for a row whose gradient is bfloat16. Sums over rows go to `dscale` and `dbias` (of this slice).
template <class T, class O>
HD_CLONES void backward(const GruGatesBwdArgs& a, int64_t begin, int64_t end, float* dscale, float* dbias, float* g) {
  const int64_t d = a.size, all = 3 * d;
  for (int64_t i = begin; i < end; ++i)
    gates_bwd_row(d, static_cast<const T*>(a.x) + i * all, a.mean[i], a.rstd[i], a.deter + i * d, a.dnext + i * d,
                  a.scale, a.bias, static_cast<O*>(a.dx) + i * all, a.ddeter + i * d, dscale, dbias, g);
}

}  // namespace

// At least 16 rows a slice, at most 64 slices: adding up the slices' sums stays small beside the rows.
int64_t gru_gates_parts(int64_t rows, int64_t) { return std::clamp<int64_t>(rows / 16, 1, 64); }

void gru_gates_fwd(const GruGatesFwdArgs& a, int64_t begin, int64_t end) {
  const int64_t d = a.size, all = 3 * d;
  const bool f32 = a.dtype == DType::F32;
  const std::unique_ptr<float[]> scratch(f32 ? nullptr : new float[all]);
  for (int64_t i = begin; i < end; ++i) {
    const float* x = f32 ? static_cast<const float*>(a.x) + i * all : scratch.get();
    if (!f32) widen_bf16(all, static_cast<const Bf16*>(a.x) + i * all, scratch.get());
    float stats[2];
    float* next = a.next + i * d;
    gates(1, d, x, a.deter + i * d, d, a.scale, a.bias, next, d, stats);
    a.mean[i] = stats[0];
    a.rstd[i] = stats[1];
    if (!a.next_copy) continue;
    const int64_t to = i * a.copy_stride;
    if (a.copy_dtype == DType::F32) std::memcpy(static_cast<float*>(a.next_copy) + to, next, d * sizeof(float));
    else round_bf16(d, next, static_cast<Bf16*>(a.next_copy) + to);
  }
}

void gru_gates_bwd(const GruGatesBwdArgs& a, int64_t begin, int64_t end) {
  const int64_t all = 3 * a.size;
  const std::unique_ptr<float[]> g(a.dx_dtype == DType::F32 ? nullptr : new float[all]);
  for (int64_t p = begin; p < end; ++p) {
    float *dscale = a.partial + p * 2 * all, *dbias = dscale + all;
    std::memset(dscale, 0, 2 * all * sizeof(float));
    const int64_t first = p * a.rows / a.parts, last = (p + 1) * a.rows / a.parts;
    const auto rows = a.dtype == DType::BF16      ? backward<Bf16, Bf16>
                      : a.dx_dtype == DType::BF16 ? backward<float, Bf16>
                                                  : backward<float, float>;
    rows(a, first, last, dscale, dbias, g.get());
  }
}

void gru_gates_bwd_finish(const GruGatesBwdArgs& a) { add_parts(a.parts, 3 * a.size, a.partial, a.dscale, a.dbias); }

}  // namespace hd::cpu
