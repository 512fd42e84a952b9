// standin.h -- the part of libtorch's stable ABI that csrc/ops uses, with tensors that are nothing but metadata and a
// heap block of exactly their size: AddressSanitizer sees the first byte read or written beside one.
//
// CMakeLists.txt puts it in place of torch's headers. A refused call throws Refused, as STD_TORCH_CHECK throws there.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace fuzz {

struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};
template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw Refused(text.str());
}
// Bytes that one tensor may take here; what torch could not allocate it refuses, and so does this.
inline int64_t most_bytes = int64_t(1) << 22;
inline int64_t most_elements = 1 << 13;  // of an argument; a larger one is a view of one element
inline int threads = 1;
// A parallel loop's pieces of `step`, each program's own.
using Piece = std::function<void(int64_t, int64_t)>;
void pieces(int64_t begin, int64_t end, int64_t step, const Piece& piece);
// What tensors were made of, in order, where a program wants to know.
inline thread_local std::vector<std::pair<std::shared_ptr<char>, size_t>>* blocks = nullptr;

// The bytes of an input, in order; zeros behind its end.
struct Source {
  const uint8_t* data;
  size_t size, at = 0;
  uint8_t byte() { return at < size ? data[at++] : 0; }
};
struct Op {
  void (*box)(uint64_t* source, uint64_t, uint64_t);
  bool cuda;  // whether a build with CUDA has the op for GPU tensors too
  uint64_t accepted = 0;
  void operator()(Source& source) { box(reinterpret_cast<uint64_t*>(&source), 0, 0); }
};
inline std::map<std::string, Op>& ops() {
  static std::map<std::string, Op> all;
  return all;
}
Op& chosen(Source& source);  // by the first two bytes; the first, a number of threads, is the caller's
template <class T>
T decode(Source& source);

// Calls an op with what an input says: arguments are decoded from left to right, results dropped.
template <class Result, class... Args>
void call(Result (*f)(Args...), Source& source) {
  std::tuple<std::decay_t<Args>...> args{decode<std::decay_t<Args>>(source)...};
  std::apply(f, std::move(args));
}

}  // namespace fuzz

namespace torch::headeronly {
enum class ScalarType : int8_t { Float, BFloat16, Double, Half, Long, Int, Short, Char, Byte, Bool };
inline int64_t bytes_of(ScalarType type) {
  constexpr int64_t BYTES[] = {4, 2, 8, 2, 8, 4, 2, 1, 1, 1};
  return BYTES[int(type)];
}
struct IntHeaderOnlyArrayRef {
  const int64_t* data;
  size_t size;
  IntHeaderOnlyArrayRef(const int64_t* d, size_t n) : data(d), size(n) {}
};
}  // namespace torch::headeronly

namespace torch::stable {

using headeronly::ScalarType;

class Tensor {
 public:
  // Strides in elements; `elements` is what the block holds behind the first `offset`. Without any there is no address.
  Tensor(std::vector<int64_t> sizes, std::vector<int64_t> strides, ScalarType type, bool cuda, int64_t elements,
         int64_t offset = 0)
      : sizes_(std::move(sizes)), strides_(std::move(strides)), type_(type), cuda_(cuda) {
    if (elements == 0) return;
    const int64_t size = headeronly::bytes_of(type), bytes = (elements + offset) * size;
    block_ = std::shared_ptr<char>(static_cast<char*>(std::malloc(bytes)), std::free);
    std::memset(block_.get(), 0x7f, bytes);  // an index that nobody wrote leads far away
    data_ = block_.get() + offset * size;
    if (fuzz::blocks) fuzz::blocks->emplace_back(block_, bytes);
  }
  // Of memory that somebody else has and lets go with the last copy.
  Tensor(std::vector<int64_t> sizes, std::vector<int64_t> strides, ScalarType type, std::shared_ptr<char> memory)
      : sizes_(std::move(sizes)), strides_(std::move(strides)), type_(type), cuda_(false), block_(std::move(memory)),
        data_(block_.get()) {
    const size_t bytes = size_t(numel() * headeronly::bytes_of(type));
    std::memset(data_, 0x7f, bytes);
    if (fuzz::blocks) fuzz::blocks->emplace_back(block_, bytes);
  }
  explicit Tensor(Tensor* made) : Tensor(*std::unique_ptr<Tensor>(made)) {}  // takes what C functions made
  int64_t dim() const { return int64_t(sizes_.size()); }
  int64_t size(int64_t d) const { return at(sizes_, d); }
  int64_t stride(int64_t d) const { return at(strides_, d); }
  int64_t numel() const {
    uint64_t n = 1;
    for (int64_t s : sizes_) n *= uint64_t(s);
    return int64_t(n);
  }
  bool is_contiguous() const {
    int64_t expected = 1;
    for (int64_t d = dim() - 1; d >= 0; --d) {
      if (sizes_[d] == 0) return true;
      if (sizes_[d] != 1 && strides_[d] != expected) return numel() == 0;
      expected = int64_t(uint64_t(expected) * uint64_t(sizes_[d]));
    }
    return true;
  }
  bool is_cuda() const { return cuda_; }
  int32_t get_device() const { return cuda_ ? 0 : -1; }
  ScalarType scalar_type() const { return type_; }
  void* data_ptr() const { return cuda_ ? reinterpret_cast<void*>(16) : data_; }

