// fp32 matrix products of the CPU learner: C (+)= A B for matrices of any strides.
//
//   C[i,j] = (accumulate ? C[i,j] : 0) + sum_k A[i,k] B[k,j]
//
// One routine serves y = x W, dx = dy W^T and dW = x^T dy, because only packing looks at the strides. B may be packed
// once and used for many products: the sequence loops multiply 4 to 16 rows by the same weights at every step, where
// a library call per product costs as much as the product.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace hd::cpu {

// Runs body(begin, end) over pieces of [0, n), each of `grain` or more, on the caller's thread pool.
using Range = std::function<void(int64_t, int64_t)>;
struct Pool {
  void (*run)(int64_t n, int64_t grain, const Range& body);
  int threads;
};

// Read-only view: element (i, j) stands at p[i * rs + j * cs].
struct Mat {
  const float* p;
  int64_t rs, cs;
  Mat t() const { return {p, cs, rs}; }
  Mat rows(int64_t i) const { return {p + i * rs, rs, cs}; }
};
inline Mat row_major(const float* p, int64_t columns) { return {p, columns, 1}; }

// B (k x n) in column panels as wide as the register tile, each panel k-major.
class Packed {
 public:
  Packed() = default;
  Packed(const Pool& pool, const Mat& b, int64_t k, int64_t n);
  const float* panel(int64_t j) const { return data_.data() + j * k_ * width_; }
  int64_t k() const { return k_; }
  int64_t n() const { return n_; }
  int64_t panels() const { return (n_ + width_ - 1) / width_; }

 private:
  std::vector<float> data_;
  int64_t k_ = 0, n_ = 0, width_ = 1;
};

// C (m x n, row stride ldc) (+)= A (m x k) B (k x n).
void gemm(const Pool& pool, int64_t m, int64_t n, int64_t k, const Mat& a, const Mat& b, float* c, int64_t ldc,
          bool accumulate = false);
// The same with B packed before.
void gemm(const Pool& pool, int64_t m, const Mat& a, const Packed& b, float* c, int64_t ldc, bool accumulate = false);

}  // namespace hd::cpu
