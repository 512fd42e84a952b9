// replay_gather_test.cpp -- rows of a byte ring as floats, aligned and odd sizes, rows outside it, under
// every schedule.
#include "kernels/replay_gather.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

void check(int64_t cols) {
  std::vector<uint8_t> ring(5 * cols);
  for (size_t i = 0; i < ring.size(); ++i) ring[i] = uint8_t(i * 37);
  const std::vector<int64_t> index{4, 0, 5, 2, -1};
  for_each_schedule([&] {
    Buffer out(index.size() * cols);
    launch_replay_gather({ring.data(), index.data(), out.f32(), int64_t(index.size()), cols, 5}, nullptr);
    for (size_t n = 0; n < index.size(); ++n)
      for (int64_t i = 0; i < cols; ++i) {
        const float got = out.f32()[n * cols + i];
        if (index[n] < 0 || index[n] >= 5)
          EXPECT_TRUE(std::isnan(got));
        else
          EXPECT_EQ(got, float(ring[index[n] * cols + i]) / 255.f);
      }
    return std::vector<std::string>{out.raw()};
  });
}

TEST(ReplayGather, MatchesReference) {
  check(1);
  check(75);
  check(1028);
}

}  // namespace
