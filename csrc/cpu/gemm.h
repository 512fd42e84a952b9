// Matrix products of the CPU learner: C (+)= A B for matrices of any strides.
//
//   C[i,j] = (accumulate ? C[i,j] : 0) + sum_k A[i,k] B[k,j]
//
// One routine serves y = x W, dx = dy W^T and dW = x^T dy, because only packing looks at the strides. B may be packed
// once and used for many products: the sequence loops multiply 4 to 16 rows by the same weights at every step, where
// a library call per product costs as much as the product.
//
// With operands BF16 every element of A and B is rounded to bfloat16 while it is packed; sums are fp32. Processors with
// bf16 products (AVX512_BF16) do two multiply-adds where they did one, others get the same numbers by fp32 arithmetic.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/types.h"

namespace hd::cpu {

// Runs body(begin, end) over pieces of [0, n), each of `grain` or more, on the caller's thread pool.
using Range = std::function<void(int64_t, int64_t)>;
struct Pool {
  void (*run)(int64_t n, int64_t grain, const Range& body);
  int threads;
  // One piece a thread or, where that is not `worth` waking them, all on the caller's.
  template <class F>
  void share(int64_t n, bool worth, const F& body) const {
    threads == 1 || !worth ? body(0, n) : run(n, (n + threads - 1) / threads, body);
  }
};

// The caller's thread alone.
inline constexpr Pool kAlone{[](int64_t n, int64_t, const Range& body) { body(0, n); }, 1};

struct Bf16;

// Read-only view: element (i, j) stands i * rs + j * cs elements behind p.
struct Mat {
  const void* p;
  int64_t rs, cs;
  DType type = DType::F32;
  Mat t() const { return {p, cs, rs, type}; }
  Mat at(int64_t i, int64_t j) const {
    const int64_t size = type == DType::F32 ? 4 : 2;
    return {static_cast<const char*>(p) + (i * rs + j * cs) * size, rs, cs, type};
  }
  const float* f32() const { return static_cast<const float*>(p); }
  const Bf16* bf16() const { return static_cast<const Bf16*>(p); }
};
inline Mat row_major(const float* p, int64_t columns) { return {p, columns, 1}; }
inline Mat row_major(const std::vector<float>& x, int64_t columns) { return row_major(x.data(), columns); }
inline Mat row_major(const Bf16* p, int64_t columns) { return {p, columns, 1, DType::BF16}; }

struct Kernel;

// B (k x n) in column panels as wide as the register tile, each panel k-major.
class Packed {
 public:
  Packed(const Pool& pool, const Mat& b, int64_t k, int64_t n, DType operands = DType::F32);
  const uint32_t* panel(int64_t j) const { return data_.get() + j * size_; }
  int64_t k() const { return k_; }
  int64_t n() const { return n_; }
  const Kernel& kernel() const { return *kernel_; }

 private:
  const Kernel* kernel_;
  std::unique_ptr<uint32_t[]> data_;
  int64_t k_, n_, size_;
};

// C (m x n, row stride ldc) (+)= A (m x k) B (k x n). A and B may be stored as bf16 when the operands are.
void gemm(const Pool& pool, int64_t m, int64_t n, int64_t k, const Mat& a, const Mat& b, float* c, int64_t ldc,
          bool accumulate = false, DType operands = DType::F32);
// The same with B packed before, in its operands.
void gemm(const Pool& pool, int64_t m, const Mat& a, const Packed& b, float* c, int64_t ldc, bool accumulate = false);
// C (m x n) = A B rounded once to bf16, operands bf16.
void gemm(const Pool& pool, int64_t m, int64_t n, int64_t k, const Mat& a, const Mat& b, Bf16* c, int64_t ldc);

}  // namespace hd::cpu
