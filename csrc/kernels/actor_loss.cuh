// Kernels of actor_loss; equations in actor_loss.h.
//
// Tiling: a policy has at most 18 actions in Atari, so half a warp takes a row: 16 rows per block of 256
// threads, loads of 64 consecutive bytes, sums by 4 shuffles inside the half. Rows of any length work, 16
// logits a turn.
#pragma once
#include "device/hd_reduce.h"
#include "kernels/actor_loss.h"

namespace hd {

constexpr int ACTOR_THREADS = 256;
constexpr int ACTOR_LANES = 16;                          // threads per row
constexpr int ACTOR_ROWS = ACTOR_THREADS / ACTOR_LANES;  // rows per block

__global__ void __launch_bounds__(ACTOR_THREADS) actor_loss_fwd_kernel(ActorLossArgs a) {
  const int lane = int(threadIdx.x) % ACTOR_LANES;
  const int64_t n = int64_t(blockIdx.x) * ACTOR_ROWS + threadIdx.x / ACTOR_LANES;
  const float* row = a.logit + n * a.actions;
  float ent = 0.f;
  if (n < a.rows)  // both halves of a warp take part in the shuffles
    for (int64_t k = lane; k < a.actions; k += ACTOR_LANES) ent -= expf(row[k]) * row[k];
#pragma unroll
  for (int step = HD_MUTATE(ACTOR_OTHER_ROW, ACTOR_LANES / 2, ACTOR_LANES); step > 0; step /= 2)
    ent += __shfl_xor_sync(0xffffffffu, ent, step);
  if (n >= a.rows || lane != 0) return;
  const int64_t action = a.action[n];
  const float logp = action >= 0 && action < a.actions ? row[action] : NAN;
  a.logp[n] = logp;
  a.ent[n] = ent;
  a.loss[n] = a.weight[n] * (-logp * a.advantage[n] - a.entropy * ent);
}

__global__ void __launch_bounds__(ACTOR_THREADS) actor_loss_bwd_kernel(ActorLossArgs a) {
  const int lane = int(threadIdx.x) % ACTOR_LANES;
  const int64_t n = int64_t(blockIdx.x) * ACTOR_ROWS + threadIdx.x / ACTOR_LANES;
  if (n >= HD_MUTATE(ACTOR_LAST_ROW, a.rows, a.rows - 1)) return;
  const float* row = a.logit + n * a.actions;
  const float scaled = a.dloss[n] * a.weight[n];
  const float to_logp = (a.dlogp ? a.dlogp[n] : 0.f) - scaled * a.advantage[n];
  const float to_ent = (a.dent ? a.dent[n] : 0.f) - scaled * a.entropy;
  const int64_t action = a.action[n];
  for (int64_t k = lane; k < a.actions; k += ACTOR_LANES)
    a.dlogit[n * a.actions + k] =
        (k == action ? to_logp : 0.f) - to_ent * expf(row[k]) * (row[k] + HD_MUTATE(ACTOR_ENTROPY, 1.f, 0.f));
}

}  // namespace hd
