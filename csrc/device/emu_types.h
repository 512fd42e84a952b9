// emu_types.h -- CUDA's qualifiers, vector types and bf16 for g++.
#pragma once
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __grid_constant__

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x, y, z;
};

#define HD_EMU_VECTOR(T, Two, Four)                  \
  struct alignas(2 * sizeof(T)) Two {                \
    T x, y;                                          \
  };                                                 \
  struct alignas(4 * sizeof(T)) Four {               \
    T x, y, z, w;                                    \
  };                                                 \
  inline Two make_##Two(T x, T y) { return {x, y}; } \
  inline Four make_##Four(T x, T y, T z, T w) { return {x, y, z, w}; }
HD_EMU_VECTOR(float, float2, float4)
HD_EMU_VECTOR(int, int2, int4)
HD_EMU_VECTOR(unsigned, uint2, uint4)
#undef HD_EMU_VECTOR

// bfloat16: the upper half of a float, rounded to nearest even; every NaN becomes 0x7fff, as on the device.
struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float value) {
    uint32_t b;
    memcpy(&b, &value, 4);
    bool nan = (b & 0x7fffffffu) > 0x7f800000u;
    bits = nan ? uint16_t(0x7fff) : uint16_t((b + 0x7fffu + ((b >> 16) & 1u)) >> 16);
  }
  operator float() const {
    uint32_t b = uint32_t(bits) << 16;
    float value;
    memcpy(&value, &b, 4);
    return value;
  }
};
inline float __bfloat162float(__nv_bfloat16 b) { return float(b); }
inline __nv_bfloat16 __float2bfloat16_rn(float f) { return __nv_bfloat16(f); }

struct CUstream_st;
using cudaStream_t = CUstream_st*;
using cudaError_t = int;
constexpr int cudaSuccess = 0;
