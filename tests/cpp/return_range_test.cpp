// return_range_test.cpp -- the radix select against a sort, under every schedule.
#include "kernels/return_range.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

// Order statistics `rank` of `values` as the kernel finds them: fractions 0 and 1 show them one by one.
void check(const Vec& values) {
  Vec sorted(values);
  for (double& x : sorted) x = float(x);
  std::sort(sorted.begin(), sorted.end());
  const int64_t size = int64_t(values.size()), last = size - 1;
  for (int64_t low : {int64_t(0), last / 20, last / 2, last}) {
    for_each_schedule([&] {
      Buffer ret(values), zero(Vec{0}), out(3);
      const int64_t high = last - low;
      ReturnRangeArgs a{ret,          zero, zero, out, size, {low, std::min(low + 1, last), high, high},
                        {0.25f, 0.f}, 0.f,  1.f,  0.5f};
      launch_return_range(a, STREAM);
      const double next = sorted[std::min(low + 1, last)];
      EXPECT_FLOAT_EQ(float(out.values()[0]), float(sorted[low] + 0.25 * (next - sorted[low])));
      EXPECT_FLOAT_EQ(float(out.values()[1]), float(sorted[high]));
      EXPECT_FLOAT_EQ(float(out.values()[2]), std::max(0.5f, float(out.values()[1]) - float(out.values()[0])));
      return bits_of(out);
    });
  }
}

TEST(ReturnRange, FindsOrderStatistics) {
  check({1.5});
  check({2, -1});
  check(normals(100, 1));
  check(normals(1500, 2, 1e-3, -5));
  check(Vec(37, -2.5));
  Vec mixed = normals(300, 3);
  for (size_t i = 0; i < mixed.size(); i += 3) mixed[i] *= 1e30;
  check(mixed);
}

TEST(ReturnRange, MovesTheAverages) {
  for_each_schedule([&] {
    Buffer ret(Vec{3, -1, 2}), low(Vec{-10}), high(Vec{20}), out(3);
    launch_return_range({ret, low, high, out, 3, {0, 1, 1, 2}, {0.5f, 0.5f}, 0.75f, 0.25f, 1.f}, STREAM);
    EXPECT_EQ(out.values(), (Vec{-7.375, 15.625, 23}));  // 0.75 * -10 + 0.25 * 0.5; 0.75 * 20 + 0.25 * 2.5
    return bits_of(out);
  });
}

TEST(ReturnRange, StaysWhereAReturnIsNotFinite) {
  for (double bad : {double(NAN), double(INFINITY), -double(INFINITY)}) {
    Vec values = normals(50, 1);
    values[20] = bad;
    for_each_schedule([&] {
      Buffer ret(values), low(Vec{-2}), high(Vec{3}), out(3);
      launch_return_range({ret, low, high, out, 50, {2, 3, 46, 47}, {0.5f, 0.5f}, 0.9f, 0.1f, 1.f}, STREAM);
      EXPECT_EQ(out.values(), (Vec{-2, 3, 5}));
      return bits_of(out);
    });
  }
}

}  // namespace
