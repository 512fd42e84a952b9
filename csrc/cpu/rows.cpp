#include "cpu/rows.h"

#include <algorithm>

#include "cpu/vec.h"

namespace hd::cpu {

namespace {

struct ColumnSums {
  template <int N>
  static HD_INLINE void run(int64_t rows, int64_t c, const float* x, float* out) {
    for (int64_t i = 0; i < rows; ++i, x += c)
      each<N>(c, [&](int64_t j, auto count) __attribute__((always_inline)) {
        put<N>(out + j, get<N>(out + j, count) + get<N>(x + j, count), count);
      });
  }
};

struct Copy {
  template <int N, class From, class To>
  static HD_INLINE void run(int64_t n, const From* x, To* out) {
    each<N>(
        n, [&](int64_t j, auto count) __attribute__((always_inline)) { put<N>(out + j, get<N>(x + j, count), count); });
  }
};

}  // namespace

void column_sums(int64_t rows, int64_t c, const float* x, float* out) { vectors<ColumnSums>(rows, c, x, out); }

void add_parts(int64_t parts, int64_t c, const float* partial, float* dscale, float* dbias) {
  std::memset(dscale, 0, sizeof(float) * c);
  std::memset(dbias, 0, sizeof(float) * c);
  for (; parts > 0; --parts, partial += 2 * c) {
    column_sums(1, c, partial, dscale);
    column_sums(1, c, partial + c, dbias);
  }
}

void round_bf16(int64_t n, const float* x, Bf16* out) { vectors<Copy>(n, x, out); }

void widen_bf16(int64_t n, const Bf16* x, float* out) { vectors<Copy>(n, x, out); }

void put(DType type, void* to, int64_t at, int64_t n, const float* from) {
  if (type == DType::BF16) return round_bf16(n, from, static_cast<Bf16*>(to) + at);
  std::copy_n(from, n, static_cast<float*>(to) + at);  // of nothing, too, from nowhere
}

}  // namespace hd::cpu