 private:
  static int64_t at(const std::vector<int64_t>& numbers, int64_t d) {
    if (d < 0 || d >= int64_t(numbers.size())) fuzz::refuse("torch: dimension out of range");
    return numbers[size_t(d)];
  }
  std::vector<int64_t> sizes_, strides_;
  ScalarType type_;
  bool cuda_;
  std::shared_ptr<char> block_;
  char* data_ = nullptr;
};

inline Tensor zero_(Tensor& t) {
  if (t.numel()) std::memset(t.data_ptr(), 0, size_t(t.numel() * headeronly::bytes_of(t.scalar_type())));
  return t;
}
inline uint32_t get_num_threads() { return uint32_t(fuzz::threads); }
template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
  const int64_t step = std::max(std::max<int64_t>(1, grain), (end - begin + fuzz::threads - 1) / fuzz::threads);
  fuzz::pieces(begin, end, step, f);
}
namespace accelerator {
struct DeviceGuard {
  explicit DeviceGuard(int32_t) {}
};
}  // namespace accelerator
namespace detail {
struct StableLibrary {
  bool cuda;
  void def(const char*) {}
  void impl(const char* name, void (*box)(uint64_t*, uint64_t, uint64_t)) { fuzz::ops()[name] = {box, cuda}; }
};
struct Registered {
  Registered(void (*fill)(StableLibrary&), bool cuda) {
    StableLibrary library{cuda};
    fill(library);
  }
};
}  // namespace detail
}  // namespace torch::stable

// ---- the C functions: 0 is success
using AtenTensorHandle = torch::stable::Tensor*;
inline int32_t aoti_torch_device_type_cpu() { return 0; }
inline int32_t aoti_torch_device_type_cuda() { return 1; }
inline int32_t aoti_torch_layout_strided() { return 0; }
inline int aoti_torch_empty_strided(int64_t dims, const int64_t* sizes, const int64_t* strides, int32_t type,
                                    int32_t device, int32_t, AtenTensorHandle* made) {
  const auto dtype = torch::headeronly::ScalarType(type);
  int64_t elements = 1;
  for (int64_t d = 0; d < dims; ++d) {
    if (sizes[d] < 0) std::abort();  // torch would refuse it; that we asked for it is our fault
    if (__builtin_mul_overflow(elements, sizes[d], &elements)) return 1;
  }
  if (elements > fuzz::most_bytes / torch::headeronly::bytes_of(dtype)) return 1;
  *made = new torch::stable::Tensor({sizes, sizes + dims}, {strides, strides + dims}, dtype, device == 1, elements);
  return 0;
}
inline int torch_from_blob(void* data, int64_t dims, const int64_t* sizes, const int64_t* strides, int64_t,
                           int32_t type, int32_t, int32_t, AtenTensorHandle* made, int32_t, const uint8_t*, int64_t,
                           void (*deleter)(void*, void*), void* context) {
  *made = new torch::stable::Tensor(
      {sizes, sizes + dims}, {strides, strides + dims}, torch::headeronly::ScalarType(type),
      std::shared_ptr<char>(static_cast<char*>(data), [=](char* p) { deleter(p, context); }));
  return 0;
}

using StableIValue = uint64_t;
// The arguments' place is the input's.
#define TORCH_BOX(f) \
  [](uint64_t* source, uint64_t, uint64_t) { fuzz::call(f, *reinterpret_cast<fuzz::Source*>(source)); }
#define STD_TORCH_CHECK(condition, ...) \
  do {                                  \
    if (!(condition)) fuzz::refuse(__VA_ARGS__); \
  } while (false)
#define TORCH_ERROR_CODE_CHECK(call) (call)
#define FUZZ_NAME_(a, b) a##b
#define FUZZ_NAME(a, b) FUZZ_NAME_(a, b)
#define FUZZ_LIBRARY(m, id)                                                                              \
  static void FUZZ_NAME(fuzz_fill_, id)(torch::stable::detail::StableLibrary&);                          \
  static const torch::stable::detail::Registered FUZZ_NAME(fuzz_registered_, id)(                        \
      FUZZ_NAME(fuzz_fill_, id), FUZZ_CUDA);                                                             \
  static void FUZZ_NAME(fuzz_fill_, id)([[maybe_unused]] torch::stable::detail::StableLibrary& m)
#define STABLE_TORCH_LIBRARY_FRAGMENT(space, m) FUZZ_LIBRARY(m, __COUNTER__)
#define STABLE_TORCH_LIBRARY_IMPL(space, key, m) FUZZ_LIBRARY(m, __COUNTER__)
