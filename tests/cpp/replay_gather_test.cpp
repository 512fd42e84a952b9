// replay_gather_test.cpp -- rows of a byte ring as floats, aligned and odd sizes, rows outside it, under
// every schedule.
#include "kernels/replay_gather.h"

#include <sys/mman.h>

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

void check(int64_t cols, int64_t offset = 0) {  // of the ring in its memory
  std::vector<uint8_t> memory(5 * cols + offset);
  for (size_t i = 0; i < memory.size(); ++i) memory[i] = uint8_t(i * 37);
  const uint8_t* ring = memory.data() + offset;
  const std::vector<int64_t> index{4, 0, 5, 2, -1};
  for_each_schedule([&] {
    Buffer out(index.size() * cols);
    launch_replay_gather({ring, index.data(), out, int64_t(index.size()), cols, 5}, STREAM);
    for (size_t n = 0; n < index.size(); ++n)
      for (int64_t i = 0; i < cols; ++i) {
        const float got = out[n * cols + i];
        if (index[n] < 0 || index[n] >= 5) EXPECT_TRUE(std::isnan(got));
        else EXPECT_EQ(got, float(ring[index[n] * cols + i]) / 255.f);
      }
    return bits_of(out);
  });
}

TEST(ReplayGather, MatchesReference) {
  check(1);
  check(75);
  check(1028);
}
// Four bytes at once would be a fault on the device, which the sanitizer of undefined behavior sees here.
TEST(ReplayGather, ARingOffFourBytes) { check(1028, 1); }

// A ring of 4.9 GB, of which only the last row is ever touched: its offset does not fit 32 bits.
TEST(ReplayGather, OffsetsBeyond32Bits) {
  const int64_t rows = 400000, cols = 12288, last = rows - 1;
  void* memory =
      mmap(nullptr, size_t(rows * cols), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  uint8_t* ring = static_cast<uint8_t*>(memory);
  for (int64_t i = 0; i < cols; ++i) ring[last * cols + i] = uint8_t(1 + i % 255);
  Buffer out(cols);
  launch_replay_gather({ring, &last, out, 1, cols, rows}, STREAM);
  for (int64_t i = 0; i < cols; ++i) EXPECT_EQ(out[i], float(1 + i % 255) / 255.f);
  munmap(memory, size_t(rows * cols));
}

}  // namespace
