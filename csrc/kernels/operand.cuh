// operand.cuh -- loads and stores of a type that is known at run time only. What a matrix product reads next is stored
// in the product's type: float values become bfloat16 operands without a pass of their own.
#pragma once
#include <type_traits>

#include "device/hd.h"
#include "kernels/types.h"

namespace hd {

// N consecutive elements at element `at` of `base`, whose type is `dtype` (the same for a whole launch).
template <int N>
__device__ __forceinline__ void store_operand(void* base, int64_t at, DType dtype, const float (&v)[N]) {
  if (dtype == DType::F32) store(static_cast<float*>(base) + at, v);
  else store(static_cast<bf16*>(base) + at, v);
}
__device__ __forceinline__ void store_operand(void* base, int64_t at, DType dtype, float v) {
  const float one[1] = {v};
  store_operand(base, at, dtype, one);
}

// Element `at` of `base`: a T, or, where T is void, a `dtype`. Void halves the kernels of a rare case.
template <class T>
__device__ __forceinline__ float load_as(const void* base, int64_t at, DType dtype) {
  if constexpr (!std::is_void_v<T>) return to_float(static_cast<const T*>(base)[at]);
  else return dtype == DType::F32 ? static_cast<const float*>(base)[at] : to_float(static_cast<const bf16*>(base)[at]);
}
template <class T>
__device__ __forceinline__ void store_as(void* base, int64_t at, DType dtype, float v) {
  if constexpr (!std::is_void_v<T>) static_cast<T*>(base)[at] = from_float<T>(v);
  else store_operand(base, at, dtype, v);
}

}  // namespace hd
