// emu_types.h -- CUDA's qualifiers, vector types and bf16 for g++.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x, y, z;
};

#define HD_EMU_VECTOR(T, Four)         \
  struct alignas(4 * sizeof(T)) Four { \
    T x, y, z, w;                      \
  };                                   \
  inline Four make_##Four(T x, T y, T z, T w) { return {x, y, z, w}; }
HD_EMU_VECTOR(float, float4)
HD_EMU_VECTOR(unsigned, uint4)
#undef HD_EMU_VECTOR

// bfloat16: the upper half of a float, rounded to nearest even; every NaN becomes 0x7fff, as on the device.
struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float value) {
    const uint32_t b = std::bit_cast<uint32_t>(value);
    const bool nan = (b & 0x7fffffffu) > 0x7f800000u;
    bits = nan ? uint16_t(0x7fff) : uint16_t((b + 0x7fffu + ((b >> 16) & 1u)) >> 16);
  }
  operator float() const { return std::bit_cast<float>(uint32_t(bits) << 16); }
};
inline float __bfloat162float(__nv_bfloat16 b) { return float(b); }
inline __nv_bfloat16 __float2bfloat16_rn(float f) { return __nv_bfloat16(f); }

struct CUstream_st;
using cudaStream_t = CUstream_st*;
using cudaError_t = int;
constexpr int cudaSuccess = 0;
