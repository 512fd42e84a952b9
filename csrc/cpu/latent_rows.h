// Products of one-hot latents with a matrix, for many rows: out[r, :] += sum_s w[s * k + index[r, s], :].
//
// The matrix is copied once into blocks of 64 columns. A block (s * k * 256 bytes, 256 KB at 32 x 32) stays in the
// second-level cache for all rows; in place, its rows would be a power of two apart and meet in a quarter of the sets.
#pragma once

#include <cstdint>
#include <memory>

namespace hd::cpu {

class LatentRows {
 public:
  // w (s * k, c), row-major.
  LatentRows(int64_t s, int64_t k, const float* w, int64_t c);
  // out (rows, c), rows ldo apart; index (rows, s).
  void add(int64_t rows, const int64_t* index, float* out, int64_t ldo) const;

 private:
  int64_t s_, k_, c_;
  std::unique_ptr<float[]> blocks_;
};

}  // namespace hd::cpu
