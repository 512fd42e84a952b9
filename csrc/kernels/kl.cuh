// Kernels of kl; equations in kl.h.
//
// Tiling: one block of eight warps per row, one warp per group at a time (four turns for 32 groups). The
// gradients need the row's KL, hence two passes with a block sum between; the second reads the 8 KiB of the
// row again from L1 rather than keep 4 groups x 2 distributions a lane in registers, and a block of 256 keeps
// eight rows in flight on an SM.
#pragma once
#include "kernels/categorical.cuh"
#include "kernels/kl.h"

namespace hd {

constexpr int KL_THREADS = 256;
constexpr int KL_WARPS = KL_THREADS / 32;

template <class T, int ITER>
__global__ void __launch_bounds__(KL_THREADS) balanced_kl_kernel(BalancedKlArgs a) {
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int64_t row = blockIdx.x;

  float sum = 0.f;
  for (int64_t g = warp; g < a.groups; g += KL_WARPS) {
    const int64_t base = (row * a.groups + g) * a.classes;
    const Categorical<ITER> p = categorical<ITER, T>(a.post, base, a.dtype, a.classes, 0.f, true);
    const Categorical<ITER> q = categorical<ITER, T>(a.prior, base, a.dtype, a.classes, 0.f, true);
#pragma unroll
    for (int i = 0; i < ITER; ++i) sum += p.q[i] * (p.logq[i] - q.logq[i]);
  }
  const float kl = block_sum<KL_THREADS>(sum);
  const bool on = !(kl < a.free_nats);  // a KL that is not a number must not hide behind the free nats
  if (threadIdx.x == 0) {
    const float loss = on ? kl : a.free_nats;
    if (a.dyn != nullptr) a.dyn[row] = loss;
    if (a.rep != nullptr) a.rep[row] = loss;
    if (a.kl != nullptr) a.kl[row] = kl;
  }
  if (a.dpost == nullptr && a.dprior == nullptr) return;

  const float pass = HD_MUTATE(KL_FREE_NATS, on ? 1.f : 0.f, 1.f);
  const float ddyn = pass * (a.ddyn != nullptr ? a.ddyn[row] : 1.f);
  const float drep = pass * (a.drep != nullptr ? a.drep[row] : 1.f);
  for (int64_t g = warp; g < a.groups; g += KL_WARPS) {
    const int64_t base = (row * a.groups + g) * a.classes;
    const Categorical<ITER> p = categorical<ITER, T>(a.post, base, a.dtype, a.classes, 0.f, true);
    const Categorical<ITER> q = categorical<ITER, T>(a.prior, base, a.dtype, a.classes, 0.f, true);
#pragma unroll
    for (int i = 0; i < ITER; ++i) {
      const int64_t k = i * 32 + lane;
      if (k >= a.classes) continue;
      const float gap = p.logq[i] - HD_MUTATE(KL_GAP, q.logq[i], -q.logq[i]);
      if (a.dpost != nullptr) store_as<T>(a.dpost, base + k, a.dtype, drep * p.q[i] * (gap + 1.f));
      if (a.dprior != nullptr) store_as<T>(a.dprior, base + k, a.dtype, -ddyn * p.q[i]);
    }
  }
}

}  // namespace hd
