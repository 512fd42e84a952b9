// harness.cpp -- libFuzzer against every op of csrc/ops: the checks of arguments, and the CPU code behind them.
//
// An input is an op and its arguments, a byte for each property: type, layout, place, values, every size. What the
// checks refuse is fine; what they let through runs, over blocks that AddressSanitizer guards. The seeds are the calls
// of tests/native/raw_cases.py, written by tests/fuzz/native_seeds.py in the format that `decode` reads.
#include <cstdio>
#include <limits>
#include <random>
#include <utility>

#include "standin.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);

namespace fuzz {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t LAST = std::numeric_limits<int64_t>::max();
// Sizes and integers: the byte itself below 192, then what lies at the edges; a size of two bytes behind a 255.
constexpr int64_t SIZES[] = {256, 1024, 1025, 4096, int64_t(1) << 31, int64_t(1) << 32, int64_t(1) << 40,
                             (int64_t(1) << 40) + 1, int64_t(1) << 61, int64_t(1) << 62, 6148914691236517206, LAST};
constexpr int64_t INTEGERS[] = {-1, -2, 1024, int64_t(1) << 31, int64_t(1) << 40, int64_t(1) << 61, int64_t(1) << 62,
                                LAST, -LAST - 1};
const double NUMBERS[] = {0.0, 0.01, 0.5, 0.8, 0.95, 0.99, 0.999, 1.0, -1.0, 5.0, 95.0, 100.0, 101.0, 1e-8, 1e308,
                          -1e308, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()};
enum Layout { PACKED, SPREAD, EXPANDED, OVERLAPPING };
// Matrices of any strides may be views of one element: a product of enormous ones is correct, and takes days.
bool any_strides = false;
// Whether the next tensor may be on a GPU. Torch brings a call with a GPU tensor only to an op that has code for it;
// the first tensor, which decides where that code runs, stays here.
bool gpu = false, may_be_gpu = false;
constexpr size_t MOST_CALLS = 64;           // accepted ones of an op, kept to be changed
constexpr int64_t MOST_ELEMENTS = 1 << 13;  // of an argument; a larger one is a view of one element

template <size_t N>
int64_t edge(uint8_t byte, const int64_t (&edges)[N]) {
  return byte < 192 ? byte : edges[(byte - 192) % N];
}

// Values by `mode`: small numbers, zeros, indices, and for floats the extremes of the type.
void fill(const Tensor& t, int64_t elements, uint8_t mode) {
  constexpr float INFINITE = std::numeric_limits<float>::infinity(), NOT = std::numeric_limits<float>::quiet_NaN();
  static const float EXTREMES[] = {0.f, -0.f, 1e-45f, 88.8f, -104.f, 3e38f, -3e38f, INFINITE, -INFINITE, NOT};
  if (t.is_cuda()) return;
  char* p = static_cast<char*>(t.data_ptr());
  std::minstd_rand random(mode + 1u);
  for (int64_t i = 0; i < elements; ++i) {
    const bool extreme = mode % 4 == 3, zero = mode % 4 == 1;
    const float f = extreme ? EXTREMES[random() % 10] : zero ? 0.f : float(random() % 2000) / 1000.f - 1.f;
    const int64_t n = extreme ? edge(uint8_t(random()), INTEGERS) : zero ? 0 : int64_t(random() % (1 + mode / 4 % 8));
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    const uint16_t half = uint16_t(bits >> 16);
    switch (t.scalar_type()) {
      case ScalarType::Float: std::memcpy(p + 4 * i, &f, 4); break;
      case ScalarType::BFloat16: std::memcpy(p + 2 * i, &half, 2); break;
      case ScalarType::Long: std::memcpy(p + 8 * i, &n, 8); break;
      case ScalarType::Bool: p[i] = char(n & 1); break;
      default: std::memset(p + i * torch::headeronly::bytes_of(t.scalar_type()), int(n), 1);
    }
  }
}

template <>
Tensor decode<Tensor>(Source& source) {
  const auto type = ScalarType(source.byte(Kind::TYPE) % 10);
  const uint8_t how = source.byte(Kind::LAYOUT), mode = source.byte(Kind::VALUES);
  auto layout = Layout(how % 4);
  const bool cuda = gpu && how >= 0xf0;
  gpu = may_be_gpu;
  std::vector<int64_t> sizes(source.byte(Kind::DIMENSIONS) % 6), strides(sizes.size());
  for (int64_t& size : sizes) {
    const uint8_t byte = source.byte(Kind::SIZE);
    size = byte < 255 ? edge(byte, SIZES) : source.byte() + 256 * int64_t(source.byte());
  }
  if (source.kinds) return Tensor({}, {}, type, false, 0);
  bool empty = false, many = false;
  for (int64_t size : sizes) empty = empty || size == 0;
  for (int64_t left = MOST_ELEMENTS; int64_t size : sizes) {
    many = many || (!empty && size > left);
    left /= std::max<int64_t>(1, size);
  }
  int64_t count = 1;  // torch makes no tensor whose elements 64 bits cannot count
  for (int64_t size : sizes)
    if (!empty && __builtin_mul_overflow(count, size, &count)) refuse("torch: numel: integer multiplication overflow");
  if (many && any_strides) refuse("more work than an input may take");
  int64_t step = layout == SPREAD && !many ? 2 : 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = many ? 0 : step;
    step = int64_t(uint64_t(step) * uint64_t(std::max<int64_t>(1, sizes[d])));
  }
  if (!sizes.empty() && layout == EXPANDED) strides[0] = 0;
  if (!sizes.empty() && layout == OVERLAPPING && !many) strides[0] = 1;
  int64_t elements = empty ? 0 : 1;
  for (size_t d = 0; !empty && d < sizes.size(); ++d) elements += (sizes[d] - 1) * strides[d];
  const int64_t offset = how >> 3 & 1;  // a view that begins behind its storage is aligned to an element
  Tensor t(std::move(sizes), std::move(strides), type, cuda, elements, offset);
  fill(t, elements, mode);
  return t;
}
template <>
std::optional<Tensor> decode<std::optional<Tensor>>(Source& source) {
  return source.byte() & 1 ? std::optional<Tensor>(decode<Tensor>(source)) : std::nullopt;
}
template <>
int64_t decode<int64_t>(Source& source) {
  return edge(source.byte(Kind::INTEGER), INTEGERS);
}
template <>
double decode<double>(Source& source) {
  return NUMBERS[source.byte() % (sizeof(NUMBERS) / sizeof(double))];
}
template <>
bool decode<bool>(Source& source) {
  return source.byte() & 1;
}
template <class T>
std::vector<T> several(Source& source) {
  std::vector<T> all;
  for (int n = source.byte() % 32; n > 0; --n) all.push_back(decode<T>(source));
  return all;
}
template <>
std::vector<Tensor> decode<std::vector<Tensor>>(Source& source) {
  return several<Tensor>(source);
}
template <>
std::vector<double> decode<std::vector<double>>(Source& source) {
  return several<double>(source);
}

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

Op& chosen(Source& source) {
  threads = 1 + source.byte() % 3;
  auto op = ops().begin();
  std::advance(op, source.byte() % ops().size());
  gpu = false, may_be_gpu = op->second.cuda;
  any_strides = op->first.compare(0, 2, "mm") == 0;
  return op->second;
}

uint8_t another(Kind kind, std::minstd_rand& random) {
  constexpr uint8_t OFTEN_TYPES[] = {0, 1, 4, 9};
  if (kind == Kind::TYPE && random() % 2) return OFTEN_TYPES[random() % 4];
  if (kind == Kind::SIZE && random() % 4) return uint8_t(random() % 40);
  if (kind == Kind::DIMENSIONS) return uint8_t(random() % 6);
  if (kind == Kind::LAYOUT && random() % 2) return random() % 2 ? 0x40 : 0x48;  // packed, behind its storage's start
  return uint8_t(random());
}

}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static fuzz::Counts counts;
  fuzz::Source source{data, size};
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
