// glue.h -- from tensors to raw pointers: the pattern every csrc/ops/<family>.cpp follows.
//
// A family is one file: one HD_OP per op, a function that checks its tensors while it fills the family's argument
// struct and hands it to HD_RUN, which picks the device launcher or the CPU code. The file is compiled twice: into the
// shipped library (namespace `hdfast`), and with -DHD_EMU into the test library (`hdfast_emu`), where tensors are on
// the CPU and the launchers are those of the very same .cu files compiled for the emulator. The families of a library
// are one translation unit (two, if some lack kernels), so that torch's headers are read once: names in their anonymous
// namespaces must differ, or differ in their arguments.
//
// Only the stable ABI of libtorch is used here, target 2.11: no at::Tensor, no pybind11, no c10/cuda. Checks in this
// layer guard memory, and say what was expected, what came and what to do; those that know the caller's names are in
// hdfast/ops/<family>.py and come first.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/types.h"
#include "ops/op.h"

namespace hd::ops {

using torch::headeronly::ScalarType;
using Shape = std::initializer_list<int64_t>;

// torch's current CUDA stream of a device; looked up at run time because libtorch_cuda may not be there at
// all.
hdStream current_stream(int32_t device);

// ---- checks -----------------------------------------------------------------------------------------------
// `what` names the argument: HD_CHECK(cond, "x must ...").
#define HD_CHECK(condition, ...) STD_TORCH_CHECK(condition, op_name(), ": ", __VA_ARGS__)
// The op that this thread runs.
inline const char*& op_name() {
  static thread_local const char* name = "";
  return name;
}

inline std::string listed(const std::vector<int64_t>& numbers) {
  std::string text;
  for (int64_t n : numbers) text += (text.empty() ? "" : ", ") + std::to_string(n);
  return "(" + text + (numbers.size() == 1 ? ",)" : ")");
}
inline std::vector<int64_t> sizes_of(const Tensor& t) {
  std::vector<int64_t> sizes(t.dim());
  for (int64_t d = 0; d < t.dim(); ++d) sizes[d] = t.size(d);
  return sizes;
}
inline std::string shape_of(const Tensor& t) { return listed(sizes_of(t)); }
inline std::string strides_of(const Tensor& t) {
  std::vector<int64_t> strides(t.dim());
  for (int64_t d = 0; d < t.dim(); ++d) strides[d] = t.stride(d);
  return listed(strides);
}
// What came, for the end of a message.
inline std::string got(const Tensor& t) { return ", got shape " + shape_of(t) + "; reshape it"; }
inline std::string got(const Tensor& t, const Tensor& u) {
  return ", got shapes " + shape_of(t) + " and " + shape_of(u) + "; reshape them";
}
inline std::string device_of(const Tensor& t) {
  return t.is_cuda() ? "cuda:" + std::to_string(t.get_device()) : std::string("cpu");
}
inline std::string type_name(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Bool: return "bool";
    default: return "another type";
  }
}

