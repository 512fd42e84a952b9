// Between the drivers of a matrix product (gemm.cpp) and the register kernels: fp32 (gemm.cpp), bf16 (gemm_bf16.cpp).
#pragma once

#include <algorithm>
#include <cstddef>

#include "cpu/gemm.h"
#include "cpu/vec.h"

namespace hd::cpu {

// C (m x n) (+)= A (m x kc) times panels of packed B.
struct Block {
  int64_t m, n, kc, panel;  // sizes; words between panels of b
  Mat a;
  const uint32_t* b;
  void* c;
  int64_t ldc;
  bool accumulate;
  DType type;  // of c
};

// A packed panel is k-major: `width` words of 32 bits for each value of k, or, where `pairs`, for every two.
struct Kernel {
  int64_t width, block_k;
  bool pairs;
  void (*block)(const Block&);
  // Columns [0, n) of B, k rows, to one panel, missing columns zero.
  void (*pack)(const Mat& b, int64_t k, int64_t n, int64_t width, uint32_t* out);
  int64_t words(int64_t k) const { return (pairs ? (k + 1) / 2 : k) * width; }
};

// All rows of a block in strips of nearly equal height. `strips` names the functions for 1, 2, ... rows from row i on;
// inlined into one, they would take the compiler ten times as long.
template <size_t N>
void in_strips(const Block& x, void (*const (&strips)[N])(const Block&, const int64_t& i)) {
  constexpr int64_t tallest = N;
  const int64_t count = (x.m + tallest - 1) / tallest, height = (x.m + count - 1) / count;
  for (int64_t i = 0; i < x.m; i += height) strips[std::min(height, x.m - i) - 1](x, i);
}

// The kernel of bf16 products, null where the processor has none.
const Kernel* bf16_kernel();

// to[j * to_stride + i] = from[i * from_stride + j] for i < rows, j < columns, in squares of 4 x 4. Words are moved,
// not computed with: any 32 bits pass.
inline __attribute__((always_inline)) void transpose(const float* from, int64_t from_stride, int64_t rows,
                                                     int64_t columns, float* to, int64_t to_stride) {
  using V = Lanes<4>::Vec;
  using U = Lanes<4>::Loose;
  if (rows < 4) {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) to[j * to_stride + i] = from[i * from_stride + j];
    return;
  }
  for (int64_t next = 0; next < rows; next += 4) {
    const int64_t i = next + 4 <= rows ? next : rows - 4;  // the last four again rather than one by one
    int64_t j = 0;
    for (; j + 4 <= columns; j += 4) {
      const float* f = from + i * from_stride + j;
      float* t = to + j * to_stride + i;
      const V a = *reinterpret_cast<const U*>(f), b = *reinterpret_cast<const U*>(f + from_stride);
      const V c = *reinterpret_cast<const U*>(f + 2 * from_stride);
      const V d = *reinterpret_cast<const U*>(f + 3 * from_stride);
      const V ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const V cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd1 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      *reinterpret_cast<U*>(t) = __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5);
      *reinterpret_cast<U*>(t + to_stride) = __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7);
      *reinterpret_cast<U*>(t + 2 * to_stride) = __builtin_shufflevector(ab1, cd1, 0, 1, 4, 5);
      *reinterpret_cast<U*>(t + 3 * to_stride) = __builtin_shufflevector(ab1, cd1, 2, 3, 6, 7);
    }
    for (; j < columns; ++j)
      for (int64_t l = i; l < i + 4; ++l) to[j * to_stride + l] = from[l * from_stride + j];
  }
}

}  // namespace hd::cpu
