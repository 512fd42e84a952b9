// hd.h -- the one include of every kernel: CUDA C++ under nvcc, the same dialect emulated under g++.
//
// Sources obey five rules so that one text serves both compilers:
//   * shared memory through HD_SHARED(T, name, [N][M]) and HD_DYN_SHARED(T, name);
//   * launches through HD_LAUNCH / HD_LAUNCH_COOP (a kernel template is named through a function pointer
//   first);
//   * hd_grid_sync() for a grid barrier, hd_spin_pause() inside every spin loop;
//   * no inline PTX outside small wrappers that have an emulation beside it;
//   * warp collectives and barriers written as direct calls: under emulation they record file:line.
#pragma once
#include <cstdint>

#include "hd_fn.h"

struct CUstream_st;  // what cudaStream_t points to
using hdStream = CUstream_st*;

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#define HD_SHARED(T, name, dims) __shared__ T name dims
#define HD_DYN_SHARED(T, name)                                     \
  extern __shared__ __align__(128) unsigned char hd_dyn_shared_[]; \
  T* name = reinterpret_cast<T*>(hd_dyn_shared_)

namespace hd {
inline void check_launch(cudaError_t error, const char* kernel, const char* file, int line) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("hdfast: launch of ") + kernel + " failed: " + cudaGetErrorString(error) +
                             " (" + file + ":" + std::to_string(line) + ")");
}
// Cooperative launch with the kernel's exact parameter types: `args` are converted before their addresses are
// taken.
template <class... P, class... A>
inline cudaError_t launch_cooperative(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t stream,
                                      A... args) {
  return [&](P... exact) {
    void* pointers[sizeof...(P) + 1] = {const_cast<void*>(static_cast<const void*>(&exact))...};
    return cudaLaunchCooperativeKernel(reinterpret_cast<void*>(kernel), grid, block, pointers, smem, stream);
  }(static_cast<P>(args)...);
}
}  // namespace hd

#define HD_LAUNCH(kernel, grid, block, smem, stream, ...)                \
  do {                                                                   \
    (kernel)<<<(grid), (block), (smem), (stream)>>>(__VA_ARGS__);        \
    ::hd::check_launch(cudaGetLastError(), #kernel, __FILE__, __LINE__); \
  } while (0)
#define HD_LAUNCH_COOP(kernel, grid, block, smem, stream, ...)                                                    \
  ::hd::check_launch(::hd::launch_cooperative(kernel, grid, block, smem, stream, __VA_ARGS__), #kernel, __FILE__, \
                     __LINE__)

#ifdef HD_USE_GRID_SYNC  // defined by the files that need it before this include: the header takes a second
                         // to parse
#include <cooperative_groups.h>
__device__ __forceinline__ void hd_grid_sync() { cooperative_groups::this_grid().sync(); }
#endif
__device__ __forceinline__ void hd_spin_pause() { __nanosleep(40); }

#else
#include "emu.h"
#endif

namespace hd {

using bf16 = __nv_bfloat16;

HD_FN int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// N elements (a power of two) moved by one instruction when they fill 4, 8 or 16 bytes, by several of 16
// beyond.
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T at[N];
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}

// N consecutive elements at `p`, aligned as Pack<T, N>, widened to float.
template <int N, class T>
__device__ __forceinline__ void load(const T* p, float (&out)[N]) {
  Pack<T, N> v = *reinterpret_cast<const Pack<T, N>*>(p);
#pragma unroll
  for (int i = 0; i < N; ++i) out[i] = to_float(v.at[i]);
}

template <int N, class T>
__device__ __forceinline__ void store(T* p, const float (&in)[N]) {
  Pack<T, N> v;
#pragma unroll
  for (int i = 0; i < N; ++i) v.at[i] = from_float<T>(in[i]);
  *reinterpret_cast<Pack<T, N>*>(p) = v;
}

// Whether `bytes`-wide accesses are legal for every pointer given (null counts as aligned: it is not
// accessed).
template <class... P>
HD_FN bool aligned(int bytes, const P*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % bytes == 0) && ...);
}

}  // namespace hd