// Sizes below this bound keep sums and small multiples of them within 64 bits, also where a tensor is empty and its
// other sizes may be anything.
constexpr int64_t SIZE_LIMIT = int64_t(1) << 40;
inline void check_sizes(const Tensor& t, const char* what) {
  for (int64_t d = 0; d < t.dim(); ++d)
    HD_CHECK(t.size(d) <= SIZE_LIMIT, what, " must have sizes up to ", SIZE_LIMIT, got(t));
}
// a * b, both at least 0, where the product is a number of 64 bits.
inline int64_t times(int64_t a, int64_t b, const char* what) {
  int64_t product = 0;
  HD_CHECK(a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, &product), what,
           " must have sizes whose product fits 64 bits, got ", a, " times ", b, "; make them smaller");
  return product;
}
inline void check_contiguous(const Tensor& t, const char* what) {
  check_sizes(t, what);
  HD_CHECK(t.is_contiguous(), what, " must be contiguous, got shape ", shape_of(t), " with strides ", strides_of(t),
           "; call contiguous()");
}
inline void check_device(const Tensor& t, const Tensor& like, const char* what) {
  HD_CHECK(t.is_cuda() == like.is_cuda() && t.get_device() == like.get_device(), what, " must be on ", device_of(like),
           " as the other tensors are, got ", device_of(t), "; move it there");
}
inline void check_layout(const Tensor& t, const Tensor& like, const char* what) {
  check_contiguous(t, what);
  check_device(t, like, what);
}
inline void check_type(const Tensor& t, ScalarType type, const char* what) {
  HD_CHECK(t.scalar_type() == type, what, " must be ", type_name(type), ", got ", type_name(t.scalar_type()),
           "; convert it");
}
inline void check_shape(const Tensor& t, Shape shape, const char* what) {
  bool same = t.dim() == int64_t(shape.size());
  int64_t d = 0;
  for (int64_t n : shape) same = same && t.size(d++) == n;
  HD_CHECK(same, what, " must have shape ", listed(shape), got(t));
}
inline void check_same_shape(const Tensor& t, const Tensor& like, const char* what) {
  bool same = t.dim() == like.dim();
  for (int64_t d = 0; same && d < t.dim(); ++d) same = t.size(d) == like.size(d);
  HD_CHECK(same, what, " must have shape ", shape_of(like), got(t));
}
// Storage type of an activation tensor: float32 or bfloat16.
inline DType storage(const Tensor& t, const char* what) {
  const ScalarType type = t.scalar_type();
  HD_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16, what, " must be float32 or bfloat16, got ",
           type_name(type), "; convert it");
  return type == ScalarType::Float ? DType::F32 : DType::BF16;
}

// ---- tensors ----------------------------------------------------------------------------------------------
inline int64_t cols(const Tensor& t) { return t.size(t.dim() - 1); }
// Product of all sizes but the last `trailing` ones; right for empty tensors too.
inline int64_t rows(const Tensor& t, int64_t trailing = 1) {
  int64_t n = 1;
  for (int64_t d = 0; d < t.dim() - trailing; ++d) n = times(n, t.size(d), "a tensor");
  return n;
}
// torch had no memory for a tensor; any other bad_alloc is that of a buffer within an op.
struct NoTensor : std::bad_alloc {
  std::string wanted;
  explicit NoTensor(std::string text) : wanted(std::move(text)) {}
};
// Memory from malloc for a large tensor, or null. torch's allocator asks for aligned memory, which costs a few bytes at
// both ends of a block: small objects settle in them, and the block is too short for the next tensor of its size.
inline AtenTensorHandle large(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides, ScalarType type,
                              uint64_t bytes) {
  constexpr uint64_t ALIGN = 64;
  void* block = std::malloc(bytes + ALIGN);
  const uintptr_t start = (reinterpret_cast<uintptr_t>(block) + ALIGN) & ~uintptr_t(ALIGN - 1);
  AtenTensorHandle made = nullptr;
  if (block && torch_from_blob(
                   reinterpret_cast<void*>(start), shape.size(), shape.data(), strides.data(), 0, int32_t(type),
                   aoti_torch_device_type_cpu(), -1, &made, aoti_torch_layout_strided(), nullptr, 0,
                   [](void*, void* owned) { std::free(owned); }, block))
    std::free(block);
  return made;
}
// All memory for tensors, without torch's dispatcher: with it an op of three results waits longer for them than a small
// kernel takes. A failure of torch's would name the line of its header that asked, and no reason.
inline Tensor allocate(const Tensor& like, const std::vector<int64_t>& shape, ScalarType type) {
  constexpr uint64_t LARGE = 1 << 20;
  std::vector<int64_t> strides(shape.size());
  int64_t numbers = 1;
  for (size_t d = shape.size(); d-- > 0; numbers *= std::max<int64_t>(1, shape[d])) strides[d] = numbers;
  uint64_t bytes = type == ScalarType::Long ? 8 : type == ScalarType::BFloat16 ? 2 : 4;  // what ops ask for
  bool fits = true;
  for (int64_t n : shape) fits = !__builtin_mul_overflow(bytes, uint64_t(n), &bytes) && fits;
  AtenTensorHandle made = nullptr;
  if (!like.is_cuda() && (type == ScalarType::Float || type == ScalarType::BFloat16) && fits && bytes >= LARGE &&
      bytes < SIZE_MAX / 2) {
    made = large(shape, strides, type, bytes);
  } else {
    const int32_t device = like.is_cuda() ? aoti_torch_device_type_cuda() : aoti_torch_device_type_cpu();
    aoti_torch_empty_strided(shape.size(), shape.data(), strides.data(), int32_t(type), device, like.get_device(),
                             &made);
  }
  if (!made)
    throw NoTensor(std::to_string(bytes) + " bytes on " + device_of(like) + " for a tensor of shape " + listed(shape));
  return Tensor(made);
}
// Runs an op under its name. A failed allocation comes out of it with advice.
template <class F>
void named(const char* name, const F& op) {
  op_name() = name;
  const auto refuse = [&](const std::string& wanted) {
    HD_CHECK(false, "out of memory: asked for ", wanted,
             " and got none; use a smaller batch or network, or more memory");
  };
  try {
    op();
  } catch (const NoTensor& error) {
    refuse(error.wanted);
  } catch (const std::bad_alloc&) {
    refuse("memory on cpu for a buffer");
  }
}
inline Tensor empty(const Tensor& like, Shape shape, ScalarType type = ScalarType::Float) {
  return allocate(like, shape, type);
}
// Contiguous, of the shape, type and device of `like`.
inline Tensor new_like(const Tensor& like) { return allocate(like, sizes_of(like), like.scalar_type()); }

