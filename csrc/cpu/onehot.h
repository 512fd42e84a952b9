// Products with one-hot rows in bf16: the forward as additions of the weights' rows, the weight gradient as additions
// to them. Per row s c multiply-adds instead of s k c, bound by cache: so weights are kept in blocks of columns that stay
// near the core for all rows.
#pragma once

#include <vector>

#include "cpu/gemm.h"

namespace hd::cpu {

// w (rows x c) rounded to bf16, in blocks of 128 columns: with 1024 rows a block has 256 KB and stays in L2.
class Table {
 public:
  Table(const Pool& pool, const float* w, int64_t rows, int64_t c);
  // out[i, :] += sum_g w[g * k + index[i, g], :], n rows of out ldo apart, s groups of k.
  void gather(int64_t n, int64_t s, int64_t k, const int64_t* index, float* out, int64_t ldo) const;

 private:
  std::vector<uint16_t> data_;
  int64_t rows_, c_;
};

// dw[g * k + index[i, g], :] += d[i, :] over n rows of d (c), stored as `type`.
void scatter(const Pool& pool, int64_t n, int64_t s, int64_t k, const int64_t* index, const Mat& d, int64_t c,
             float* dw);

}  // namespace hd::cpu
