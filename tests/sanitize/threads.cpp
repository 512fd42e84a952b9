// threads.cpp -- every op of csrc/ops, its CPU code split over threads that are really there and called by two at once,
// under ThreadSanitizer; and as many threads, the same bits.
//
//   ops_threads FOLDER     the calls that tests/fuzz/native_seeds.py --large wrote there
//   ops_threads --planted  a race, which must be reported
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "standin.h"

namespace fuzz {

void pieces(int64_t begin, int64_t end, int64_t step, const Piece& piece) {
  std::vector<std::thread> all;
  for (int64_t i = begin; i < end; i += step) all.emplace_back(piece, i, std::min(end, i + step));
  for (std::thread& thread : all) thread.join();
}

using Bytes = std::vector<uint8_t>;

// All tensors of a call after it: arguments, results and what lay between.
std::vector<Bytes> after(const Bytes& input) {
  std::vector<std::pair<std::shared_ptr<char>, size_t>> made;
  blocks = &made;
  Source source{input.data(), input.size()};
  chosen(source)(source);
  blocks = nullptr;
  std::vector<Bytes> all;
  for (const auto& [block, size] : made) all.emplace_back(block.get(), block.get() + size);
  return all;
}

int check(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const Bytes input{std::istreambuf_iterator<char>(file), {}};
  threads = 1;
  const std::vector<Bytes> alone = after(input);
  Source source{input.data(), input.size()};
  ++chosen(source).accepted;
  threads = 4;
  std::vector<Bytes> first, second;
  std::thread other([&] { second = after(input); });
  first = after(input);
  other.join();
  if (first == alone && second == alone) return 0;
  std::fprintf(stderr, "%s: other bits with four threads\n", path.filename().c_str());
  return 1;
}

}  // namespace fuzz

int main(int, char** words) {
  fuzz::most_elements = fuzz::most_bytes = int64_t(1) << 26;
  if (std::string(words[1]) == "--planted") {
    float sum = 0;
    torch::stable::parallel_for((fuzz::threads = 4, 0), 4, 1, [&](int64_t begin, int64_t) { sum += float(begin); });
    return sum < 0;
  }
  int wrong = 0;
  for (const auto& entry : std::filesystem::directory_iterator(words[1])) wrong += fuzz::check(entry.path());
  size_t missed = 0;
  for (const auto& [name, op] : fuzz::ops()) missed += !op.accepted;
  std::printf("%zu ops, %zu of them not called, %d calls wrong\n", fuzz::ops().size(), missed, wrong);
  return wrong || missed;
}
