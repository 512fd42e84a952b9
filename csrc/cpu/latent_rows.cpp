#include "cpu/latent_rows.h"

#include <algorithm>
#include <cstring>

#include "cpu/vec.h"

namespace hd::cpu {
namespace {

constexpr int64_t kWords = 64;     // of a row of a block of the matrix
constexpr int64_t kColumns = 128;  // of a block of the gradient

// The kernels below have vectors of 16 everywhere, two or four of the processor's where it has none so wide.

HD_INLINE uint32_t rounded(float x) {
  Bf16 h;
  store(&h, x);
  return h.bits;
}

// n columns of w to words: floats, or of 32 columns the first 16 in the low halves and the others in the high ones.
struct CopyBlock {
  template <int>
  static HD_INLINE void run(int64_t rows, int64_t n, const float* w, int64_t ldw, bool half, uint32_t* out) {
    float row[2 * kWords] = {};
    for (int64_t i = 0; i < rows; ++i, w += ldw, out += kWords) {
      std::memcpy(row, w, sizeof(float) * n);
      if (half)
        for (int64_t j = 0; j < kWords; j += 16)
          for (int64_t l = j; l < j + 16; ++l) out[l] = rounded(row[j + l]) | rounded(row[j + l + 16]) << 16;
      else std::memcpy(out, row, sizeof(uint32_t) * kWords);
    }
  }
};

// ROWS rows of one block, n columns of it in use. Two rows at a time hide the latency of the second-level cache. As
// plain arrays the sums would be kept in memory, not in registers.
template <int ROWS, bool HALF>
HD_INLINE void add_rows(int64_t s, int64_t k, const int64_t* index, const uint32_t* w, int64_t n, float* out,
                        int64_t ldo) {
  using Words = Lanes<16>::Words;
  constexpr int words = kWords / 16, vectors = HALF ? 2 * words : words;
  Vec<16> sum[ROWS][vectors] = {};
  for (int64_t g = 0; g < s; ++g)
#pragma GCC unroll 2
    for (int r = 0; r < ROWS; ++r) {
      const float* row = reinterpret_cast<const float*>(w + (g * k + index[r * s + g]) * kWords);
#pragma GCC unroll 4
      for (int v = 0; v < words; ++v) {
        const Vec<16> word = get<16>(row + 16 * v);
        if constexpr (HALF) {
          sum[r][2 * v] += std::bit_cast<Vec<16>>(std::bit_cast<Words>(word) << 16);
          sum[r][2 * v + 1] += std::bit_cast<Vec<16>>(std::bit_cast<Words>(word) & 0xffff0000u);
        } else {
          sum[r][v] += word;
        }
      }
    }
  put_tile<16>(sum, out, ldo, n, true);
}

template <bool HALF>
struct AddBlock {
  template <int>
  static HD_INLINE void run(int64_t rows, int64_t s, int64_t k, const int64_t* index, const uint32_t* w, int64_t n,
                            float* out, int64_t ldo) {
    int64_t i = 0;
    for (; i + 2 <= rows; i += 2) add_rows<2, HALF>(s, k, index + i * s, w, n, out + i * ldo, ldo);
    if (i < rows) add_rows<1, HALF>(s, k, index + i * s, w, n, out + i * ldo, ldo);
  }
};

// Groups [g0, g1) of n columns. Blocks of 128 columns: the part of dw in use (s * k * 512 bytes) stays in L2.
struct ScatterBlock {
  template <int, class T>
  static HD_INLINE void run(int64_t rows, int64_t s, int64_t g0, int64_t g1, int64_t k, const int64_t* index,
                            const T* d, int64_t c, int64_t n, float* dw) {
    for (int64_t i = 0; i < rows; ++i, d += c, index += s) {
      float row[kColumns] = {};
      for (int64_t j = 0; j < n; ++j) row[j] = load(d + j);
      Vec<16> sum[1][kColumns / 16];
#pragma GCC unroll 8
      for (int v = 0; v < kColumns / 16; ++v) sum[0][v] = get<16>(row + 16 * v);
      for (int64_t g = g0; g < g1; ++g) put_tile<16>(sum, dw + (g * k + index[g]) * c, c, n, true);
    }
  }
};

}  // namespace

LatentRows::LatentRows(const Pool& pool, int64_t s, int64_t k, const float* w, int64_t c, DType operands)
    : s_(s), k_(k), c_(c), half_(operands == DType::BF16) {
  const int64_t columns = half_ ? 2 * kWords : kWords, blocks = (c + columns - 1) / columns, block = s * k * kWords;
  words_.resize(blocks * block);
  pool.share(blocks, s * k * c >= 1 << 18, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      vectors<CopyBlock>(s * k, std::min(columns, c - b * columns), w + b * columns, c, half_,
                         words_.data() + b * block);
  });
}

void LatentRows::add(int64_t rows, const int64_t* index, float* out, int64_t ldo) const {
  const int64_t columns = half_ ? 2 * kWords : kWords;
  const uint32_t* w = words_.data();
  for (int64_t j = 0; j < c_; j += columns, w += s_ * k_ * kWords)
    if (half_) vectors<AddBlock<true>>(rows, s_, k_, index, w, std::min(columns, c_ - j), out + j, ldo);
    else vectors<AddBlock<false>>(rows, s_, k_, index, w, std::min(columns, c_ - j), out + j, ldo);
}

void scatter(const Pool& pool, int64_t rows, int64_t s, int64_t k, const int64_t* index, const Mat& d, int64_t c,
             float* dw) {
  pool.share(s, rows * s * c >= 1 << 19, [&](int64_t g0, int64_t g1) {
    for (int64_t j = 0; j < c; j += kColumns) {
      const int64_t n = std::min(kColumns, c - j);
      d.type == DType::F32 ? vectors<ScatterBlock>(rows, s, g0, g1, k, index, d.f32() + j, c, n, dw + j)
                           : vectors<ScatterBlock>(rows, s, g0, g1, k, index, d.bf16() + j, c, n, dw + j);
    }
  });
}

}  // namespace hd::cpu
