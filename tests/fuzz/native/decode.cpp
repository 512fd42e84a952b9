// decode.cpp -- from the bytes of an input to an op and its arguments, a byte for each property: type, layout, place,
// values, every size. tests/fuzz/native_seeds.py writes the format.
#include <limits>
#include <random>
#include <utility>

#include "standin.h"

namespace fuzz {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t LAST = std::numeric_limits<int64_t>::max();
// Sizes and integers: the byte itself below 192, then what lies at the edges; a size of three bytes behind a 255.
constexpr int64_t SIZES[] = {256, 1024, 1025, 4096, int64_t(1) << 31, int64_t(1) << 32, int64_t(1) << 40,
                             (int64_t(1) << 40) + 1, int64_t(1) << 61, int64_t(1) << 62, 6148914691236517206, LAST};
constexpr int64_t INTEGERS[] = {-1, -2, 1024, int64_t(1) << 31, int64_t(1) << 40, int64_t(1) << 61, int64_t(1) << 62,
                                LAST, -LAST - 1};
const double NUMBERS[] = {0.0, 0.01, 0.5, 0.8, 0.95, 0.99, 0.999, 1.0, -1.0, 5.0, 95.0, 100.0, 101.0, 1e-8, 1e308,
                          -1e308, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()};
enum Layout { PACKED, SPREAD, EXPANDED, OVERLAPPING };
// Matrices of any strides may be views of one element: a product of enormous ones is correct, and takes days.
thread_local bool any_strides = false;
// Whether the next tensor may be on a GPU. Torch brings a call with a GPU tensor only to an op that has code for it;
// the first tensor, which decides where that code runs, stays here.
thread_local bool gpu = false, may_be_gpu = false;

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
  const auto type = ScalarType(source.byte() % 10);
  const uint8_t how = source.byte(), mode = source.byte();
  auto layout = Layout(how % 4);
  const bool cuda = gpu && how >= 0xf0;
  gpu = may_be_gpu;
  std::vector<int64_t> sizes(source.byte() % 6), strides(sizes.size());
  for (int64_t& size : sizes) {
    const uint8_t byte = source.byte();
    size = edge(byte, SIZES);
    if (byte == 255) size = source.byte(), size += 256 * source.byte(), size += 65536 * source.byte();
  }
  bool empty = false, many = false;
  for (int64_t size : sizes) empty = empty || size == 0;
  for (int64_t left = most_elements; int64_t size : sizes) {
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
  return edge(source.byte(), INTEGERS);
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
template <>
std::vector<int64_t> decode<std::vector<int64_t>>(Source& source) {
  return several<int64_t>(source);
}

Op& chosen(Source& source) {
  source.byte();
  auto op = ops().begin();
  std::advance(op, source.byte() % ops().size());
  gpu = false, may_be_gpu = op->second.cuda;
  any_strides = op->first.compare(0, 2, "mm") == 0;
  return op->second;
}

}  // namespace fuzz
