// Kernels of exchange.h. One block per multiprocessor is meant; polling never sleeps.
#pragma once
#include "cluster.h"
#include "exchange.h"

namespace hd::micro {

__global__ void __launch_bounds__(EXCHANGE_THREADS) exchange_flags_kernel(const ExchangeArgs a) {
  const uint32_t block = blockIdx.x, blocks = gridDim.x, thread = threadIdx.x;
  const uint32_t share = EXCHANGE_WORDS / blocks;
  float total = 0;
  for (int32_t s = 0; s < a.steps; ++s) {
    const uint32_t phase = a.first + uint32_t(s) + 1;
    float* slot = a.slots + HD_MUTATE(EXCHANGE_BUFFERS, (phase & 1), 0) * EXCHANGE_WORDS;
    for (uint32_t i = thread; i < share; i += EXCHANGE_THREADS) slot[block * share + i] = exchanged(phase, block);
    __syncthreads();
    if (thread == 0) store_release(a.flags + block, phase);
    if (thread < 32)
      for (uint32_t b = thread; b < HD_MUTATE(EXCHANGE_FLAGS, blocks, blocks / 2); b += 32)
        while (int32_t(load_acquire(a.flags + b) - phase) < 0) poll();
    __syncthreads();
    const float4* in = reinterpret_cast<const float4*>(slot);
#pragma unroll
    for (uint32_t i = 0; i < EXCHANGE_WORDS / 4 / EXCHANGE_THREADS; ++i) {
      const float4 v = load_l2(in + i * EXCHANGE_THREADS + thread);
      total += v.x + v.y + (v.z + v.w);
    }
  }
  a.sums[block * EXCHANGE_THREADS + thread] = total;
}

__global__ void __launch_bounds__(EXCHANGE_THREADS) exchange_words_kernel(const ExchangeArgs a) {
  constexpr uint32_t EACH = EXCHANGE_WORDS / EXCHANGE_THREADS;
  const uint32_t block = blockIdx.x, thread = threadIdx.x, share = EXCHANGE_WORDS / gridDim.x;
  float total = 0;
  for (int32_t s = 0; s < a.steps; ++s) {
    const uint32_t phase = a.first + uint32_t(s) + 1;
    uint64_t* slot = a.words + (phase & 1) * EXCHANGE_WORDS;
    const uint64_t mine = uint64_t(phase) << 32 | __float_as_uint(exchanged(phase, block));
    for (uint32_t i = thread; i < share; i += EXCHANGE_THREADS) store_relaxed(slot + block * share + i, mine);
    uint64_t word[EACH];
    bool here = false;
    while (!here) {
      here = true;
#pragma unroll
      for (uint32_t i = 0; i < EACH; ++i) word[i] = load_relaxed(slot + i * EXCHANGE_THREADS + thread);
#pragma unroll
      for (uint32_t i = 0; i < EACH; ++i) {
        const uint32_t found = uint32_t(word[i] >> 32);
        here = here && found == HD_MUTATE(WORDS_PHASE, phase, found);
      }
      if (!here) poll();
    }
#pragma unroll
    for (uint32_t i = 0; i < EACH; ++i) total += __uint_as_float(uint32_t(word[i]));
    __syncthreads();  // nobody of this block publishes the next exchange before all have read this one
  }
  a.sums[block * EXCHANGE_THREADS + thread] = total;
}

__global__ void __launch_bounds__(EXCHANGE_THREADS) grid_barrier_kernel(const ExchangeArgs a) {
  for (int32_t s = 0; s < a.steps; ++s) hd_grid_sync();
  a.sums[blockIdx.x * EXCHANGE_THREADS + threadIdx.x] = float(a.steps);
}

__global__ void __launch_bounds__(EXCHANGE_THREADS) cluster_barrier_kernel(const ExchangeArgs a) {
#ifdef HD_HAS_CLUSTERS
  for (int32_t s = 0; s < a.steps; ++s) cluster_barrier();
#endif
  a.sums[blockIdx.x * EXCHANGE_THREADS + threadIdx.x] = float(a.steps);
}

// Warp w sends the block's 512 bytes to the blocks of rank w, w + 16, ...: 16 bytes a lane.
__global__ void __launch_bounds__(PUSH_THREADS) cluster_push_kernel(const ExchangeArgs a) {
#ifdef HD_HAS_CLUSTERS
  HD_DYN_SHARED(unsigned char, shared);
  const uint32_t rank = cluster_rank(), blocks = cluster_blocks(), thread = threadIdx.x, bytes = blocks * PUSH_BYTES;
  uint64_t* barriers = reinterpret_cast<uint64_t*>(shared + 2 * bytes);
  if (thread < 2) bytes_init(barriers + thread);
  cluster_barrier();
  float total = 0;
  for (int32_t s = 0; s < a.steps; ++s) {
    const uint32_t phase = a.first + uint32_t(s) + 1, buffer = uint32_t(s) & 1;
    unsigned char* slot = shared + HD_MUTATE(PUSH_BUFFERS, buffer, 0) * bytes;
    if (thread == 0) expect(barriers + buffer, bytes);
    const uint32_t word = __float_as_uint(exchanged(phase, rank));
    for (uint32_t to = thread / 32; to < blocks; to += PUSH_THREADS / 32)
      push16(slot + rank * PUSH_BYTES + thread % 32 * 16, barriers + buffer, to, make_uint4(word, word, word, word));
    wait_bytes(barriers + buffer, uint32_t(s) >> 1 & 1);
    for (uint32_t i = thread * 16; i < bytes; i += PUSH_THREADS * 16) {
      const float4 v = *reinterpret_cast<const float4*>(slot + i);
      total += v.x + v.y + (v.z + v.w);
    }
    __syncthreads();  // as in exchange_words_kernel
  }
  cluster_barrier();  // shared memory must not go while others still write to it
  a.sums[blockIdx.x * PUSH_THREADS + thread] = total;
#endif
}

__global__ void __launch_bounds__(L2_THREADS) l2_read_kernel(const L2Args a) {
  const int64_t thread = int64_t(blockIdx.x) * L2_THREADS + threadIdx.x, threads = int64_t(gridDim.x) * L2_THREADS;
  const float4* in = reinterpret_cast<const float4*>(a.data);
  float4 total = make_float4(0, 0, 0, 0);
  for (int32_t r = 0; r < a.repeats; ++r) {
#pragma unroll 8
    for (int64_t i = thread; i < a.floats / 4; i += threads) {
      const float4 v = load_l2(in + i);
      total.x += v.x, total.y += v.y, total.z += v.z, total.w += v.w;
    }
  }
  a.sums[thread] = total.x + total.y + (total.z + total.w);
}

}  // namespace hd::micro
