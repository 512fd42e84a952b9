// harness.cpp -- libFuzzer against every op of csrc/ops: the checks of arguments, and the CPU code behind them.
//
// What the checks refuse is fine; what they let through runs, over blocks that AddressSanitizer guards. The seeds are
// the calls of tests/native/raw_cases.py.
#include <cstdio>
#include <random>

#include "standin.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);

namespace fuzz {

constexpr size_t MOST_CALLS = 64;  // accepted ones of an op, kept to be changed

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

uint8_t another(Kind kind, std::minstd_rand& random) {
  constexpr uint8_t OFTEN_TYPES[] = {0, 1, 4, 9};
  if (kind == Kind::TYPE && random() % 2) return OFTEN_TYPES[random() % 4];
  if (kind == Kind::SIZE && random() % 4) return uint8_t(random() % 40);
  if (kind == Kind::DIMENSIONS) return uint8_t(random() % 6);
  if (kind == Kind::LAYOUT && random() % 2) return random() % 2 ? 0x40 : 0x48;  // packed, behind its storage's start
  return uint8_t(random());
}

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
    const std::vector<uint8_t> input(data, data + size);
    if (++op.accepted; op.calls.size() < fuzz::MOST_CALLS)
      op.calls.push_back(input);
    else
      op.calls[op.accepted % fuzz::MOST_CALLS] = input;
  } catch (const fuzz::Refused&) {
    ++counts.refused;
  }
  return 0;
}

// libFuzzer's corpus fills with calls that are refused in ever new ways, so most mutations begin with an accepted call,
// of any op. They know what a byte says: most change it everywhere it is said, so that sizes, types and layouts that
// fitted together still do; some spoil one place, and some are libFuzzer's own, which know nothing.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  std::minstd_rand random(seed);
  auto op = fuzz::ops().begin();
  std::advance(op, random() % fuzz::ops().size());
  if (const auto& calls = op->second.calls; !calls.empty() && random() % 4) {
    const std::vector<uint8_t>& call = calls[random() % calls.size()];
    size = std::min(most, call.size());
    std::memcpy(data, call.data(), size);
  }
  if (size < 3 || random() % 8 == 0) return LLVMFuzzerMutate(data, size, most);
  std::vector<fuzz::Kind> kinds;
  fuzz::Source source{data, size, 0, &kinds};
  fuzz::chosen(source)(source);
  if (random() % 4 == 0) data[0] = uint8_t(random());  // threads
  if (kinds.size() < 3) return size;
  for (unsigned changes = 1 + random() % 2; changes > 0; --changes) {
    const size_t at = 2 + random() % (kinds.size() - 2);
    const fuzz::Kind kind = kinds[at];
    const uint8_t from = data[at], to = fuzz::another(kind, random);
    const bool everywhere = random() % 4 && kind != fuzz::Kind::OTHER && kind != fuzz::Kind::DIMENSIONS;
    const auto same = [&](fuzz::Kind k) {
      return k == kind || (kind == fuzz::Kind::SIZE && k == fuzz::Kind::INTEGER && from < 192);
    };
    for (size_t i = 2; everywhere && i < kinds.size(); ++i)
      if (data[i] == from && same(kinds[i])) data[i] = to;
    data[at] = to;
  }
  return size;
}
