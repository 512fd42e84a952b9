// Products of one-hot latents with a matrix, for many rows: the forward as additions of the matrix' rows, the gradient
// as additions to them. Per row s c additions instead of s k c multiply-adds, bound by the cache.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/gemm.h"

namespace hd::cpu {

// A matrix w (s * k, c), row-major, its elements rounded where the operands are bf16. It is copied once into blocks of
// columns, 64 words wide, one float a word or two bf16. A block (256 KB at 32 x 32) stays in the second-level cache for
// all rows; in place, its rows would be a power of two apart and meet in a quarter of the sets.
class LatentRows {
 public:
  LatentRows(const Pool& pool, int64_t s, int64_t k, const float* w, int64_t c, DType operands);
  // out[r, :] += sum_g w[g * k + index[r, g], :]; out (rows, c), rows ldo apart; index (rows, s).
  void add(int64_t rows, const int64_t* index, float* out, int64_t ldo) const;

 private:
  int64_t s_, k_, c_;
  bool half_;
  std::vector<uint32_t> words_;
};

// dw[g * k + index[r, g], :] += d[r, :] over the rows of d (rows, c), fp32 or bf16.
void scatter(const Pool& pool, int64_t rows, int64_t s, int64_t k, const int64_t* index, const Mat& d, int64_t c,
             float* dw);

}  // namespace hd::cpu
