// operand.cuh -- stores of what a matrix product reads next, in the product's type: float values become
// bfloat16 operands without a pass of their own.
#pragma once
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

}  // namespace hd
