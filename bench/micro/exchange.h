// exchange.h -- how fast thread blocks can hand data to each other: the exchanges that a persistent scan would
// do several times a step, each repeated `steps` times in one launch.
//
// All to all: every block publishes its share of `words` floats and then reads all of them. The shares of one
// exchange differ from those of the next, and every thread adds up what it read, so that a late, lost or early
// word shows in `sums`. Slots are double buffered: who writes exchange s + 2 has seen everybody's s + 1, which
// comes after everybody's reading of s.
//   flags    data by ordinary stores, then one flag a block (release), polled by one warp (acquire)
//   words    flag in the data: 8 bytes hold a float and the number of the exchange, and are polled themselves
//   push     inside a cluster: each block writes its share into the shared memory of all (st.async, mbarrier)
//   barrier  a grid's (or a cluster's) barrier alone
#pragma once
#include <cstdint>

#include "device/hd.h"
#include "device/hd_fn.h"

namespace hd::micro {

constexpr int EXCHANGE_THREADS = 256;
constexpr int EXCHANGE_WORDS = 4096;  // 16 KiB: 16 rows of 512 in bfloat16
constexpr int PUSH_THREADS = 512;
constexpr int PUSH_BYTES = 512;  // that each block of a cluster sends to every block
constexpr int L2_THREADS = 512;

// What block `block` publishes in exchange `phase`: a small integer, so that sums are exact in any order.
HD_FN float exchanged(uint32_t phase, uint32_t block) { return float((phase * 7 + block * 3) % 31); }

struct ExchangeArgs {
  uint32_t* flags;  // (blocks,), one 128-byte line for 32 of them
  float* slots;     // (2, EXCHANGE_WORDS)
  uint64_t* words;  // (2, EXCHANGE_WORDS)
  float* sums;      // (blocks, threads): what each thread added up
  uint32_t first;   // exchanges done before this launch: flags and words are counters that no launch resets
  int32_t steps;
};

struct L2Args {
  const float* data;  // (floats,)
  float* sums;        // (blocks * L2_THREADS,)
  int64_t floats;     // a multiple of 4
  int32_t repeats;
};

// Blocks must divide EXCHANGE_WORDS; all of them are resident at once.
void launch_exchange_flags(const ExchangeArgs& args, unsigned blocks, hdStream stream);
void launch_exchange_words(const ExchangeArgs& args, unsigned blocks, hdStream stream);
void launch_grid_barrier(const ExchangeArgs& args, unsigned blocks, hdStream stream);
// blocks: a multiple of `cluster`; emulated, one cluster is the whole grid. sm_90.
void launch_cluster_push(const ExchangeArgs& args, unsigned blocks, unsigned cluster, hdStream stream);
void launch_cluster_barrier(const ExchangeArgs& args, unsigned blocks, unsigned cluster, hdStream stream);
// Reads all of `data` `repeats` times, past the first-level cache.
void launch_l2_read(const L2Args& args, unsigned blocks, hdStream stream);

}  // namespace hd::micro
