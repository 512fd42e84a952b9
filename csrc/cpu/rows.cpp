#include "cpu/rows.h"

#include <algorithm>

#include "cpu/simd.h"

namespace hd::cpu {

HD_CLONES void column_sums(int64_t rows, int64_t c, const float* x, float* out) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < c; ++j) out[j] += x[i * c + j];
}

void add_parts(int64_t parts, int64_t c, const float* partial, float* dscale, float* dbias) {
  std::memset(dscale, 0, sizeof(float) * c);
  std::memset(dbias, 0, sizeof(float) * c);
  for (; parts > 0; --parts, partial += 2 * c) {
    column_sums(1, c, partial, dscale);
    column_sums(1, c, partial + c, dbias);
  }
}

HD_CLONES void round_bf16(int64_t n, const float* x, Bf16* out) {
  for (int64_t i = 0; i < n; ++i) store(out + i, x[i]);
}

HD_CLONES void widen_bf16(int64_t n, const Bf16* x, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = load(x + i);
}

void put(DType type, void* to, int64_t at, int64_t n, const float* from) {
  if (type == DType::BF16) return round_bf16(n, from, static_cast<Bf16*>(to) + at);
  std::copy_n(from, n, static_cast<float*>(to) + at);  // of nothing, too, from nowhere
}

}  // namespace hd::cpu
