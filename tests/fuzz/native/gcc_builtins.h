// gcc_builtins.h -- included before every file: what the CPU kernels take from GCC and clang 14 lacks.
#pragma once
template <class Vector, class Mask>
inline __attribute__((always_inline)) Vector __builtin_shuffle(Vector a, Vector b, Mask mask) {
  constexpr unsigned LANES = sizeof(Vector) / sizeof(a[0]);
  Vector out;
  for (unsigned i = 0; i < LANES; ++i) {
    const unsigned lane = unsigned(mask[i]) % (2 * LANES);
    out[i] = lane < LANES ? a[lane] : b[lane - LANES];
  }
  return out;
}
