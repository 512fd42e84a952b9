#include "cpu/latent_rows.h"

#include <algorithm>
#include <cstring>

#include "cpu/simd.h"

namespace hd::cpu {
namespace {

constexpr int64_t kColumns = 64;
constexpr int kVectors = 4;

typedef float Vec __attribute__((vector_size(64)));
typedef float Loose __attribute__((vector_size(64), aligned(4), may_alias));

// ROWS rows of one block, n <= kColumns columns of it in use. Two rows at a time hide the latency of the second-level
// cache. As plain arrays the sums would be kept in memory, not in registers.
template <int ROWS>
HD_INLINE void add_rows(int64_t s, int64_t k, const int64_t* index, const float* w, int64_t n, float* out, int64_t ldo) {
  Vec sum[ROWS][kVectors] = {};
  for (int64_t g = 0; g < s; ++g)
#pragma GCC unroll 2
    for (int r = 0; r < ROWS; ++r) {
      const Loose* row = reinterpret_cast<const Loose*>(w + (g * k + index[r * s + g]) * kColumns);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] += row[v];
    }
#pragma GCC unroll 2
  for (int r = 0; r < ROWS; ++r, out += ldo) {
    if (n == kColumns) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) reinterpret_cast<Loose*>(out)[v] += sum[r][v];
    } else {
      float edge[kColumns];
      std::memcpy(edge, sum[r], sizeof(edge));
      for (int64_t j = 0; j < n; ++j) out[j] += edge[j];
    }
  }
}

HD_CLONES void add_block(int64_t rows, int64_t s, int64_t k, const int64_t* index, const float* w, int64_t n, float* out,
                         int64_t ldo) {
  int64_t i = 0;
  for (; i + 2 <= rows; i += 2) add_rows<2>(s, k, index + i * s, w, n, out + i * ldo, ldo);
  if (i < rows) add_rows<1>(s, k, index + i * s, w, n, out + i * ldo, ldo);
}

}  // namespace

LatentRows::LatentRows(int64_t s, int64_t k, const float* w, int64_t c)
    : s_(s), k_(k), c_(c),
      blocks_(std::make_unique_for_overwrite<float[]>((c + kColumns - 1) / kColumns * kColumns * s * k)) {
  float* out = blocks_.get();
  for (int64_t j = 0; j < c; j += kColumns) {
    const int64_t n = std::min(kColumns, c - j);
    for (int64_t i = 0; i < s * k; ++i, out += kColumns) {
      std::memcpy(out, w + i * c + j, sizeof(float) * n);
      std::fill_n(out + n, kColumns - n, 0.0f);
    }
  }
}

void LatentRows::add(int64_t rows, const int64_t* index, float* out, int64_t ldo) const {
  for (int64_t j = 0; j < c_; j += kColumns)
    add_block(rows, s_, k_, index, blocks_.get() + j * s_ * k_, std::min(kColumns, c_ - j), out + j, ldo);
}

}  // namespace hd::cpu
