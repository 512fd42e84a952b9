// harness.cpp -- libFuzzer against every op of csrc/ops: the checks of arguments, and the CPU code behind them.
//
// What the checks refuse is fine; what they let through runs, over blocks that AddressSanitizer guards. The seeds are
// the calls of tests/native/raw_cases.py.
#include <cstdio>

#include "standin.h"

namespace fuzz {

// Said at the end: calls, and ops that no call reached, which run.py takes for a finding.
struct Counts {
  uint64_t accepted = 0, refused = 0;
  ~Counts() {
    std::string missed;
    size_t reached = 0;
    for (const auto& [name, op] : ops()) op.accepted ? void(++reached) : void(missed += " " + name);
    std::fprintf(stderr, "calls: %lu accepted, %lu refused; %zu of %zu ops accepted one\n", accepted, refused, reached,
                 ops().size());
    if (!missed.empty()) std::fprintf(stderr, "never accepted:%s\n", missed.c_str());
  }
};

// The pieces of a parallel loop, one after the other.
void pieces(int64_t begin, int64_t end, int64_t step, const Piece& piece) {
  for (int64_t i = begin; i < end; i += step) piece(i, std::min(end, i + step));
}

}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static fuzz::Counts counts;
  fuzz::Source source{data, size};
  fuzz::threads = size ? 1 + data[0] % 3 : 1;
  fuzz::Op& op = fuzz::chosen(source);
  try {
    op(source);
    ++counts.accepted;
    ++op.accepted;
  } catch (const fuzz::Refused&) {
    ++counts.refused;
  }
  return 0;
}
