// hd_mma.h -- tensor-core multiply-accumulate with the PTX fragment layouts.
//
// mma_m16n8k16: D[16x8] += A[16x16] * B[16x8], bf16 operands (two per register, lower k in the low half),
// fp32 sums. With g = lane / 4 and t = lane % 4:
//   a[0..3]  rows g, g+8, g, g+8;  columns 2t..2t+1 (a[0], a[1]) and 2t+8..2t+9 (a[2], a[3])
//   b[0..1]  rows 2t..2t+1 and 2t+8..2t+9 of column g
//   d[0..3]  (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1)
// The emulation exchanges the fragments through a warp collective, so index arithmetic around it is really
// tested.
#pragma once
#include "hd.h"

namespace hd {

__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDACC__
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
               "{%0,%1,%2,%3};\n"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  struct Fragment {
    uint32_t a[4], b[2];
  } mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  emu::Quiet quiet;
  emu::Lanes lanes = emu::exchange(0xffffffffu, mine, __FILE__, __LINE__);
  auto half = [](uint32_t word, unsigned k) { return __uint_as_float(k & 1 ? word & 0xffff0000u : word << 16); };
  unsigned lane = emu::lane(), group = lane / 4, pair = lane % 4;
  for (unsigned i = 0; i < 4; ++i) {
    unsigned row = group + 8 * (i / 2), column = pair * 2 + i % 2;
    for (unsigned k = 0; k < 16; ++k) {
      Fragment left, right;
      memcpy(&left, lanes[(row % 8) * 4 + k % 8 / 2], sizeof left);
      memcpy(&right, lanes[column * 4 + k % 8 / 2], sizeof right);
      d[i] += half(left.a[row / 8 + 2 * (k / 8)], k) * half(right.b[k / 8], k);
    }
  }
#endif
}

}  // namespace hd
