// gather.cpp -- see gather.h. Rows are kilobytes long, so memcpy moves them at the speed of memory; the next
// row is prefetched, since its address is unrelated to this one's.
#include "host/gather.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <thread>
#include <vector>

namespace hd::host {
namespace {

void gather_part(const uint8_t* ring, int64_t row_bytes, const int64_t* index, int64_t begin, int64_t end,
                 uint8_t* out) {
  for (int64_t i = begin; i < end; ++i) {
    if (i + 1 < end) __builtin_prefetch(ring + index[i + 1] * row_bytes);
    std::memcpy(out + i * row_bytes, ring + index[i] * row_bytes, size_t(row_bytes));
  }
}

// Joins what was started.
struct Joined {
  std::vector<std::thread> threads;
  ~Joined() {
    for (std::thread& t : threads) t.join();
  }
};

}  // namespace

void gather_rows(const uint8_t* ring, int64_t row_bytes, const int64_t* index, int64_t count, uint8_t* out,
                 int64_t threads) noexcept {
  constexpr int64_t BYTES_PER_THREAD = 1 << 20;
  const int64_t useful = count * row_bytes / BYTES_PER_THREAD;
  const int64_t parts = std::clamp<int64_t>(std::min(threads, useful), 1, std::max<int64_t>(count, 1));
  Joined others;
  int64_t p = 1;
  try {
    others.threads.reserve(size_t(parts - 1));
    for (; p < parts; ++p)
      others.threads.emplace_back(gather_part, ring, row_bytes, index, p * count / parts, (p + 1) * count / parts, out);
  } catch (const std::exception&) {  // no memory for another thread, or as many as there may be
    gather_part(ring, row_bytes, index, p * count / parts, count, out);
  }
  gather_part(ring, row_bytes, index, 0, count / parts, out);
}

}  // namespace hd::host
