// Kernel of replay_gather; equation in replay_gather.h.
//
// Tiling: one block of 256 threads per image, four bytes in and one float4 out a thread and turn: 128 B read
// and 512 B written per warp, both coalesced. Images whose size or place is not a multiple of 4 go one value at a
// time. Bandwidth-bound: 63 MB for 1024 frames of 64x64x3. The division is one: a product with 1/255 would
// differ in the last bit.
#pragma once
#include "device/hd.h"
#include "kernels/replay_gather.h"

namespace hd {

constexpr int GATHER_THREADS = 256;

__global__ void __launch_bounds__(GATHER_THREADS) replay_gather_kernel(ReplayGatherArgs a) {
  const int64_t n = blockIdx.x, tid = threadIdx.x, row = a.index[n];
  float* out = a.out + n * a.cols;
  if (row < 0 || row >= HD_MUTATE(GATHER_EDGE, a.capacity, a.capacity + 1)) {
    for (int64_t i = tid; i < a.cols; i += GATHER_THREADS) out[i] = NAN;
    return;
  }
  const uint8_t* in = a.ring + HD_MUTATE(GATHER_32_BITS, row * a.cols, uint32_t(row * a.cols));
  if (a.cols % 4 == 0 && aligned(4, in) && aligned(16, out)) {
    for (int64_t i = 4 * tid; i < a.cols; i += 4 * GATHER_THREADS) {
      const uint32_t v = *reinterpret_cast<const uint32_t*>(in + i);  // little-endian: first value in the low byte
      *reinterpret_cast<float4*>(out + i) =
          make_float4(float(v & 255u) / 255.f, float(v >> HD_MUTATE(GATHER_BYTE, 8, 16) & 255u) / 255.f,
                      float(v >> 16 & 255u) / 255.f, float(v >> 24) / 255.f);
    }
  } else {
    for (int64_t i = tid; i < a.cols; i += GATHER_THREADS) out[i] = float(in[i]) / 255.f;
  }
}

}  // namespace hd
