// cluster.h -- what the exchanges need of the memory model: release and acquire, loads past the first-level
// cache, and for clusters (sm_90) remote shared memory with its barriers. Emulated, the whole grid is one cluster.
#pragma once
#include "device/hd.h"

namespace hd::micro {

// ---- global memory, the whole GPU ----------------------------------------------------------------------------

__device__ __forceinline__ void store_release(uint32_t* p, uint32_t v) {
#ifdef __CUDACC__
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
#else
  __atomic_store_n(p, v, __ATOMIC_RELEASE);
#endif
}
__device__ __forceinline__ uint32_t load_acquire(const uint32_t* p) {
#ifdef __CUDACC__
  uint32_t v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
#else
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
#endif
}
__device__ __forceinline__ void store_relaxed(uint64_t* p, uint64_t v) {
#ifdef __CUDACC__
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
#else
  __atomic_store_n(p, v, __ATOMIC_RELAXED);
#endif
}
__device__ __forceinline__ uint64_t load_relaxed(const uint64_t* p) {
#ifdef __CUDACC__
  uint64_t v;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
  return v;
#else
  return __atomic_load_n(p, __ATOMIC_RELAXED);
#endif
}
__device__ __forceinline__ float4 load_l2(const float4* p) {
#ifdef __CUDACC__
  return __ldcg(p);
#else
  return *p;
#endif
}
// In a loop that polls: nothing on the device, where waiting would be part of what is measured.
__device__ __forceinline__ void poll() {
#ifndef __CUDACC__
  hd_spin_pause();
#endif
}

// ---- clusters ------------------------------------------------------------------------------------------------
#if !defined(__CUDACC__) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
#define HD_HAS_CLUSTERS 1

__device__ __forceinline__ uint32_t cluster_rank() {
#ifdef __CUDACC__
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
#else
  return blockIdx.x;
#endif
}
__device__ __forceinline__ uint32_t cluster_blocks() {
#ifdef __CUDACC__
  uint32_t n;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(n));
  return n;
#else
  return gridDim.x;
#endif
}
__device__ __forceinline__ void cluster_barrier() {
#ifdef __CUDACC__
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  hd_grid_sync();
#endif
}

// A barrier in shared memory with one arrival, the owner's `expect`, and bytes that others complete by `push16`.
#ifdef __CUDACC__
__device__ __forceinline__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }
__device__ __forceinline__ uint32_t remote_address(uint32_t local, uint32_t rank) {
  uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(local), "r"(rank));
  return remote;
}
__device__ __forceinline__ void bytes_init(uint64_t* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void wait_bytes(uint64_t* barrier, uint32_t parity) {
  uint32_t done;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (!done);
}
__device__ __forceinline__ void push16(void* slot, uint64_t* barrier, uint32_t rank, uint4 v) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                   remote_address(shared_address(slot), rank)),
               "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(remote_address(shared_address(barrier), rank))
               : "memory");
}
#else
// The barrier's word: phases completed in the upper half, then bytes expected and not yet here, both modulo 2^31;
// bit 31 tells whether the owner has said what it expects.
inline void account(uint64_t* barrier, uint32_t bytes, bool armed) {
  uint64_t old = __atomic_load_n(barrier, __ATOMIC_RELAXED), next;
  do {
    uint32_t low = uint32_t(old), missing = (low + bytes) & 0x7fffffffu;
    uint32_t said = armed ? 0x80000000u : low & 0x80000000u;
    next = said && !missing ? ((old >> 32) + 1) << 32 : (old >> 32 << 32 | said | missing);
  } while (!__atomic_compare_exchange_n(barrier, &old, next, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
}
inline void bytes_init(uint64_t* barrier) { __atomic_store_n(barrier, 0, __ATOMIC_RELAXED); }
inline void expect(uint64_t* barrier, uint32_t bytes) { account(barrier, bytes, true); }
inline void wait_bytes(uint64_t* barrier, uint32_t parity) {
  while ((__atomic_load_n(barrier, __ATOMIC_ACQUIRE) >> 32 & 1) == parity) hd_spin_pause();
}
template <class T>
T* remote(T* local, uint32_t rank) {  // the same place in another block's dynamic shared memory
  emu::Quiet quiet;
  for (emu::Block& block : emu::engine->blocks)
    if (block.index.x == rank && block.dynamic)
      return reinterpret_cast<T*>(static_cast<char*>(block.dynamic) +
                                  (reinterpret_cast<char*>(local) -
                                   static_cast<char*>(emu::current->block->dynamic)));
  throw std::runtime_error("emulator: no such block in the cluster");
}
inline void push16(void* slot, uint64_t* barrier, uint32_t rank, uint4 v) {
  memcpy(remote(static_cast<char*>(slot), rank), &v, 16);
  account(remote(barrier, rank), -16u, false);
}
#endif
#endif

}  // namespace hd::micro
