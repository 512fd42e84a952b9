// support.h -- what the kernel tests share: schedules of the emulator, exact-size buffers, tolerances.
//
// Outputs start as NaN and live in exact-size heap blocks, so that an element never written and an access one
// past the end both show. `for_each_schedule` runs a case under every schedule and demands the same bits from
// all of them.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "device/hd.h"
#include "kernels/types.h"

namespace hd::test {

using Vec = std::vector<double>;

// What launchers are given: the emulator refuses the default stream.
inline const hdStream STREAM = reinterpret_cast<hdStream>(16);

struct Schedule {
  const char *order, *policy;
};
constexpr Schedule SCHEDULES[] = {{"fwd", "rr"}, {"rev", "rr"}, {"rand", "greedy"}};

inline void use(Schedule s) {
  setenv("HD_EMU_ORDER", s.order, 1);
  setenv("HD_EMU_POLICY", s.policy, 1);
}

// Exact-size storage in the dtype under test, seen as double from outside; in a kernel's arguments, its address.
class Buffer {
 public:
  Buffer(size_t size, DType dtype = DType::F32) : size_(size), dtype_(dtype), bytes_(new unsigned char[bytes()]) {
    memset(bytes_.get(), 0xFF, bytes());  // NaN in both dtypes
  }
  Buffer(const Vec& values, DType dtype = DType::F32) : Buffer(values.size(), dtype) {
    for (size_t i = 0; i < size_; ++i) {
      if (dtype_ == DType::F32) reinterpret_cast<float*>(bytes_.get())[i] = float(values[i]);
      else reinterpret_cast<bf16*>(bytes_.get())[i] = bf16(float(values[i]));
    }
  }
  operator void*() { return bytes_.get(); }
  operator float*() { return reinterpret_cast<float*>(bytes_.get()); }
  size_t bytes() const { return size_ * (dtype_ == DType::F32 ? 4 : 2); }
  Vec values() const {  // as stored, that is after rounding
    Vec v(size_);
    for (size_t i = 0; i < size_; ++i)
      v[i] = dtype_ == DType::F32 ? double(reinterpret_cast<const float*>(bytes_.get())[i])
                                  : double(float(reinterpret_cast<const bf16*>(bytes_.get())[i]));
    return v;
  }
  std::string raw() const { return {reinterpret_cast<const char*>(bytes_.get()), bytes()}; }

 private:
  size_t size_;
  DType dtype_;
  std::unique_ptr<unsigned char[]> bytes_;
};

using Bits = std::vector<std::string>;
template <class... Buffers>
Bits bits_of(const Buffers&... buffers) {
  return {buffers.raw()...};
}

// `run` executes once and returns the bits to compare; checked for equality over the schedules.
template <class Run>
inline void for_each_schedule(const Run& run) {
  Bits first;
  for (Schedule s : SCHEDULES) {
    SCOPED_TRACE(std::string(s.order) + " " + s.policy);
    use(s);
    const Bits bits = run();
    if (first.empty()) first = bits;
    ASSERT_EQ(bits.size(), first.size());
    for (size_t i = 0; i < bits.size(); ++i)
      EXPECT_TRUE(bits[i] == first[i]) << "output " << i << " depends on the schedule";
  }
}

// Deterministic normal numbers times `scale` plus `shift`, the same on every machine.
inline Vec normals(size_t n, unsigned seed, double scale = 1, double shift = 0) {
  Vec v(n);
  uint64_t state = seed * 0x9E3779B97F4A7C15ull + 1;
  auto uniform = [&] {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (double(state >> 11) + 0.5) / double(1ull << 53);
  };
  for (double& x : v) x = shift + scale * std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform());
  return v;
}
inline Vec uniforms(size_t n, unsigned seed) {
  Vec v = normals(n, seed);
  for (double& x : v) x = std::min(0.5 * std::erfc(-x / std::sqrt(2.0)), 0.99999);
  return v;
}

inline double dot(const Vec& a, const Vec& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }

// The derivative of a number by each element of x, by central differences.
template <class F>
Vec gradient(Vec x, const F& f, double step = 1e-5) {
  Vec grad;
  for (double& at : x) {
    const double middle = at;
    at = middle + step;
    const double high = f(x);
    at = middle - step;
    grad.push_back((high - f(x)) / (2 * step));
    at = middle;
  }
  return grad;
}

struct Shape {
  int64_t rows, cols;
};
// A suite whose cases have a shape and a dtype.
using ShapeTest = testing::TestWithParam<std::tuple<Shape, DType>>;
// "3x512_bf16".
inline std::string shape_name(const testing::TestParamInfo<ShapeTest::ParamType>& info) {
  const auto [shape, dtype] = info.param;
  return std::to_string(shape.rows) + "x" + std::to_string(shape.cols) + (dtype == DType::F32 ? "_f32" : "_bf16");
}
// The cases of `suite`: these shapes in both dtypes.
#define HD_SHAPES(suite, ...)                                                                                        \
  INSTANTIATE_TEST_SUITE_P(Shapes, suite,                                                                            \
                           testing::Combine(testing::Values(__VA_ARGS__), testing::Values(DType::F32, DType::BF16)), \
                           shape_name)

// Error allowed for one value stored in `dtype`, relative to the largest of its row: `f32` is the kernel's
// own error in fp32, to which bf16 adds half a unit in its 8th binary digit.
inline double rounding(DType dtype, double f32) { return dtype == DType::F32 ? f32 : 0.00391 + f32; }

// |got - want| <= tolerance * (largest |want| of the row of `width`, at least 1e-3 of the largest of all);
// NaN fails.
inline void expect_close(const Vec& got, const Vec& want, double tolerance, size_t width, const char* what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  double overall = 0;
  for (double w : want) overall = std::max(overall, std::fabs(w));
  for (size_t row = 0; row * width < want.size(); ++row) {
    double scale = 1e-3 * overall + 1e-30;
    for (size_t i = row * width; i < std::min(want.size(), (row + 1) * width); ++i)
      scale = std::max(scale, std::fabs(want[i]));
    for (size_t i = row * width; i < std::min(want.size(), (row + 1) * width); ++i)
      ASSERT_TRUE(std::fabs(got[i] - want[i]) <= tolerance * scale)
          << what << "[" << row << "][" << i - row * width << "] = " << got[i] << ", reference " << want[i];
  }
}
inline void expect_close(const Buffer& got, const Vec& want, double tolerance, size_t width, const char* what) {
  expect_close(got.values(), want, tolerance, width, what);
}

}  // namespace hd::test