// An empty tensor has no address, where memset and pointer arithmetic want one even for nothing.
inline void* address(const Tensor& t) {
  alignas(64) static char nothing[64];
  void* p = t.data_ptr();
  return p ? p : nothing;
}
template <class T = float>
inline const T* in(const Tensor& t) {
  return static_cast<const T*>(address(t));
}
template <class T = float>
inline T* out(const Tensor& t) {
  return static_cast<T*>(address(t));
}

template <class T>
constexpr ScalarType type_of() {
  if (std::is_same_v<T, int64_t>) return ScalarType::Long;
  if (std::is_same_v<T, bool>) return ScalarType::Bool;
  return std::is_same_v<T, uint8_t> ? ScalarType::Byte : ScalarType::Float;
}
// New tensors whose numbers are those of `slot`, a field of the op's arguments.
template <class T>
Tensor empty(const Tensor& like, Shape shape, T*& slot) {
  Tensor t = empty(like, shape, type_of<T>());
  slot = out<T>(t);
  return t;
}
template <class T>
Tensor new_like(const Tensor& like, T*& slot) {
  Tensor t = new_like(like);
  slot = out<T>(t);
  return t;
}
// Of the shape of `like` without its last `trailing` dimensions.
template <class T>
Tensor new_rows(const Tensor& like, T*& slot, int64_t trailing = 1) {
  std::vector<int64_t> shape = sizes_of(like);
  shape.resize(like.dim() - trailing);
  Tensor t = allocate(like, shape, type_of<T>());
  slot = out<T>(t);
  return t;
}

// The numbers of a contiguous tensor of this shape and of type T on the device of `like`; null for an absent one.
inline void* take_as(ScalarType type, const Tensor& t, Shape shape, const Tensor& like, const char* what) {
  check_layout(t, like, what);
  check_type(t, type, what);
  check_shape(t, shape, what);
  return out<void>(t);
}
template <class T = float>
T* take(const Tensor& t, Shape shape, const Tensor& like, const char* what) {
  return static_cast<T*>(take_as(type_of<T>(), t, shape, like, what));
}
template <class T = float>
T* take(const Maybe& t, Shape shape, const Tensor& like, const char* what) {
  return t ? take<T>(*t, shape, like, what) : nullptr;
}
// Fills args.name from the tensor `name`: HD_TAKE(args, name, shape, like), of the field's type, null for an absent
// one; or HD_TAKE(args, name, like), of the shape and type of `like`, float32 unless the field is void*.
#define HD_TAKE(args, name, ...) take_into(args.name, name, __VA_ARGS__, #name)
template <class T>
void take_into(T*& slot, const Maybe& t, Shape shape, const Tensor& like, const char* what) {
  slot = take<std::remove_const_t<T>>(t, shape, like, what);
}
template <class T>
void take_into(T*& slot, const Tensor& t, const Tensor& like, const char* what) {
  if (!std::is_void_v<T>) check_type(t, ScalarType::Float, what);
  check_layout(t, like, what);
  check_type(t, like.scalar_type(), what);
  check_same_shape(t, like, what);
  slot = out<T>(t);
}
// HD_TAKE_ROWS(args, name, like, trailing): of the shape of `like` without its last dimensions; null for an absent one.
#define HD_TAKE_ROWS(args, name, like, trailing) take_rows(args.name, name, like, trailing, #name)
template <class T>
void take_rows(T*& slot, const Maybe& t, const Tensor& like, int64_t trailing, const char* what) {
  if (!t) return;
  check_layout(*t, like, what);
  check_type(*t, type_of<std::remove_const_t<T>>(), what);
  bool same = t->dim() == like.dim() - trailing;
  for (int64_t d = 0; same && d < t->dim(); ++d) same = t->size(d) == like.size(d);
  HD_CHECK(same, what, " must have shape ", shape_of(like), " without its last ", trailing, got(*t));
  slot = out<std::remove_const_t<T>>(*t);
}
// Float32 of any shape with so many elements.
inline float* take_count(const Tensor& t, int64_t count, const Tensor& like, const char* what) {
  check_type(t, ScalarType::Float, what);
  check_layout(t, like, what);
  HD_CHECK(int64_t(t.numel()) == count, what, " must have ", count, " elements", got(t));
  return out(t);
}

