// Kernel of return_range; equations in return_range.h.
//
// One block of 1024 threads selects all four ranks at once: per pass a histogram of the next 8 bits for each
// rank, of the keys that agree with the digits found so far (integer atomics in shared memory: the counts are
// exact in any order), then one warp per rank scans its 256 counters, 8 a lane. Ranks that agree so far count
// the same keys twice; with 15 values a thread and pass that is cheaper than telling them apart.
#pragma once
#include "device/hd.h"
#include "kernels/return_range_math.h"

namespace hd {

constexpr int RANGE_THREADS = 1024;
constexpr int RANGE_BINS = 256;  // 8 bits a pass
constexpr int RANGE_LANE_BINS = RANGE_BINS / 32;

__global__ void __launch_bounds__(RANGE_THREADS) return_range_kernel(ReturnRangeArgs a) {
  HD_SHARED(unsigned, count, [RANGE_RANKS][RANGE_BINS]);
  HD_SHARED(uint32_t, prefix, [RANGE_RANKS]);  // digits found so far, in place
  HD_SHARED(unsigned, left, [RANGE_RANKS]);    // rank among the keys of that prefix
  const int tid = int(threadIdx.x), lane = tid % 32, warp = tid / 32;
  if (tid == 0) {
#pragma unroll
    for (int r = 0; r < RANGE_RANKS; ++r) {
      prefix[r] = 0;
      left[r] = unsigned(a.rank[r]);
    }
  }
  int bad = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = tid; i < RANGE_RANKS * RANGE_BINS; i += RANGE_THREADS) count[i / RANGE_BINS][i % RANGE_BINS] = 0;
    __syncthreads();
    const uint32_t known = shift == 24 ? 0u : ~0u << (shift + 8);
    for (int64_t i = tid; i < a.size; i += RANGE_THREADS) {
      const float x = a.ret[i];
      bad |= HD_MUTATE(RANGE_FINITE, !is_finite(x), x != x);
      const uint32_t key = float_key(x);
      for (int r = 0; r < RANGE_RANKS; ++r)
        if ((key & known) == prefix[r]) atomicAdd(&count[r][key >> shift & (RANGE_BINS - 1)], 1u);
    }
    if (HD_MUTATE(RANGE_BARRIER, true, false)) __syncthreads();
    if (warp < RANGE_RANKS) {
      const int first = lane * RANGE_LANE_BINS;
      unsigned own = 0;
      for (int b = 0; b < RANGE_LANE_BINS; ++b) own += count[warp][first + b];
      unsigned before = own;  // becomes the number of keys in lower lanes
      for (int step = 1; step < 32; step *= 2) {
        const unsigned lower = __shfl_up_sync(0xffffffffu, before, step);
        if (lane >= step) before += lower;
      }
      before -= own;
      const unsigned rank = left[warp];
      __syncwarp();  // every lane has read the rank before its owner overwrites it
      if (rank >= before && rank < before + own) {
        int b = first;
        for (; rank >= before + count[warp][b]; ++b) before += count[warp][b];
        prefix[warp] |= uint32_t(b) << shift;
        left[warp] = HD_MUTATE(RANGE_RANK, rank - before, rank);
      }
    }
    __syncthreads();
  }
  bad = __syncthreads_or(bad);
  if (tid != 0) return;
  float order[RANGE_RANKS];
#pragma unroll
  for (int r = 0; r < RANGE_RANKS; ++r) order[r] = key_float(prefix[r]);
  range_finish(a, order, bad != 0);
}

}  // namespace hd
