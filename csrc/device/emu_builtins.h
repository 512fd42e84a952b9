// emu_builtins.h -- the names kernels use: threadIdx, barriers, shuffles, atomics, intrinsics, launch macros.
#pragma once
#include <cmath>

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
inline void hd_spin_pause() { hd::emu::spin_pause(); }

// Barriers and collectives know where they are called.
#define HD_EMU_HERE hd::emu::Place place = hd::emu::Place::current()
inline void hd_grid_sync(HD_EMU_HERE) { hd::emu::sync_grid(place); }
inline void __syncthreads(HD_EMU_HERE) { hd::emu::sync_block(place); }
inline int __syncthreads_or(int p, HD_EMU_HERE) { return hd::emu::sync_block(place, p) != 0; }
inline void __syncwarp(HD_EMU_HERE) { hd::emu::sync_warp(place); }
inline unsigned __ballot_sync(unsigned mask, int p, HD_EMU_HERE) { return hd::emu::ballot(mask, p, place); }
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, HD_EMU_HERE) {
  return hd::emu::shuffle(mask, value, source & 31, place);
}
template <class T>  // a source out of range means one's own value
inline T __shfl_xor_sync(unsigned mask, T value, int bits, HD_EMU_HERE) {
  const int me = int(hd::emu::lane()), source = me ^ bits;
  return hd::emu::shuffle(mask, value, source < 32 ? source : me, place);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, int by, HD_EMU_HERE) {
  const int me = int(hd::emu::lane());
  return hd::emu::shuffle(mask, value, me < by ? me : me - by, place);
}
#undef HD_EMU_HERE

template <class T>
inline T atomicAdd(T* p, T v) {
  return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned __float_as_uint(float f) { return std::bit_cast<unsigned>(f); }
inline float __uint_as_float(unsigned i) { return std::bit_cast<float>(i); }
using std::max;
using std::min;
