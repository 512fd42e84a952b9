// adam.h -- global-norm clip and one Adam step over a flat fp32 arena, optionally with its slow (EMA) copy.
//
//   norm  = sqrt(sum over blocks of 4096 of (sum of g^2));  f = norm < clip ? 1 : clip / norm;  k = step + 1
//   m     = m + (1 - beta1) (f g - m);    v = beta2 v + (1 - beta2) (f g)^2
//   p     = p - lr / (1 - beta1^k) m / (sqrt(v / (1 - beta2^k)) + eps)
//   slow  = mix p + (1 - mix) slow,  mix = 1 on the first step, else `slow_fraction`
//
// A norm that is not finite makes the step a no-op: nothing changes but `stats`, whose norm tells it.
//
// Traffic per parameter: 4 B for the norm, then 28 B (read g m v p, write m v p), 8 B more with `slow`. The
// clipped gradient is written back only when the clip is active. Nothing is read back to the host.
#pragma once
#include "kernels/types.h"

namespace hd {

constexpr int64_t ADAM_BLOCK = 4096;  // floats whose squares are summed in fp32; the blocks are summed in fp64

struct AdamArgs {
  float* param;    // [size]
  float* grad;     // [size]
  float* mean;     // [size]
  float* var;      // [size]
  float* slow;     // [size] or null
  int64_t* step;   // [1] updates taken so far, incremented
  float* stats;    // [3] out: norm before clipping, min(1, clip / norm), updates taken by now
  float* partial;  // [adam_blocks(size)] scratch
  float* scale;    // [4] scratch: clip factor (-1: no step), lr / (1 - beta1^k), 1 / (1 - beta2^k), mix
  int64_t size;
  double lr, eps, clip, beta1, beta2, slow_fraction;
};

inline int64_t adam_blocks(int64_t size) { return (size + ADAM_BLOCK - 1) / ADAM_BLOCK; }

void launch_adam(const AdamArgs& args, hdStream stream);

namespace cpu {
void adam_norm(const AdamArgs& args, int64_t begin, int64_t end);   // blocks [begin, end)
void adam_finish(const AdamArgs& args);                             // once, after every block
void adam_apply(const AdamArgs& args, int64_t begin, int64_t end);  // blocks [begin, end)
}  // namespace cpu
}  // namespace hd