// ---- execution --------------------------------------------------------------------------------------------
// torch's parallel loop, out of which the first exception of a piece comes as it was thrown; torch's own shim would
// replace it by the line of the call.
template <class F>
void parallel(int64_t n, int64_t grain, const F& f) {
  std::exception_ptr failure;
  std::atomic<bool> failed{false};
  torch::stable::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
    try {
      f(begin, end);
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
}

// Elements, about 1 ns each, below which a slice is not worth waking a thread; tests of threads want slices of one.
#ifndef HD_SLICE
#define HD_SLICE 50000
#endif
// Given to the CPU branch of `run`: splits [0, n) over torch's threads. `cost` is the number of elements
// that one of the n items touches. Small items may be numbers, of which a vector holds many; what is left over behind
// the last vector the compiler rounds in another way. So slices of them end where vectors do, whatever the threads.
struct Threads {
  static constexpr int64_t LANES = 64;
  template <class F>
  void split(int64_t n, int64_t cost, const F& f) const {
    if (n <= 0) return;
    const int64_t grain = std::max<int64_t>(1, HD_SLICE / std::max<int64_t>(1, cost));
    if (n <= grain) return f(int64_t(0), n);
    if (grain < 8 * LANES) return parallel(n, grain, f);
    parallel((n + LANES - 1) / LANES, grain / LANES,
             [&](int64_t begin, int64_t end) { f(begin * LANES, std::min(n, end * LANES)); });
  }
};

// run(x, [&](auto stream) { launch_op(args, stream); }, [&](auto threads) { threads.split(n, cost, ...); });
// Both are generic lambdas: the branch that is not linked in is never instantiated.
template <class Device, class Cpu>
void run(const Tensor& x, const Device& device, const Cpu& cpu) {
#if defined(HD_EMU)
  device(reinterpret_cast<hdStream>(16));  // any but the default stream, which it refuses
#else
#if HD_DEVICE_KERNELS
  if (x.is_cuda()) {
    torch::stable::accelerator::DeviceGuard guard(x.get_device());
    device(current_stream(x.get_device()));
    return;
  }
#endif
  cpu(Threads{});
#endif
}

// `run` of an op with launch_<op>(args, stream), and cpu::<op>(args, begin, end) for a range of n items.
#define HD_RUN(op, x, args, n, cost)                      \
  run(                                                    \
      x, [&](auto stream) { launch_##op(args, stream); }, \
      [&](auto threads) { threads.split(n, cost, [&](int64_t begin, int64_t end) { cpu::op(args, begin, end); }); })

// For a number that the two sides choose differently (sizes of scratch): pick(x, [](auto) {...}, [](auto)
// {...}).
template <class Device, class Cpu>
int64_t pick(const Tensor& x, const Device& device, const Cpu& cpu) {
#if defined(HD_EMU)
  return device(0);
#else
#if HD_DEVICE_KERNELS
  if (x.is_cuda()) return device(0);
#endif
  return cpu(0);
#endif
}

}  // namespace hd::ops
