// emu_builtins.h -- the names kernels use: threadIdx, barriers, shuffles, atomics, intrinsics, launch macros.
#pragma once
#include <cmath>
#include <type_traits>

#include "emu_launch.h"

#define threadIdx (::hd::emu::current->thread)
#define blockIdx (::hd::emu::current->block->index)
#define blockDim (::hd::emu::engine->block)
#define gridDim (::hd::emu::engine->grid)

#define HD_SHARED(T, name, dims) \
  static char name##_shared_tag; \
  T(&name) dims = *reinterpret_cast<T(*) dims>(::hd::emu::shared_variable(&name##_shared_tag, sizeof(T dims)))
#define HD_DYN_SHARED(T, name) T* name = static_cast<T*>(::hd::emu::current->block->dynamic)
#define HD_LAUNCH(kernel, grid, block, smem, stream, ...) \
  ::hd::emu::launch(kernel, grid, block, smem, stream, false, __VA_ARGS__)
#define HD_LAUNCH_COOP(kernel, grid, block, smem, stream, ...) \
  ::hd::emu::launch(kernel, grid, block, smem, stream, true, __VA_ARGS__)
#define hd_grid_sync() ::hd::emu::sync_grid(__FILE__, __LINE__)
inline void hd_spin_pause() { hd::emu::spin_pause(); }

#define __syncthreads() ((void)::hd::emu::sync_block(__FILE__, __LINE__))
#define __syncthreads_count(p) ::hd::emu::sync_block(__FILE__, __LINE__, bool(p))
#define __syncthreads_or(p) int(::hd::emu::sync_block(__FILE__, __LINE__, bool(p)) != 0)
#define __syncthreads_and(p) int(::hd::emu::sync_block(__FILE__, __LINE__, !(p)) == 0)

#define HD_EMU_FIRST(a, ...) a
#define HD_EMU_MASK(...) HD_EMU_FIRST(__VA_ARGS__ __VA_OPT__(, ) 0xffffffffu)
#define HD_EMU_WIDTH(...) HD_EMU_FIRST(__VA_ARGS__ __VA_OPT__(, ) 32)
#define HD_EMU_SHUFFLE(mask, value, source) ::hd::emu::shuffle(mask, value, ::hd::emu::source, __FILE__, __LINE__)
#define __syncwarp(...) ::hd::emu::sync_warp(HD_EMU_MASK(__VA_ARGS__), __FILE__, __LINE__)
#define __shfl_sync(m, v, s, ...) HD_EMU_SHUFFLE(m, v, source_index(s, HD_EMU_WIDTH(__VA_ARGS__)))
#define __shfl_xor_sync(m, v, s, ...) HD_EMU_SHUFFLE(m, v, source_xor(s, HD_EMU_WIDTH(__VA_ARGS__)))
#define __shfl_down_sync(m, v, s, ...) HD_EMU_SHUFFLE(m, v, source_down(s, HD_EMU_WIDTH(__VA_ARGS__)))
#define __shfl_up_sync(m, v, s, ...) HD_EMU_SHUFFLE(m, v, source_up(s, HD_EMU_WIDTH(__VA_ARGS__)))
#define __ballot_sync(m, p) ::hd::emu::ballot(m, bool(p), __FILE__, __LINE__)

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

template <class T>
inline T atomicExch(T* p, T value) {
  T old;
  __atomic_exchange(p, &value, &old, __ATOMIC_RELAXED);
  return old;
}
template <class T, class F>
inline T hd_emu_update(T* p, F next) {
  T old, desired;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  do desired = next(old);
  while (!__atomic_compare_exchange(p, &old, &desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}
template <class T>
inline T atomicAdd(T* p, T v) {
  return hd_emu_update(p, [v](T o) { return T(o + v); });
}
template <class T>
inline T atomicMax(T* p, T v) {
  return hd_emu_update(p, [v](T o) { return o < v ? v : o; });
}

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __float_as_int(float f) {
  int i;
  memcpy(&i, &f, 4);
  return i;
}
inline float __int_as_float(int i) {
  float f;
  memcpy(&f, &i, 4);
  return f;
}
inline unsigned __float_as_uint(float f) { return unsigned(__float_as_int(f)); }
inline float __uint_as_float(unsigned i) { return __int_as_float(int(i)); }
using std::max;
using std::min;
