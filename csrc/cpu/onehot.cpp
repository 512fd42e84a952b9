#include "cpu/onehot.h"

#include <algorithm>
#include <cstring>

#include "cpu/simd.h"

namespace hd::cpu {
namespace {

constexpr int64_t kTable = 128;    // columns of a block of the table
constexpr int64_t kColumns = 64;   // of a block of the gradient
constexpr int64_t kNear = 32768;   // bytes of it that rows are added to at a time: they fill L1

HD_CLONES void round_block(int64_t rows, int64_t n, const float* w, int64_t ldw, uint16_t* out) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < n; ++j) {
      Bf16 h;
      store(&h, w[i * ldw + j]);
      out[i * kTable + j] = h.bits;
    }
}

// One block of columns of the table, n of them in use.
HD_CLONES void gather_block(int64_t rows, int64_t s, int64_t k, const int64_t* index, const uint16_t* table, int64_t n,
                            float* out, int64_t ldo) {
  typedef float F __attribute__((vector_size(64)));
  typedef uint32_t U __attribute__((vector_size(64)));
  typedef uint16_t H __attribute__((vector_size(32)));
  for (int64_t i = 0; i < rows; ++i) {
    float edge[kTable] = {};
    float* o = out + i * ldo;
    std::memcpy(edge, o, sizeof(float) * n);
    F sum[8];
    std::memcpy(sum, edge, sizeof sum);
    for (int64_t g = 0; g < s; ++g) {
      const uint16_t* row = table + (g * k + index[i * s + g]) * kTable;
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) {
        H h;
        std::memcpy(&h, row + 16 * j, sizeof h);
        sum[j] += reinterpret_cast<F>(__builtin_convertvector(h, U) << 16);
      }
    }
    std::memcpy(edge, sum, sizeof sum);
    std::memcpy(o, edge, sizeof(float) * n);
  }
}

// n columns, groups [g0, g1); `near` (groups, k, kColumns) is scratch.
template <class T>
HD_INLINE void scatter_block(int64_t rows, int64_t s, int64_t g0, int64_t g1, int64_t k, const int64_t* index,
                             const T* d, int64_t c, int64_t n, float* __restrict near, float* dw) {
  const int64_t groups = g1 - g0;
  std::memset(near, 0, sizeof(float) * groups * k * kColumns);
  for (int64_t i = 0; i < rows; ++i, d += c, index += s) {
    float row[kColumns] = {};
    if (n == kColumns)
      for (int64_t j = 0; j < kColumns; ++j) row[j] = load(d + j);
    else
      for (int64_t j = 0; j < n; ++j) row[j] = load(d + j);
    for (int64_t g = 0; g < groups; ++g) {
      float* __restrict o = near + (g * k + index[g0 + g]) * kColumns;
      for (int64_t j = 0; j < kColumns; ++j) o[j] += row[j];
    }
  }
  for (int64_t r = 0; r < groups * k; ++r)
    for (int64_t j = 0; j < n; ++j) dw[(g0 * k + r) * c + j] += near[r * kColumns + j];
}

HD_CLONES void scatter_f32(int64_t rows, int64_t s, int64_t g0, int64_t g1, int64_t k, const int64_t* index,
                           const float* d, int64_t c, int64_t n, float* near, float* dw) {
  scatter_block(rows, s, g0, g1, k, index, d, c, n, near, dw);
}
HD_CLONES void scatter_bf16(int64_t rows, int64_t s, int64_t g0, int64_t g1, int64_t k, const int64_t* index,
                            const Bf16* d, int64_t c, int64_t n, float* near, float* dw) {
  scatter_block(rows, s, g0, g1, k, index, d, c, n, near, dw);
}

}  // namespace

Table::Table(const Pool& pool, const float* w, int64_t rows, int64_t c) : rows_(rows), c_(c) {
  const int64_t blocks = (c + kTable - 1) / kTable;
  data_.resize(blocks * rows * kTable);
  auto body = [&](int64_t b, int64_t e) {
    for (; b < e; ++b)
      round_block(rows, std::min(kTable, c - b * kTable), w + b * kTable, c, data_.data() + b * rows * kTable);
  };
  if (rows * c < (1 << 18))
    body(0, blocks);
  else
    pool.run(blocks, 1, body);
}

void Table::gather(int64_t n, int64_t s, int64_t k, const int64_t* index, float* out, int64_t ldo) const {
  for (int64_t j = 0; j < c_; j += kTable)
    gather_block(n, s, k, index, data_.data() + j * rows_, std::min(kTable, c_ - j), out + j, ldo);
}

void scatter(const Pool& pool, int64_t n, int64_t s, int64_t k, const int64_t* index, const Mat& d, int64_t c,
             float* dw) {
  const int64_t step = std::max<int64_t>(1, kNear / (k * kColumns * 4)), parts = (s + step - 1) / step;
  auto body = [&](int64_t begin, int64_t end) {
    std::vector<float> near(step * k * kColumns);
    for (int64_t p = begin; p < end; ++p)
      for (int64_t j = 0; j < c; j += kColumns) {
        const int64_t g0 = p * step, g1 = std::min(s, g0 + step), columns = std::min(kColumns, c - j);
        if (d.type == DType::F32)
          scatter_f32(n, s, g0, g1, k, index, d.f32() + j, c, columns, near.data(), dw + j);
        else
          scatter_bf16(n, s, g0, g1, k, index, d.bf16() + j, c, columns, near.data(), dw + j);
      }
  };
  if (pool.threads == 1 || n * s * c < (1 << 19)) return body(0, parts);
  pool.run(parts, (parts + pool.threads - 1) / pool.threads, body);
}

}  // namespace hd::cpu
